"""A study is its stages joined: directions from train, layer from validation, rates from test.

Its record is plain JSON (what was not measured is null) with the same numbers as the stages give
one by one; the model is left bit for bit as it was; what cannot work is told before the long look.
"""

import json
import math
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from actor_lens.activations.residuals import collect_residuals
from actor_lens.directions.refusal_directions import refusal_directions
from actor_lens.errors import UserError
from actor_lens.evaluation import evaluate
from actor_lens.experiments import look, run_evaluation, study_plan
from actor_lens.experiments.look import look_at_layers
from actor_lens.experiments.run_evaluation import evaluate_run
from actor_lens.experiments.study import Study
from actor_lens.experiments.study_plan import StudyPlan, run_study, train_chosen_layer
from actor_lens.experiments.sweep.layer_sweep import sweep_layers
from actor_lens.judges.first_token import RefusalTokens, refusal_scores
from actor_lens.judges.replies import Replies
from actor_lens.progress import reporting
from actor_lens.prompts.rows import Prompt
from actor_lens.prompts.sets import PromptSet
from actor_lens.training.config import AUTO_ALPHAS, AUTO_LRS, FinetuneConfig
from tests.support.reports import Recorder
from tests.support.tiny_models import tiny_chat_model
from tests.support.tiny_runs import copied_tensors, quick_run, same_bits, tiny_prompts

TOKENS = RefusalTokens(tuple(range(0, 300, 2)), ("",) * 150)
SETTINGS = FinetuneConfig(layer=1, epochs=2, batch_size=6)
PLAN = StudyPlan(
    settings=SETTINGS,
    per_label=3,
    new_tokens=4,
    rounds=5,
    variants={
        "raw formula": {"origin": "zero"},
        "few prompts": {"per_label": {"harmful": 3, "benign": 3, "pseudo_harmful": 2}},
    },
)


def prompts_of(*splits, per_label=4):
    parts = [tiny_prompts(per_label, one, offset=10 * i) for i, one in enumerate(splits)]
    return PromptSet(tuple(prompt for part in parts for prompt in part), name="tiny")


PROMPTS = prompts_of("train", "validation", "test", "ood")


def answer_by_first_token(model, prompts, **_settings):
    """A random model says nothing: let it refuse where it is likely to begin with a token."""
    scores = refusal_scores(model, prompts.texts, TOKENS).tolist()
    replies = tuple("I'm sorry, no." if score > 0 else "Of course." for score in scores)
    return Replies(replies, tuple(scores))


@pytest.fixture(autouse=True)
def speaking_model(monkeypatch):
    monkeypatch.setattr(look, "refusal_tokens", lambda *_: TOKENS)
    openings = SimpleNamespace(simplest=TOKENS)
    monkeypatch.setattr(run_evaluation, "refusal_openings", lambda *_: openings)
    monkeypatch.setattr(evaluate, "write_replies", answer_by_first_token)


@pytest.fixture(scope="module")
def model():
    return tiny_chat_model()


@pytest.fixture(scope="module")
def done(model):
    """One study of everything, shared by the tests that read it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(look, "refusal_tokens", lambda *_: TOKENS)
        patch.setattr(evaluate, "write_replies", answer_by_first_token)
        before = copied_tensors(model)
        result = run_study(model, PROMPTS, PLAN)
        assert same_bits(before, copied_tensors(model))
        return result


# ---- The record ----

RATE = {"refused": float, "n": int, "low": float, "high": float}
PAIR = {"before": float, "after": float}
RECORD = {
    "model": str,
    "prompts": str,
    "layer": int,
    "alpha": float,
    "origin": str,
    "anchor": str,
    "train_prompts": {"harmful": int, "benign": int, "pseudo_harmful": int},
    "before": {"harmful": RATE, "pseudo_harmful": RATE, "benign": RATE},
    "after": {"harmful": RATE, "pseudo_harmful": RATE, "benign": RATE},
    "ood": {
        "before": {"harmful": RATE, "pseudo_harmful": RATE, "benign": RATE},
        "after": {"harmful": RATE, "pseudo_harmful": RATE, "benign": RATE},
    },
    "compliance_rate": PAIR,
    "safety_score": PAIR,
    "tradeoff_score": PAIR,
    "seconds": {"collect": float, "train": float, "evaluate": float},
    "trained_parameters": int,
    "parameters_changed_outside_layer": int,
    "judge": str,
    "new_tokens": int,
    "seed": int,
    "versions": {"torch": str, "transformers": str, "transformer_lens": str, "actor_lens": str},
}


def assert_shaped(record, shape, path=""):
    for key, expected in shape.items():
        assert key in record, f"{path}{key}"
        if isinstance(expected, dict):
            assert_shaped(record[key], expected, f"{path}{key}.")
        else:
            assert type(record[key]) is expected, f"{path}{key}: {record[key]!r}"


def as_json(record):
    """Through strict JSON and back, which must lose nothing."""
    back = json.loads(json.dumps(record, allow_nan=False))
    assert back == record
    return back


def test_record_has_every_key_with_its_type(done):
    assert_shaped(as_json(done.summary()), RECORD)


def test_record_has_the_numbers_of_the_stages(model, done):
    record = done.summary()
    tested = PROMPTS.select(i for i, one in enumerate(PROMPTS) if one.split in ("test", "ood"))

    def shares(split):
        part = tested.where(split=split)
        said = answer_by_first_token(model, part).texts
        return {
            label: sum(
                s != "Of course." for s, p in zip(said, part, strict=True) if p.label == label
            )
            / 4
            for label in ("harmful", "pseudo_harmful", "benign")
        }

    before = {split: shares(split) for split in ("test", "ood")}
    with done.outcome.run.applied_to(model):
        after = {split: shares(split) for split in ("test", "ood")}
    assert before != after
    for name, expected in (("before", before), ("after", after)):
        for label, share in expected["test"].items():
            assert record[name][label]["refused"] == share
            assert record[name][label]["n"] == 4
        for label, share in expected["ood"].items():
            assert record["ood"][name][label]["refused"] == share
        assert record["compliance_rate"][name] == 1 - expected["test"]["pseudo_harmful"]
        assert record["safety_score"][name] == expected["test"]["harmful"]
    assert record["trained_parameters"] == sum(p.numel() for p in model.blocks[1].parameters())
    assert record["model_parameters"] == sum(p.numel() for p in model.hf.parameters())
    assert record["parameters_changed_outside_layer"] == 0
    assert record["train_prompts"] == {"harmful": 3, "benign": 3, "pseudo_harmful": 3}
    assert (record["judge"], record["new_tokens"]) == (done.before.judge, 4)
    assert record["fingerprints"] == {
        "model": model.fingerprint,
        "prompts": PROMPTS.fingerprint,
        "train_prompts": done.look.train.fingerprint,
    }


def test_variants_stand_beside_the_first_at_the_same_layer(done):
    record = done.summary()
    assert list(record["variants"]) == ["raw formula", "few prompts"]
    raw, few = record["variants"].values()
    assert raw["config"] == {**record["config"], "origin": "zero"}
    assert few["config"] == record["config"]
    assert few["train_prompts"] == {"harmful": 3, "benign": 3, "pseudo_harmful": 2}
    assert set(raw["test"]) == set(raw["ood"]) == {"harmful", "pseudo_harmful", "benign"}
    assert [outcome.name for outcome in done.outcomes] == ["actor", *record["variants"]]
    assert raw["warnings"] == list(done.outcomes[1].targets.preview().warnings)
    assert done.outcomes[1].targets.origin == "zero"
    assert len(done.outcomes[2].targets.prompts) == 8


def test_a_variant_knows_no_safety_floor(model):
    settings = replace(SETTINGS, epochs=1, safety_floor=0.5)
    plan = replace(
        PLAN, settings=settings, choose_layer=False, variants={"uniform": {"shift": "uniform"}}
    )
    made = run_study(model, PROMPTS, plan)
    assert made.outcome.run.config.safety_floor == 0.5
    assert made.outcomes[1].run.config == replace(settings, safety_floor=None, shift="uniform")


def test_chosen_layer_is_that_of_the_scores(done):
    choice = done.look.scores.best()
    record = done.summary()
    assert record["layer"] == choice.layer == done.outcome.run.layer
    assert record["layer_reason"] == choice.reason
    assert record["layer_ties"] == list(choice.ties)
    assert "causal" in {row.score for row in done.look.scores.rows}


@pytest.mark.parametrize("choose", [True, False])
def test_a_search_trains_with_the_settings_whose_trial_was_best(model, choose, monkeypatch):
    sweeps = []

    def recorded(*args, **options):
        sweeps.append(sweep_layers(*args, **options))
        return sweeps[0]

    monkeypatch.setattr(study_plan, "sweep_layers", recorded)
    study = train_chosen_layer(
        model, PROMPTS, replace(PLAN, search=True, choose_layer=choose), on_checkpoint=None
    )
    (sweep,) = sweeps
    tried = {(o.cell.alpha, o.cell.lr) for o in sweep.outcomes}
    assert tried == set(product(AUTO_ALPHAS, AUTO_LRS))
    layers = {o.cell.layer for o in sweep.outcomes}
    assert layers == (set(study.look.scores.ranking()[:4]) if choose else {SETTINGS.layer})
    assert study.run.config == sweep.best.config
    assert same_bits(dict(study.run.state), dict(sweep.best.state))
    assert (study.choice is not None) == choose
    if choose:
        assert f"alpha {study.run.config.alpha:g}" in study.choice.reason
    again = train_chosen_layer(
        model, PROMPTS, replace(PLAN, search=True, choose_layer=choose), resume=study.run
    )
    assert len(sweeps) == 1
    assert again.run.config == study.run.config


def test_scores_that_choose_nothing_are_taken_only_where_they_are_wanted(model, monkeypatch):
    """Without them it is warned of the same, and the same weights are trained."""
    plan = replace(PLAN, choose_layer=False, variants={})
    whole = train_chosen_layer(model, PROMPTS, plan, scores=True)
    assert "causal" in set(whole.look.frame()["score"])
    monkeypatch.delattr("actor_lens.directions.layer_scores.predict_refusals_by_layer")
    study = train_chosen_layer(model, PROMPTS, plan)
    assert set(study.look.frame()["score"]) == set(whole.look.frame()["score"]) - {"causal"}
    assert study.warnings == whole.warnings
    probes = [one.look.frame().query("score == 'probe'") for one in (study, whole)]
    first, second = (one.reset_index(drop=True) for one in probes)
    pd.testing.assert_frame_equal(first, second)  # what it is warned by
    assert same_bits(dict(study.run.state), dict(whole.run.state))
    again = train_chosen_layer(model, PROMPTS, replace(plan, choose_layer=True), resume=study.run)
    assert again.run.layer == study.run.layer


def test_a_ranking_begins_with_the_best_and_names_every_layer(done):
    scores = done.look.scores
    causal = scores.frame().query("score == 'causal'").set_index("layer")["value"]
    ranking = scores.ranking("causal")
    assert sorted(ranking) == list(range(scores.n_layers))
    assert list(causal[ranking]) == sorted(causal, reverse=True)


def test_warnings_are_those_of_before_training(done):
    expected = [*done.look.scores.warnings, *done.outcome.targets.preview().warnings]
    assert done.summary()["warnings"] == list(done.warnings) == expected


def test_named_layer_without_ood_prompts(model):
    plan = replace(PLAN, choose_layer=False, settings=replace(SETTINGS, layer=3), variants={})
    record = as_json(run_study(model, prompts_of("train", "validation", "test"), plan).summary())
    assert (record["layer"], record["layer_ties"]) == (3, [3])
    assert record["layer_reason"] == "named by the user"
    assert record["ood"] == {"before": {}, "after": {}}
    assert record["variants"] == {}


# ---- Directions from train, scores from validation ----


def test_directions_are_fitted_on_train_and_seen_on_validation(model):
    seen = look_at_layers(model, PROMPTS, rounds=5)
    train = refusal_directions(collect_residuals(model, PROMPTS.where(split="train")))
    torch.testing.assert_close(seen.directions.vectors, train.vectors)
    assert seen.projections.prompts == PROMPTS.where(split="validation")
    values = collect_residuals(model, PROMPTS.where(split="validation")).values
    expected = torch.einsum("lpd,ld->lp", values, train.unit)
    torch.testing.assert_close(seen.projections.values, expected, atol=1e-4, rtol=1e-4)
    assert seen.tokens is TOKENS
    assert set(seen.seconds) == {"collect", "score"}


@pytest.mark.parametrize("position", ["instruction", "refusal"])
def test_another_position_asks_the_model_only_how_its_refusals_open(model, position, monkeypatch):
    """A model that refuses nothing has projections, too; only a refusal's token needs refusals."""
    asked = []
    openings = SimpleNamespace(commonest=(50, 51))
    monkeypatch.setattr(look, "refusal_openings", lambda *_: asked.append(1) or openings)
    monkeypatch.setattr(look, "refusal_tokens", lambda *_: asked.append(2))
    seen = look_at_layers(model, PROMPTS, position=position, rounds=5)
    assert asked == [1] * (position == "refusal")
    assert seen.tokens is None
    assert "causal" not in set(seen.frame()["score"])


def test_after_is_projected_on_the_directions_of_before(model, done):
    assert done.outcome.projections.directions is done.look.directions
    with done.outcome.run.applied_to(model):
        residuals = collect_residuals(model, done.outcome.evaluation.prompts)
    expected = torch.einsum("lpd,ld->lp", residuals.values, done.look.directions.unit)
    torch.testing.assert_close(done.outcome.projections.values, expected, atol=1e-4, rtol=1e-4)
    moved = (done.outcome.projections.values - done.before_projections.values).abs()
    layer = done.outcome.run.layer
    assert moved[layer].max() > 0.01
    assert moved[:layer].sum() == 0


# ---- What is trained, shown, continued ----


def test_every_stage_reports(model):
    recorder, trained = Recorder(), []

    def on_trained(one):
        # It can be saved before anything else can fail.
        assert "replies (before)" not in {name for name, _, _ in recorder.stages}
        trained.append(one)

    with reporting(recorder):
        made = run_study(model, PROMPTS, replace(PLAN, variants={}), on_trained=on_trained)
    last = {name: (done, total) for name, done, total in recorder.stages}
    assert {"residuals (train)", "residuals (validation)", "layer scores"} <= set(last)
    assert all(done == total for done, total in last.values())
    assert tuple(recorder.steps) == made.outcome.run.history
    (study,) = trained
    assert (study.run, study.look, study.before) == (made.run, made.look, None)
    without_rates = as_json(study.summary())
    whole = made.summary()
    del without_rates["seconds"], whole["seconds"]
    assert without_rates.items() <= whole.items()
    assert "not evaluated" in repr(study)


def test_a_given_run_is_shown_without_training(model, monkeypatch):
    run = quick_run(model, PROMPTS.where(split="train"), layer=2)

    def train(*_args, **_kwargs):
        raise AssertionError("it was trained")

    monkeypatch.setattr(study_plan, "finetune_layer", train)
    made = run_study(model, PROMPTS, replace(PLAN, variants={}), run=run)
    assert made.outcome.run is run
    assert (made.choice, made.summary()["layer"]) == (None, 2)
    assert made.outcome.targets.layer == 2


@pytest.mark.parametrize("choose", [True, False])
def test_a_stopped_run_is_continued_at_its_layer(model, choose):
    plan = replace(PLAN, variants={}, choose_layer=False, settings=replace(SETTINGS, layer=3))
    whole = train_chosen_layer(model, PROMPTS, plan)
    asked = iter(range(100))
    train = PROMPTS.where(split="train").sample(3, seed=0)
    validation = PROMPTS.where(split="validation")
    stopped = quick_run(
        model,
        train,
        layer=3,
        epochs=2,
        batch_size=6,
        validation=validation,
        tokens=TOKENS,
        should_stop=lambda: next(asked) >= 3,
    )
    settings = replace(SETTINGS, layer=0 if choose else 3)
    plan = replace(plan, choose_layer=choose, settings=settings)
    continued = train_chosen_layer(model, PROMPTS, plan, resume=stopped)
    assert same_bits(dict(continued.run.state), dict(whole.run.state))
    assert len(continued.run.history) == 4


def test_a_run_that_reaches_outside_its_layer_is_found(model):
    """A tensor of another block in the run's state is counted, and taken out again."""
    before = copied_tensors(model)
    run = quick_run(model, PROMPTS.where(split="train"), layer=2)
    name = "model.layers.0.mlp.up_proj.weight"
    bad = replace(run, state={**run.state, name: 2 * model.hf.state_dict()[name]})
    made = run_study(model, PROMPTS, replace(PLAN, variants={}), run=bad)
    assert made.summary()["parameters_changed_outside_layer"] == before[name].numel()
    assert same_bits(before, copied_tensors(model))


# ---- A study of what is at hand ----


def test_a_session_puts_a_study_together_and_a_report_needs_no_more(done, tmp_path, monkeypatch):
    from actor_lens.report.study_report import write_report

    monkeypatch.setattr(evaluate, "write_replies", None)
    study = Study(done.look, done.run, done.before, done.after)
    record, whole = study.summary(), done.summary()
    unknown = {"seconds", "variants", "parameters_changed_outside_layer", "model_parameters"}
    for name in set(whole) - unknown - {"known_harm"}:
        assert record[name] == whole[name]
    assert record["known_harm"] is None
    assert record["parameters_changed_outside_layer"] is None
    page = write_report(study, tmp_path / "report.html").read_text()
    assert "Changed outside the layer" not in page
    assert 'id="plot-shifts"' not in page
    moved = replace(
        study,
        before_projections=done.look.projections,
        after_projections=done.look.projections,
    )
    assert 'id="plot-shifts"' in write_report(moved, tmp_path / "report.html").read_text()


def test_halves_and_unlike_halves_of_a_comparison_are_refused(done):
    with pytest.raises(UserError, match="give both"):
        Study(done.look, done.run, done.before)
    with pytest.raises(UserError, match="different prompts"):
        Study(done.look, done.run, done.before, done.after.where("test"))
    with pytest.raises(UserError, match="no evaluation"):
        _ = Study(done.look, done.run).outcome


def test_results_show_themselves_in_two_lines_without_harmful_prompts(model, done):
    harmful = [one.prompt for one in PROMPTS if one.label == "harmful"]
    for result in (done, done.look, evaluate_run(model, PROMPTS, new_tokens=4)):
        assert len(repr(result).splitlines()) == 2
        assert not any(text in repr(result) + result._repr_html_() for text in harmful)
    assert f"layer {done.run.layer}" in repr(done)


# ---- Evaluating a run ----


def test_evaluating_a_run_gives_before_and_after(model):
    run = quick_run(model, lr=3e-3)
    result = evaluate_run(model, PROMPTS, run, new_tokens=4)
    record = as_json(result.summary())
    assert (record["layer"], record["new_tokens"]) == (1, 4)
    tested = {"harmful": RATE, "pseudo_harmful": RATE, "benign": RATE}
    assert_shaped(record, {"before": tested, "after": tested, "safety_score": PAIR})
    with run.applied_to(model):
        inside = evaluate_run(model, PROMPTS, new_tokens=4)
    assert inside.before.replies == result.after.replies != result.before.replies
    assert list(result.frame().columns)[-1] == "refusal_score_after"


def test_evaluating_no_run_gives_the_model_alone(model):
    record = as_json(evaluate_run(model, PROMPTS, new_tokens=4).summary())
    assert (record["layer"], record["after"], record["change"]) == (None, {}, [])
    assert record["compliance_rate"]["after"] is None
    assert type(record["compliance_rate"]["before"]) is float


@pytest.mark.parametrize("labels", [("benign",), ("harmful", "benign"), ("pseudo_harmful",)])
@pytest.mark.parametrize("split", ["test", "ood"])
def test_what_was_not_measured_is_null(model, labels, split):
    prompts = PromptSet(tuple(p for p in tiny_prompts(2, split) if p.label in labels))
    record = as_json(evaluate_run(model, prompts, quick_run(model), new_tokens=4).summary())
    measured = {"test": {"pseudo_harmful": "compliance_rate", "harmful": "safety_score"}, "ood": {}}
    known = {measured[split].get(label) for label in labels}
    for score in ("compliance_rate", "safety_score", "tradeoff_score"):
        for value in record[score].values():
            assert (value is not None) == (score in known)


def test_evaluation_needs_test_prompts(model):
    with pytest.raises(UserError, match="no prompts in the test split"):
        evaluate_run(model, prompts_of("train", "validation"))


# ---- Refused before the long look ----


@pytest.fixture
def no_look(monkeypatch):
    def begin(*_args, **_kwargs):
        raise AssertionError("the look was begun")

    monkeypatch.setattr(study_plan, "look_at_layers", begin)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": replace(SETTINGS, layer=9)}, "layer 9 is out of range"),
        ({"by": "guess"}, "score 'guess' is not known; use one of silhouette"),
        ({"variants": {"x": {"alpha": -1.0}}}, "alpha is -1"),
        ({"variants": {"x": {"shift": "sideways"}}}, "shift 'sideways' is not known"),
    ],
)
@pytest.mark.usefixtures("no_look")
def test_a_plan_that_cannot_work_is_told_first(model, changes, message):
    with pytest.raises(UserError, match=message):
        run_study(model, PROMPTS, replace(PLAN, **changes))


@pytest.mark.usefixtures("no_look")
def test_runs_that_do_not_fit_are_told_first(model):
    other = quick_run(tiny_chat_model(seed=1), PROMPTS.where(split="train"))
    for name in ("run", "resume"):
        with pytest.raises(UserError, match="trained on other weights"):
            run_study(model, PROMPTS, PLAN, **{name: other})
    with pytest.raises(UserError, match="trained on other weights"):
        evaluate_run(model, PROMPTS, other)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (("train", "validation"), "0 harmful prompts in the test split"),
        (("validation", "test"), "0 harmful prompts in the train split"),
    ],
)
@pytest.mark.usefixtures("no_look")
def test_missing_splits_are_told_first(model, splits, message):
    with pytest.raises(UserError, match=message):
        run_study(model, prompts_of(*splits), PLAN)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_look_needs_two_prompts_of_each_label(model, split):
    other = {"train": "validation", "validation": "train"}[split]
    few = (*tiny_prompts(2, other), *tiny_prompts(2, split)[:5], Prompt("x", "harmful", "test"))
    with pytest.raises(UserError, match=f"1 benign prompts in the {split} split"):
        look_at_layers(model, PromptSet(few))


def test_numbers_in_the_record_are_finite(done):
    def numbers(value):
        if isinstance(value, dict):
            return [n for one in value.values() for n in numbers(one)]
        if isinstance(value, list):
            return [n for one in value for n in numbers(one)]
        return [value] if isinstance(value, float) else []

    assert all(math.isfinite(number) for number in numbers(done.summary()))
