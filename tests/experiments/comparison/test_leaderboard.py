"""A leaderboard gives back planted answers, whatever the order, the seeds and the interruptions."""

import json
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from actor_lens.errors import UserError
from actor_lens.experiments.comparison.compare import OUTCOMES_FILE, compare
from actor_lens.experiments.comparison.leaderboard import Leaderboard
from actor_lens.experiments.comparison.trial import (
    MethodOutcome,
    judge_for,
    settings_of,
    with_default,
    with_seed,
)
from actor_lens.judges.first_token import FirstTokenJudge, RefusalOpenings
from actor_lens.judges.keywords import KeywordJudge
from actor_lens.methods import make_method
from actor_lens.progress import reporting
from actor_lens.prompts.rows import Prompt
from actor_lens.prompts.sets import PromptSet
from actor_lens.report.comparison_report import render_comparison
from actor_lens.report.findings import findings, provenance
from actor_lens.statistics.intervals import wilson_interval
from actor_lens.statistics.paired_tests import mcnemar
from tests.support.planted_methods import (
    ALWAYS,
    JUDGE,
    NEVER,
    PERFECT,
    Failing,
    Fixed,
    Planted,
    PlantedFit,
)
from tests.support.reports import Recorder
from tests.support.studies import planted_prompts
from tests.support.tiny_models import tiny_chat_model
from tests.support.tiny_runs import copied_tensors, same_bits

pytestmark = pytest.mark.usefixtures("quick_collections")

PROMPTS = planted_prompts(8)
COIN = Planted("coin", {"harmful": 0.7, "pseudo_harmful": 0.5, "benign": 0.2})


@pytest.fixture(scope="module")
def model():
    return tiny_chat_model()


def compared(model, *methods, **options):
    return compare(model, PROMPTS, methods, judge=JUDGE, new_tokens=1, **options)


def row(board, method, split="test"):
    frame = board.frame()
    (found,) = frame[(frame["method"] == method) & (frame["split"] == split)].to_dict("records")
    return found


def kept(folder):
    """The outcomes in the ledger of a comparison."""
    _header, *lines = (folder / OUTCOMES_FILE).read_text().splitlines()
    return [json.loads(line)["outcome"] for line in lines]


class TestScores:
    def test_twins_are_scored_together(self, model):
        """Planted: harmful prompts are all refused, so a pair is right where its safe one is."""
        families = (replace(one, twin=str(i % 8)) for i, one in enumerate(PROMPTS))
        twins = replace(PROMPTS, prompts=tuple(families))
        methods = (PERFECT, ALWAYS, Planted("half", {"harmful": 1.0, "pseudo_harmful": 0.5}))
        board = compare(model, twins, methods, judge=JUDGE, new_tokens=1, seeds=(0, 1))
        for method, share in ((PERFECT, 1.0), (ALWAYS, 0.0)):
            found = row(board, method.name)
            assert (found["twins"], found["n_twins"]) == (share, 8)
        half = row(board, "half")
        assert half["twins"] == half["compliance_rate"]
        expected = wilson_interval(half["twins"] * 8, 8)
        assert (half["twins_low"], half["twins_high"]) == pytest.approx(expected)
        assert "Twins: share of pairs" in render_comparison(board)

    def test_a_set_without_twins_says_so(self, model):
        board = compared(model, PERFECT)
        found = row(board, PERFECT.name)
        assert math.isnan(found["twins"])
        assert found["n_twins"] == 0
        assert "no twins" in render_comparison(board)

    @pytest.mark.parametrize(
        ("method", "answered", "safe", "benign"),
        [(ALWAYS, 0.0, 1.0, 1.0), (NEVER, 1.0, 0.0, 0.0), (PERFECT, 1.0, 1.0, 0.0)],
    )
    def test_planted_answers_are_found(self, model, method, answered, safe, benign):
        board = compared(model, method)
        for split in ("test", "ood"):
            found = row(board, method.name, split)
            assert found["compliance_rate"] == answered
            assert found["safety_score"] == safe
            assert found["tradeoff_score"] == (answered + safe) / 2
            assert found["benign_refused"] == benign
            assert (found["n_harmful"], found["n_pseudo_harmful"], found["n_benign"]) == (8, 8, 8)
            assert (found["safety_score_low"], found["safety_score_high"]) == pytest.approx(
                wilson_interval(8 * safe, 8)
            )
            low, high = wilson_interval(8 * (1 - answered), 8)
            assert found["compliance_rate_low"] == pytest.approx(1 - high)
            assert found["compliance_rate_high"] == pytest.approx(1 - low)
        assert found["trained_parameters"] == 7

    def test_several_seeds_give_the_mean_and_the_spread(self, model):
        board = compared(model, COIN, seeds=(0, 1, 2))
        replies = board.replies()
        chosen = replies[(replies["label"] == "harmful") & (replies["split"] == "test")]
        shares = chosen.groupby("seed")["refused"].mean()
        assert len(set(shares)) > 1  # the seeds differ, or nothing is tested
        found = row(board, "coin")
        assert found["seeds"] == 3
        assert found["safety_score"] == pytest.approx(shares.mean())
        assert found["safety_score_sd"] == pytest.approx(shares.std())
        assert found["safety_score_low"] == pytest.approx(wilson_interval(8 * shares.mean(), 8)[0])

    def test_a_method_without_a_seed_is_run_once(self, model):
        board = compared(model, NEVER, COIN, seeds=(3, 4))
        assert [(one.method, one.seed) for one in board.outcomes] == [
            ("never", 3),
            ("coin", 3),
            ("coin", 4),
        ]
        assert math.isnan(row(board, "never")["tradeoff_score_sd"])

    def test_the_order_of_methods_plays_no_part(self, model):
        def scores(board):
            pairs = board.pairs().sort_values(["method", "split", "score"])
            return (
                board.frame().sort_values(["method", "split"])["tradeoff_score"].tolist(),
                pairs[["method", "difference", "p_value", "p_holm"]].to_dict("records"),
            )

        there = compared(model, PERFECT, COIN, ALWAYS, seeds=(0, 1))
        back = compared(model, ALWAYS, COIN, PERFECT, seeds=(0, 1))
        assert scores(there) == scores(back)

    def test_kinds_add_up_to_the_label(self, model):
        sets = compared(model, COIN).by_set()
        test = sets[(sets["split"] == "test") & (sets["label"] == "pseudo_harmful")]
        assert test["set"].tolist() == ["software", "games", "garden"]
        assert test["n"].sum() == 8
        total = row(compared(model, COIN), "coin")
        assert (test["refused"] * test["n"]).sum() / 8 == pytest.approx(
            1 - total["compliance_rate"]
        )

    def test_fewer_prompts_can_be_asked(self, model):
        board = compared(model, NEVER, test_per_label=3, per_label=2)
        assert row(board, "never")["n_harmful"] == 3
        assert board.about["train_prompts"] == dict.fromkeys(
            ("harmful", "benign", "pseudo_harmful"), 2
        )


class TestPairs:
    def test_pairs_are_those_of_the_same_prompts(self, model):
        board = compared(model, PERFECT, COIN)
        replies = board.replies()
        chosen = replies[(replies["label"] == "harmful") & (replies["split"] == "test")]
        coin = chosen[chosen["method"] == "coin"]["refused"].to_numpy()
        worse = int((~coin).sum())
        pairs = board.pairs()
        (found,) = pairs[(pairs["score"] == "safety_score") & (pairs["split"] == "test")].to_dict(
            "records"
        )
        assert (found["reference"], found["method"]) == ("actor", "coin")
        assert (found["better"], found["worse"], found["n"]) == (0, worse, 8)
        assert found["p_value"] == pytest.approx(mcnemar(0, worse))
        assert found["difference"] == pytest.approx(-worse / 8)
        assert found["low"] <= found["difference"] <= found["high"]

    def test_all_seeds_count_and_the_difference_is_that_of_the_table(self, model):
        board = compared(model, PERFECT, COIN, seeds=(0, 1, 2))
        replies = board.replies()
        chosen = replies[(replies["label"] == "harmful") & (replies["split"] == "test")]
        shares = chosen[chosen["method"] == "coin"].groupby("prompt")["refused"].mean()
        assert set(shares) - {0.0, 1.0}  # seeds differ on a prompt, or nothing is tested
        pairs = board.pairs().query("split == 'test'").set_index("score")
        found = pairs.loc["safety_score"]
        assert (found["better"], found["n"]) == (0, 8)
        assert found["worse"] == pytest.approx((1 - shares).sum())
        # All changes are on one side: of all signs only those two go as far.
        changed = int((shares < 1).sum())
        assert found["p_value"] == pytest.approx(2 * 0.5**changed)
        own, other = row(board, "coin"), row(board, "actor")
        for score in pairs.index:
            assert pairs.loc[score, "difference"] == pytest.approx(own[score] - other[score])

    def test_a_prompt_with_an_unreadable_seed_is_left_out(self):
        prompts = PromptSet(tuple(Prompt(f"p{i}", "harmful", "test") for i in range(3)))
        said = (
            ("actor", 0, ("refused", "refused", "refused")),
            ("other", 0, ("answered", "answered", "refused")),
            ("other", 1, ("unreadable", "refused", "refused")),
        )
        outcomes = tuple(
            MethodOutcome(name, seed, True, "completed", verdicts=verdicts, **costs())
            for name, seed, verdicts in said
        )
        pairs = Leaderboard(outcomes, prompts, "actor", {}).pairs().set_index("score")
        found = pairs.loc["safety_score"]
        assert (found["worse"], found["n"], found["difference"]) == (0.5, 2, -0.25)

    def test_a_benign_refusal_is_worse_and_raises_the_share(self, model):
        pairs = compared(model, PERFECT, ALWAYS).pairs()
        (found,) = pairs[(pairs["score"] == "benign_refused") & (pairs["split"] == "test")].to_dict(
            "records"
        )
        assert (found["difference"], found["better"], found["worse"]) == (1.0, 0, 8)

    def test_the_correction_is_over_the_methods_of_one_score(self, model):
        pairs = compared(model, PERFECT, ALWAYS, NEVER).pairs()
        part = pairs[(pairs["score"] == "compliance_rate") & (pairs["split"] == "test")]
        p = dict(zip(part["method"], part["p_holm"], strict=True))
        assert p == {"always": pytest.approx(2 * mcnemar(0, 8)), "never": 1.0}

    def test_the_first_method_stands_in_for_a_reference_that_is_missing(self, model):
        board = compared(model, NEVER, ALWAYS)
        assert board.reference == "never"
        assert set(board.pairs()["method"]) == {"always"}


class TestFailures:
    @pytest.mark.parametrize(
        ("error", "message"),
        [
            (UserError("this model has no such block"), "this model has no such block"),
            (MemoryError(), "out of memory"),
            (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero"),
        ],
    )
    def test_a_failing_method_says_why_and_the_others_go_on(self, model, error, message):
        board = compared(model, Failing(error), PERFECT)
        found = row(board, "failing")
        assert (found["status"], found["message"]) == ("failed", message)
        assert math.isnan(found["tradeoff_score"])
        assert row(board, "actor")["tradeoff_score"] == 1.0
        assert f"failing could not be tried: {message}." in findings(board)

    def test_ctrl_c_keeps_what_is_done(self, model):
        board = compared(model, PERFECT, Failing(KeyboardInterrupt()), NEVER)
        assert (board.methods, board.complete) == (("actor",), False)
        with pytest.raises(KeyboardInterrupt):
            compared(model, Failing(KeyboardInterrupt()))

    def test_a_method_that_leaves_the_model_changed_ends_the_comparison(self):
        own = tiny_chat_model("qwen2")

        @dataclass(frozen=True)
        class Careless:
            name: str = "careless"

            def fit(self, model, train, validation):
                del train, validation
                with torch.no_grad():
                    next(model.hf.parameters()).add_(1.0)
                return PlantedFit({}, 0)

        with pytest.raises(UserError, match="'careless' left the model changed"):
            compared(own, Careless(), NEVER)

    def test_the_model_is_as_before(self, model):
        before = copied_tensors(model)
        compared(model, PERFECT, COIN, Failing(ValueError("no")))
        assert same_bits(before, copied_tensors(model))

    @pytest.mark.parametrize(
        ("methods", "options", "message"),
        [
            (["no-such-method"], {}, "unknown method 'no-such-method'"),
            ([], {}, "no methods"),
            ([NEVER, Fixed("never")], {}, "two methods are named 'never'"),
            ([NEVER], {"seeds": ()}, "no seeds"),
        ],
    )
    def test_what_cannot_be_compared_is_refused(self, model, methods, options, message):
        with pytest.raises(UserError, match=message):
            compared(model, *methods, **options)

    def test_an_empty_split_is_named(self, model):
        prompts = planted_prompts(2, splits=("train", "test"))
        with pytest.raises(UserError, match="no prompts of the split 'validation'"):
            compare(model, prompts, [NEVER], judge=JUDGE)


class TestResume:
    def test_finished_outcomes_are_read_and_not_run_again(self, model, tmp_path, monkeypatch):
        first = compared(model, PERFECT, COIN, seeds=(0, 1), out=tmp_path)
        keys = [(one["method"], one["seed"]) for one in kept(tmp_path)]
        assert keys == [("actor", 0), ("coin", 0), ("coin", 1)]
        monkeypatch.setattr(Planted, "fit", lambda *_: pytest.fail("was fitted again"))
        again = compared(model, PERFECT, COIN, seeds=(0, 1), out=tmp_path)
        assert repr(again.outcomes) == repr(first.outcomes)  # NaN is not equal to itself

    def test_an_interrupted_comparison_goes_on(self, model, tmp_path):
        stopped = compared(model, PERFECT, Failing(KeyboardInterrupt()), COIN, out=tmp_path)
        assert not stopped.complete
        ran = []
        board = compared(model, PERFECT, COIN, out=tmp_path, on_outcome=ran.append)
        assert board.complete
        assert repr(ran[0]) == repr(stopped.outcomes[0])  # NaN is not equal to itself

    def test_a_failure_is_tried_again(self, model, tmp_path):
        compared(model, Failing(MemoryError()), PERFECT, out=tmp_path)
        mended = Fixed("failing", ("harmful",))
        assert row(compared(model, mended, out=tmp_path), "failing")["status"] == "completed"

    @pytest.mark.parametrize(
        ("options", "differs"),
        [
            ({"new_tokens": 2}, "new tokens"),
            ({"per_label": 3}, "train prompts"),
            ({"test_per_label": 3}, "test prompts"),
        ],
    )
    def test_another_comparison_in_the_folder_is_refused(self, model, tmp_path, options, differs):
        compared(model, NEVER, out=tmp_path)
        with pytest.raises(UserError, match=rf"another comparison \(differs in: {differs}\)"):
            compare(
                model,
                PROMPTS,
                [NEVER],
                judge=JUDGE,
                out=tmp_path,
                **{"new_tokens": 1, **options},
            )

    def test_other_settings_of_a_method_are_refused(self, model, tmp_path):
        compared(model, COIN, out=tmp_path)
        with pytest.raises(UserError, match="differs in: method settings"):
            compared(model, Planted("coin", {"harmful": 1.0}), out=tmp_path)

    def test_scores_can_be_made_again_from_what_is_stored(self, model, tmp_path):
        board = compared(model, COIN, out=tmp_path)
        verdicts = kept(tmp_path)[0]["verdicts"]
        harmful = [
            verdict == "refused"
            for verdict, prompt in zip(verdicts, board.prompts, strict=True)
            if (prompt.label, prompt.split) == ("harmful", "test")
        ]
        assert np.mean(harmful) == row(board, "coin")["safety_score"]


def test_no_answer_to_a_harmful_prompt_is_stored(model, tmp_path):
    board = compared(model, NEVER, out=tmp_path)
    harmful = board.replies()[board.replies()["label"] == "harmful"]
    assert set(harmful["reply"]) == {"(answered; not shown)"}
    assert kept(tmp_path)[0]["replies"] == board.replies()["reply"].tolist()


def test_seeds_reach_dataclasses_and_plain_classes_and_leave_the_original():
    class Plain:
        name, seed = "plain", 0

        def fit(self, model, train, validation):
            raise NotImplementedError

    original = Plain()
    assert with_seed(original, 5).seed == 5
    assert original.seed == 0
    assert with_seed(COIN, 5) == Planted("coin", COIN.refused, 5)
    assert with_seed(NEVER, 5) is NEVER
    assert "seed" not in settings_of(COIN)


def test_the_judge_of_the_comparison_reaches_methods_that_train_on_replies():
    assert with_default(NEVER, "judge", JUDGE) is NEVER
    for name in ("sft-full", "lora-layer", "loreft", "safe-decoding"):
        method = make_method(name)
        assert with_default(method, "judge", JUDGE).judge is JUDGE
        assert method.judge is None
        own = make_method(name, judge=KeywordJudge(name="own"))
        assert with_default(own, "judge", JUDGE) is own


def test_methods_are_fitted_with_the_judge_of_the_comparison(model):
    seen = []

    @dataclass(frozen=True)
    class Sifting:
        name: str = "sifting"
        judge: object = None

        def fit(self, model, train, validation):
            del model, train, validation
            seen.append(self.judge)
            return PlantedFit({}, 0)

    assert compared(model, Sifting()).outcomes[0].status == "completed"
    assert seen == [JUDGE]


def costs(**measured):
    """What an outcome needs beside verdicts."""
    return {"seconds": {"fit": 1.0, "evaluate": 1.0}, "kl": 0.0, **measured}


class TestFindings:
    def test_the_winner_is_named_whoever_it_is(self, model):
        said = findings(compared(model, Fixed("other", ("harmful",)), Planted("actor"), NEVER))
        assert said[0].startswith("other has the highest trade-off score on the test prompts: 100")
        assert "of 8 pseudo-harmful prompts" in said[0]
        assert "The highest of 3 measured scores is in part the luckiest" in said[0]
        assert said[1].startswith("actor is not the best: it is 50.0 points below")
        assert said[2].startswith("Measurably better than actor: other (+50.0 points")
        assert said[3].startswith("No difference from actor could be shown")
        assert "never" in said[3]

    def test_of_many_methods_a_sentence_has_the_differences_alone(self, model):
        others = [Fixed(f"other{number}", ("harmful",)) for number in range(9)]
        said = findings(compared(model, Planted("actor"), *others))
        (long,) = (one for one in said if "other8 +50.0" in one)
        assert "other0 +50.0, other1 +50.0" in long
        assert long.endswith("(points; with intervals among the pairs).")

    def test_a_single_method_was_not_picked_from_many(self, model):
        (said, *_) = findings(compared(model, PERFECT))
        assert "luckiest" not in said

    def test_a_control_that_fails_and_one_that_does_not(self, model):
        twin = Fixed("control-twin", ("harmful",))
        said = findings(compared(model, PERFECT, twin, Fixed("control-none")))
        assert any(
            one.startswith("control-twin is not shown to fail, though a control must")
            for one in said
        )
        assert any(one.startswith("control-none fails, as a control must: 50.0 %") for one in said)

    def test_nothing_is_claimed_where_score_and_test_point_to_different_sides(self):
        label = ["harmful"] * 100 + ["pseudo_harmful"] * 4
        prompts = PromptSet(tuple(Prompt(f"p{i}", one, "test") for i, one in enumerate(label)))
        # Worse on 20 of 100 harmful prompts, better on 3 of 4 pseudo-harmful ones.
        other = ["answered"] * 20 + ["refused"] * 80 + ["answered"] * 3 + ["refused"]
        outcomes = tuple(
            MethodOutcome(name, 0, False, "completed", verdicts=tuple(verdicts), **costs())
            for name, verdicts in (("other", other), ("actor", ["refused"] * 104))
        )
        board = Leaderboard(outcomes, prompts, "actor", {})
        (pair,) = board.pairs()[lambda one: one["score"] == "tradeoff_score"].to_dict("records")
        assert pair["difference"] > 0
        assert pair["better"] < pair["worse"]
        assert pair["p_holm"] < 0.05
        assert not any("Measurably" in one for one in findings(board))

    def test_refusals_of_benign_prompts_are_told(self, model):
        said = findings(compared(model, PERFECT, ALWAYS))
        assert said[-1].endswith("refuse benign prompts: always (100.0 %).")

    def test_too_few_prompts_show_no_difference(self, model):
        board = compared(model, PERFECT, NEVER, test_per_label=2)
        assert any("No difference from actor could be shown" in one for one in findings(board))
        assert not any("Measurably worse" in one for one in findings(board))

    def test_a_stopped_comparison_says_so(self, model):
        board = compared(model, PERFECT, Failing(KeyboardInterrupt()))
        assert "stopped" in findings(board)[-1]

    def test_the_provenance_names_counts_judge_seeds_and_versions(self, model):
        text = provenance(compared(model, PERFECT, seeds=(4, 5)))
        assert "8 harmful, 8 pseudo-harmful, 8 benign" in text
        assert JUDGE.identity in text
        assert "Seeds: 4, 5" in text
        assert "chosen before" not in text
        assert "torch" in text


def test_kinds_are_the_sets_of_pseudo_harmful_prompts(model):
    board = compared(model, PERFECT, COIN, seeds=(0, 1))
    table = board.by_kind()
    assert list(table.columns) == ["method", "split", "kind", "answered", "n"]
    sets = board.by_set()
    sets = sets[sets["label"] == "pseudo_harmful"].set_index(["method", "split", "set"])
    assert len(table) == len(sets)
    for one in table.to_dict("records"):
        same = sets.loc[one["method"], one["split"], one["kind"]]
        assert one["answered"] == pytest.approx(1 - same["refused"])
        assert one["n"] == same["n"]


def test_examples_are_the_first_prompt_of_each_kind_with_one_reply_of_each_method(model):
    board = compared(model, COIN, NEVER, seeds=(0, 1))
    table = board.examples(2)
    first = [one for one in PROMPTS if (one.split, one.label) == ("test", "pseudo_harmful")][:2]
    assert list(dict.fromkeys(table["prompt"])) == [one.prompt for one in first]
    assert table["method"].tolist() == ["coin", "never"] * 2
    assert set(table["seed"]) == {0}
    assert set(table["label"]) == {"pseudo_harmful"}
    assert len(dict.fromkeys(board.examples()["category"])) == len(board.examples()) / 2


def test_a_first_token_judge_learns_how_the_untouched_model_refuses(model, monkeypatch):
    asked = []

    def tokens(_model, prompts, **_options):
        asked.append({prompt.split for prompt in prompts})
        z = (model.tokenizer("z")["input_ids"][-1],)
        return RefusalOpenings((z,), ("z",), (1,), (0,), 1, 1)

    monkeypatch.setattr("actor_lens.experiments.comparison.trial.refusal_openings", tokens)
    board = compare(model, PROMPTS, [ALWAYS, NEVER], judge=FirstTokenJudge(), new_tokens=1)
    assert asked == [{"validation"}]
    assert [row(board, name)["safety_score"] for name in ("always", "never")] == [1.0, 0.0]


def test_a_first_token_judge_that_contradicts_the_replies_is_warned_of(model, monkeypatch):
    ids = tuple((token,) for token in range(model.hf.config.vocab_size - 1))
    every = RefusalOpenings(ids, ("",) * len(ids), (1,) * len(ids), (0,) * len(ids), 1, 1)
    monkeypatch.setattr(
        "actor_lens.experiments.comparison.trial.refusal_openings", lambda *_: every
    )
    validation = PROMPTS["validation"]
    recorder = Recorder()
    with reporting(recorder):
        judge = judge_for(model, "first-token", validation)
    assert "judged replies agree on 0% of" in recorder.warnings[0]
    assert judge.score_verdicts([1.0]) == ("refused",)


def test_seconds_of_a_search_stand_beside_those_of_the_fit(model):
    board = compared(model, PERFECT, NEVER, search_seconds={"actor": 12.5})
    assert row(board, "actor")["search_seconds"] == 12.5
    assert row(board, "never")["search_seconds"] == 0.0
    assert row(board, "actor")["fit_seconds"] < 12.5
    text = provenance(board)
    assert "settings of actor" in text
    assert "in 12.5 s" in text


def test_prompts_without_ood_have_one_split(model):
    prompts = PromptSet(tuple(one for one in PROMPTS if one.split != "ood"), name="no ood")
    board = compare(model, prompts, [NEVER], judge=JUDGE, new_tokens=1)
    assert board.frame()["split"].tolist() == ["test"]


def test_a_leaderboard_shows_itself_in_two_lines(model):
    board = compared(model, PERFECT, ALWAYS)
    best = "best: actor, trade-off score 100.0 %"
    assert repr(board).splitlines()[0] == f"Leaderboard: 2 methods on 48 prompts; {best}"
    assert len(repr(board).splitlines()) == 2
    assert not any(text in board._repr_html_() for text in PROMPTS.texts)
    assert board.summary() == json.loads(json.dumps(board.summary(), allow_nan=False))
