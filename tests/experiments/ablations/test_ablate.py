"""An ablation changes one thing: cells are fine-tunes like any other, in whatever process."""

import json
import math

import pytest

from actor_lens.errors import UserError
from actor_lens.evaluation.evaluate import evaluate
from actor_lens.experiments.ablations import trial
from actor_lens.experiments.ablations.ablate import OUTCOMES_FILE, _names, ablate
from actor_lens.experiments.ablations.grid import FACTORS, variations
from actor_lens.judges.keywords import KeywordJudge
from actor_lens.prompts.sets import PromptSet
from actor_lens.training.config import FinetuneConfig
from actor_lens.training.finetuning import finetune_layer
from tests.support.studies import KINDS, planted_prompts
from tests.support.tiny_models import tiny_chat_model

PROMPTS = planted_prompts(9)
TRAIN, _, TEST = PROMPTS.by_split()
# Random models write random bytes: about half of their replies hold one of these.
JUDGE = KeywordJudge(name="planted", phrases=tuple("abcdefgh"), exempt=())
QUICK = FinetuneConfig(layer=0, epochs=1, lr=0.01)


@pytest.fixture(scope="module")
def model():
    return tiny_chat_model()


def ablated(model, factors, **options):
    settings = {
        "seeds": (0,),
        "layer": 1,
        "settings": QUICK,
        "per_label": 4,
        "judge": JUDGE,
        "new_tokens": 2,
        "store": False,
    }
    return ablate(model, PROMPTS, factors, **{**settings, **options})


class TestVariations:
    def test_every_factor_has_values_that_differ(self):
        for factor in FACTORS:
            found = variations(factor, TRAIN, 4, 6)
            assert all(one.settings(QUICK, 3).seed == 3 for one in found)
            assert len({(one.series, one.value) for one in found}) == len(found) > 1, factor

    def test_counts_change_one_label_and_end_at_the_usual_number(self):
        found = variations("counts", planted_prompts(70).by_split()[0], 4, 60)
        assert [(one.series, one.value) for one in found] == [
            *(("benign prompts", n) for n in ("15", "50", "60")),
            *(("pseudo-harmful prompts", n) for n in ("10", "25", "50", "60")),
        ]
        counts = found[3].train(planted_prompts(70).by_split()[0], 60, 0).counts()
        assert counts == {"harmful": 60, "benign": 60, "pseudo_harmful": 10}

    def test_a_smaller_sample_is_part_of_a_larger_one(self):
        train = planted_prompts(70).by_split()[0]
        found = variations("counts", train, 4, 60)
        small, large = (set(found[i].train(train, 60, 1).texts) for i in (3, 5))
        assert small < large

    @pytest.mark.parametrize(
        ("factor", "label"), [("transfer", "pseudo_harmful"), ("harmful-prompts", "harmful")]
    )
    def test_one_kind_of_one_label_is_left(self, factor, label):
        found = variations(factor, TRAIN, 4, 60)
        assert [one.value for one in found][:3] == list(KINDS)
        for variation in found[:3]:
            train = variation.train(TRAIN, 60, 0)
            kinds = {one.category for one in train if one.label == label}
            assert kinds == {variation.value}
            assert train.counts()["benign"] == 9
        assert found[3].train(TRAIN, 60, 0).counts() == TRAIN.counts()

    def test_the_source_of_r_varies_alone(self):
        found = variations("direction", TRAIN, 4, 6)
        assert [one.value for one in found] == [*KINDS, "training prompts"]
        for one in found:
            assert one.train(TRAIN, 6, 1) == found[0].train(TRAIN, 6, 1)
        kind = found[0].anchors(TRAIN, None, 6, 0)
        assert {p.category for p in kind if p.label == "harmful"} == {KINDS[0]}
        assert kind.counts()["benign"] == 6
        assert found[-1].anchors(TRAIN, TEST, 6, 0) is None
        given = variations("direction", TRAIN, 4, 6, anchors=TEST)
        assert given[-1].value == "all anchors"
        assert given[-1].anchors(TRAIN, TEST, 6, 0) is TEST
        assert set(given[0].anchors(TRAIN, TEST, 6, 0)) < set(TEST)
        assert variations("alpha", TRAIN, 4, 6)[0].anchors(TRAIN, TEST, 6, 0) is TEST

    def test_without_categories_harmful_prompts_are_halved_and_transfer_says_what_it_needs(self):
        from dataclasses import replace

        bare = PromptSet(tuple(replace(one, category=None) for one in TRAIN))
        halves = variations("harmful-prompts", bare, 4, 60)[:2]
        texts = [
            {one.prompt for one in half.train(bare, 60, 0) if one.label == "harmful"}
            for half in halves
        ]
        assert texts[0].isdisjoint(texts[1])
        assert len(texts[0] | texts[1]) == 9
        with pytest.raises(UserError, match="two categories or more"):
            variations("transfer", bare, 4, 60)


class TestCells:
    def test_a_cell_is_the_fine_tune_with_that_setting(self, model):
        result = ablated(model, "shift", seeds=(2,))
        train = TRAIN.sample(4, seed=2)
        run = finetune_layer(
            model, train, layer=1, shift="uniform", epochs=1, lr=0.01, seed=2, store=False
        )
        with run.applied_to(model):
            evaluation = evaluate(model, TEST, judge=JUDGE, new_tokens=2)
        frame = result.frame()
        (row,) = frame[(frame["value"] == "uniform") & (frame["split"] == "test")].to_dict(
            "records"
        )
        assert row["safety_score"] == pytest.approx(evaluation.safety_score)
        assert row["compliance_rate"] == pytest.approx(evaluation.compliance_rate)
        assert row["tradeoff_score"] == pytest.approx(evaluation.tradeoff_score)
        rate = evaluation.rate("harmful")
        assert (row["safety_score_low"], row["safety_score_high"]) == (rate.low, rate.high)
        assert row["train_pseudo_harmful"] == 4

    def test_how_far_the_weights_went_is_that_of_the_run(self, model):
        row = ablated(model, "anchor").frame().iloc[0]
        run = finetune_layer(
            model, TRAIN.sample(4, seed=0), layer=1, epochs=1, lr=0.01, store=False
        )
        old, new = (
            {n: t[n].double() for n in run.state} for t in (model.hf.state_dict(), run.state)
        )
        change = math.fsum(float(((new[n] - old[n]) ** 2).sum()) for n in new)
        assert row["moved"] == pytest.approx(
            math.sqrt(change / math.fsum(float((one**2).sum()) for one in old.values()))
        )

    def test_all_is_all_but_the_study_of_small_alpha(self):
        assert {*FACTORS} - {*_names("all", TRAIN)} == {"small-alpha"}

    def test_layers_are_named_and_seeds_give_mean_and_spread(self, model):
        result = ablated(model, "layer", seeds=(0, 1))
        frame, means = result.frame(), result.means()
        assert sorted(set(frame["number"])) == [0, 1, 2, 3]
        for row in means.to_dict("records"):
            part = frame[(frame["value"] == row["value"]) & (frame["split"] == row["split"])]
            assert row["seeds"] == 2
            assert row["tradeoff_score"] == pytest.approx(part["tradeoff_score"].mean())
            assert row["tradeoff_score_sd"] == pytest.approx(part["tradeoff_score"].std())
            assert row["tradeoff_score_min"] == part["tradeoff_score"].min()

    def test_the_matrix_agrees_with_the_rates(self, model):
        result = ablated(model, "transfer")
        matrix = result.matrix()
        assert len(matrix[matrix["split"] == "test"]) == 4 * 3
        frame = result.frame()
        for value in (*KINDS, "all kinds"):
            part = matrix[(matrix["trained_on"] == value) & (matrix["split"] == "test")]
            whole = frame[(frame["value"] == value) & (frame["split"] == "test")]
            mean = (part["compliance_rate"] * part["n"]).sum() / part["n"].sum()
            assert mean == pytest.approx(whole["compliance_rate"].iloc[0])

    def test_a_cell_that_cannot_be_trained_is_an_outcome(self, model):
        result = ablated(model, "alpha", alphas=(1.0, -1.0))
        failed = result.outcomes[1]
        assert failed.status == "failed"
        assert "alpha" in failed.message
        assert math.isnan(result.frame()["tradeoff_score"].iloc[-1])
        assert set(result.means()["value"]) == {"1"}

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"factors": "colour"}, "factor 'colour' is not known"),
            ({"factors": "shift", "seeds": ()}, "at least one seed"),
            ({"factors": "shift", "jobs": 0}, "at least one job"),
            ({"factors": "shift", "layer": 9}, "out of range"),
            ({"factors": "shift", "jobs": 2}, "load it by name or folder"),
            ({"factors": []}, "no ablations to run"),
        ],
    )
    def test_what_cannot_be_done_is_refused(self, model, options, message):
        with pytest.raises(UserError, match=message):
            ablated(model, **options)


class TestResume:
    def test_finished_cells_are_not_run_again(self, model, tmp_path, monkeypatch):
        first = ablated(model, ["shift", "anchor"], folder=tmp_path)
        monkeypatch.setattr(trial, "finetune_layer", None)
        again = ablated(model, ["anchor", "shift"], folder=tmp_path)
        assert sorted(map(repr, again.outcomes)) == sorted(map(repr, first.outcomes))

    def test_work_that_was_stopped_goes_on(self, model, tmp_path):
        def stop(_outcome):
            raise KeyboardInterrupt

        stopped = ablated(model, "shift", folder=tmp_path, on_outcome=stop)
        assert (len(stopped.outcomes), stopped.complete) == (1, False)
        lines = (tmp_path / OUTCOMES_FILE).read_text().splitlines()
        assert len([line for line in lines if "cell" in json.loads(line)]) == 1
        assert len(ablated(model, "shift", folder=tmp_path).outcomes) == 2

    def test_other_settings_are_refused(self, model, tmp_path):
        ablated(model, "shift", folder=tmp_path)
        with pytest.raises(UserError, match="another ablation"):
            ablated(model, "shift", folder=tmp_path, new_tokens=3)

    def test_old_names_are_understood_in_ledgers_and_calls(self, model, tmp_path, monkeypatch):
        first = ablated(model, "anchors", folder=tmp_path)
        assert first.factors == ("harmful-prompts",)
        path = tmp_path / OUTCOMES_FILE
        header, *lines = map(json.loads, path.read_text().splitlines())
        older = [{"sweep": header["about"]}]
        for line in lines:
            cell = {**line["cell"], "study": "anchors"}
            del cell["factor"]
            older.append({**line, "cell": cell, "number": math.nan})
        path.write_text("".join(json.dumps(line) + "\n" for line in older))
        monkeypatch.setattr(trial, "finetune_layer", None)
        again = ablated(model, "harmful-prompts", folder=tmp_path)
        assert repr(again.outcomes) == repr(first.outcomes)

    def test_no_prompt_and_no_reply_is_noted(self, model, tmp_path):
        ablated(model, "shift", folder=tmp_path)
        text = (tmp_path / OUTCOMES_FILE).read_text()
        assert not any(prompt in text for prompt in PROMPTS.texts)


def test_ablations_show_themselves_in_two_lines(model):
    result = ablated(model, ["shift", "origin"])
    assert repr(result).startswith("Ablations of shift and origin: 6 fine-tunes on ")
    assert len(repr(result).splitlines()) == 2
    assert not any(prompt in result._repr_html_() for prompt in PROMPTS.texts)


def test_other_processes_give_the_same(tmp_path):
    import actor_lens as al

    toy, prompts = al.load_model("toy"), al.load_prompts("toy")
    options = {
        "seeds": (0,),
        "layer": 4,
        "settings": FinetuneConfig(layer=0, epochs=1),
        "per_label": 4,
        "test_per_label": 2,
        "new_tokens": 4,
        "store": al.Store(tmp_path),
    }
    here = al.ablate(toy, prompts, "shift", **options)
    there = al.ablate(toy, prompts, "shift", jobs=2, **options)
    strip = ["train_seconds", "evaluate_seconds"]
    assert here.frame().drop(columns=strip).equals(there.frame().drop(columns=strip))
