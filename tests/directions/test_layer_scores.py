"""Law: the layer with a planted difference wins, ties are named, and no layer is praised idly."""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.metrics import silhouette_score

from actor_lens.activations.positions import Position
from actor_lens.directions.layer_scores import (
    LayerScore,
    LayerScores,
    score_layers,
)
from actor_lens.directions.options import SCORES
from actor_lens.directions.projections import Projections, project
from actor_lens.directions.refusal_directions import refusal_directions
from actor_lens.errors import UserError
from actor_lens.judges.first_token import RefusalTokens
from actor_lens.progress import reporting
from actor_lens.prompts.rows import PAIRS
from actor_lens.statistics.form_control import form_control
from actor_lens.statistics.separation import Measurement, auroc, gap, probe_accuracy, silhouette
from tests.support.planted import PLACES, planted_residuals
from tests.support.reports import Recorder
from tests.support.tiny_models import tiny_chat_model

COUNTS = {"harmful": 30, "pseudo_harmful": 24, "benign": 36}
NAN = float("nan")


def planted(
    strengths: tuple[float, ...],
    *,
    counts: Mapping[str, int] = COUNTS,
    places: Mapping[str, float] = PLACES,
) -> Projections:
    """Validation prompts on directions that were fitted to other prompts of the same layers."""
    twice = {label: 2 * count for label, count in counts.items()}
    residuals, _ = planted_residuals(twice, strengths, places=places)
    seen: dict[str, int] = dict.fromkeys(counts, 0)
    halves: tuple[list[int], list[int]] = ([], [])
    for index, label in enumerate(residuals.prompts.labels):
        halves[seen[label] % 2].append(index)
        seen[label] += 1
    fitted, validation = (residuals.select(residuals.prompts.select(half)) for half in halves)
    return project(validation, refusal_directions(fitted))


# ---- Scores of every layer ----


def test_the_planted_layer_is_best_by_every_score():
    scores = score_layers(planted((0.1, 0.3, 2.0, 0.3, 0.1)), rounds=50)
    for by in ("silhouette", "gap"):
        assert (scores.best(by).layer, scores.best(by).ties) == (2, (2,))
    for by in ("auroc", "probe"):
        assert 2 in scores.best(by).ties
    assert scores.best().by == "silhouette"


def test_every_layer_has_every_score_of_both_pairs():
    scores = score_layers(planted((0.5, 1.0)), rounds=20)
    frame = scores.frame()
    assert list(frame.columns) == [
        "layer",
        "score",
        "pair",
        "value",
        "low",
        "high",
        "null_low",
        "null_high",
    ]
    assert len(frame) == 2 * 4 * 2
    assert set(frame["score"]) == set(SCORES) - {"causal"}
    assert set(frame["pair"]) == set(PAIRS)
    assert (frame["low"] <= frame["value"]).all()
    assert (frame["value"] <= frame["high"]).all()
    assert scores.n_layers == 2


def test_scores_are_those_of_the_right_prompts_at_the_right_layer():
    projections = planted((0.4, 0.8))
    frame = score_layers(projections, rounds=20).frame()
    labels = np.array(projections.prompts.labels)
    rng = np.random.default_rng(0)
    for layer in range(2):
        for pair, (high, low) in PAIRS.items():
            chosen = (labels == high) | (labels == low)
            positive = labels[chosen] == high
            points = projections.residuals.values[layer].double().numpy()[chosen]
            along = projections.values[layer].double().numpy()[chosen]
            rows = frame[(frame["layer"] == layer) & (frame["pair"] == pair)]
            found = rows.set_index("score")["value"].to_dict()
            assert found == pytest.approx(
                {
                    "silhouette": silhouette(
                        cdist(points, points), positive, rounds=2, rng=rng
                    ).value,
                    "auroc": auroc(along, positive, rounds=2, rng=rng).value,
                    "gap": gap(along, positive, rounds=2, rng=rng).value,
                    "probe": probe_accuracy(points, positive, seed=0).value,
                }
            )


def test_scores_are_repeatable_and_the_seed_counts():
    projections = planted((0.5, 0.6))
    first, again, other = (score_layers(projections, rounds=20, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_progress_is_told_for_every_layer():
    recorder = Recorder()
    with reporting(recorder):
        score_layers(planted((1.0, 1.0, 1.0)), rounds=2)
    assert recorder.stages == [("layer scores", done, 3) for done in (1, 2, 3)]


def test_without_pseudo_harmful_prompts_one_pair_is_scored():
    scores = score_layers(planted((1.0,), counts={"harmful": 9, "benign": 9}), rounds=20)
    assert set(scores.frame()["pair"]) == {"harmful_vs_benign"}
    assert of_probes(scores) == []


# ---- Warnings ----


def of_probes(scores):
    """Warnings that are not about form: planted prompts are named after their labels."""
    return [one for one in scores.warnings if not one.startswith("form alone")]


def test_form_alone_is_measured_on_the_same_prompts_and_warned_of():
    projections = planted((1.0,), counts={"harmful": 25, "pseudo_harmful": 25, "benign": 25})
    scores = score_layers(projections, rounds=2)
    form = form_control(projections.prompts, by_part=False)
    assert scores.form.frame().equals(form.frame())
    assert scores.summary()["form"] == form.summary()
    assert [one for one in scores.warnings if one.startswith("form alone")] == list(form.warnings)
    assert len(form.warnings) == 2


def test_inseparable_prompts_are_warned_of():
    same = {"harmful": 4.0, "pseudo_harmful": 4.0, "benign": -4.0}
    (warning,) = of_probes(score_layers(planted((0.5, 1.0), places=same), rounds=2))
    assert warning.startswith(
        "harmful and pseudo-harmful prompts cannot be told apart at any layer"
    )
    assert warning.endswith("training one layer will make the model refuse both or answer both")


def test_where_no_layer_is_trained_no_training_is_warned_of():
    same = {"harmful": 4.0, "pseudo_harmful": 4.0, "benign": -4.0}
    residuals, _ = planted_residuals(COUNTS, (0.5, 1.0), places=same)
    residuals = replace(residuals, position=Position("instruction", behind=3))
    projections = project(residuals, refusal_directions(residuals))
    (warning,) = of_probes(score_layers(projections, rounds=2))
    assert warning.startswith("harmful and pseudo-harmful prompts cannot be told apart")
    assert "refuse both" not in warning
    assert "at the end of the instruction, while training acts at the last token" in warning


def test_one_layer_that_tells_them_apart_is_enough():
    apart = {"harmful": 6.0, "pseudo_harmful": 0.0, "benign": -4.0}
    assert of_probes(score_layers(planted((0.0, 1.0, 0.0), places=apart), rounds=2)) == []


@pytest.mark.parametrize(("accuracy", "warned"), [(0.79, True), (0.81, False), (NAN, False)])
def test_the_best_probe_decides_on_the_warning(accuracy: float, warned: bool):
    scores = scored("silhouette", [0.1, 0.2], probes=[0.5, accuracy])
    assert bool(scores.warnings) == (warned or math.isnan(accuracy))
    if warned:
        assert "probe 0.79, chance 0.50" in scores.warnings[0]


# ---- The choice ----


def scored(
    by: str, values: list[float], *, low: float = 0.0, probes: list[float] | None = None
) -> LayerScores:
    """Scores as given; every interval reaches down by ``low``."""
    pair = "all" if by == "causal" else "harmful_vs_benign"
    rows = [
        LayerScore(layer, by, pair, Measurement(value, value - low, value + low, NAN, NAN))
        for layer, value in enumerate(values)
    ]
    rows += [
        LayerScore(
            layer, "probe", "harmful_vs_pseudo_harmful", Measurement(probe, NAN, NAN, NAN, NAN)
        )
        for layer, probe in enumerate(probes or [])
    ]
    return LayerScores(tuple(rows), len(values))


def test_a_layer_that_is_best_alone_is_chosen():
    choice = scored("silhouette", [0.1, 0.5, 0.2], low=0.1).best()
    assert (choice.layer, choice.by, choice.ties) == (1, "silhouette", (1,))
    assert choice.reason == (
        "layer 1 has the best silhouette of harmful against benign prompts (0.50)"
    )


def test_layers_within_the_interval_of_the_best_tie():
    choice = scored("auroc", [0.80, 0.91, 0.89, 0.95, 0.99], low=0.1).best("auroc")
    assert choice.ties == (1, 2, 3, 4)
    assert choice.layer == 2  # the middle
    assert choice.reason == (
        "layers 1 to 4 tie on the AUROC of harmful against benign prompts, whose best is 0.99 at "
        "layer 4; of these, layer 2 is nearest to the middle of the network"
    )


def test_a_probe_breaks_ties_before_the_middle():
    choice = scored(
        "causal", [0.9, 0.95, 0.96, 0.97, 0.5, 0.97], low=0.1, probes=[0.9, 0.7, 0.8, 0.7, 1.0, 0.8]
    ).best()
    assert choice.ties == (0, 1, 2, 3, 5)
    assert choice.layer == 0
    assert choice.reason == (
        "layers 0 to 3 and 5 tie on the trade-off score predicted by moving each prompt to its "
        "target, whose best is 0.97 at layer 3; of these, layer 0 tells harmful from "
        "pseudo-harmful prompts apart best (probe 0.90)"
    )


def test_probes_within_two_points_leave_it_to_the_middle():
    choice = scored("gap", [2.0, 2.1, 2.2, 2.1], low=1.0, probes=[0.908, 0.70, 0.894, 0.70]).best(
        "gap"
    )
    assert choice.layer == 2
    assert choice.reason.endswith(
        "of these, layer 2 tells harmful from pseudo-harmful prompts apart as well as the best, "
        "give or take 0.02 (probe 0.89) and is nearest to the middle of the network"
    )


def test_two_layers_that_tie_are_named_without_a_range():
    choice = scored("probe", [0.9, 0.5, 0.5, 0.9], low=0.05).best("probe")
    assert choice.reason.startswith("layers 0 and 3 tie on the probe accuracy")
    assert choice.layer == 0  # both are as far from the middle


def test_the_causal_score_is_the_default_where_it_was_measured():
    both = LayerScores(scored("silhouette", [0.9, 0.1]).rows + scored("causal", [0.5, 0.7]).rows, 2)
    assert (both.best().layer, both.best().by) == (1, "causal")
    assert both.best("silhouette").layer == 0


def test_values_and_intervals_that_are_not_known_do_no_harm():
    choice = scored("gap", [NAN, 2.0, 1.9], low=NAN).best("gap")
    assert (choice.layer, choice.ties) == (1, (1,))
    with pytest.raises(UserError, match="'gap' was not measured"):
        scored("gap", [NAN, NAN]).best("gap")


def test_scores_that_are_not_there_are_refused():
    scores = scored("silhouette", [0.1, 0.2])
    with pytest.raises(UserError, match="score 'f1' is not known; use one of silhouette, auroc"):
        scores.best("f1")
    with pytest.raises(UserError, match="'causal' was not measured; pass the model"):
        scores.best("causal")


# ---- Bad arguments ----


def test_a_model_of_another_shape_is_refused():
    tokens, other = RefusalTokens((1,), ("",)), planted((1.0, 1.0))
    with pytest.raises(UserError, match="4 layers of width 32, the residuals 2"):
        score_layers(other, model=tiny_chat_model(), tokens=tokens)


@pytest.mark.parametrize("label", ["harmful", "benign"])
def test_too_few_prompts_are_refused(label: str):
    projections = planted((1.0,), counts={**COUNTS, label: 1})
    with pytest.raises(UserError, match=f"scoring layers needs at least 2 {label} prompts"):
        score_layers(projections)


def test_no_rounds_are_refused():
    with pytest.raises(UserError, match=r"rounds is 0; .*at least 1"):
        score_layers(planted((1.0,)), rounds=0)


def test_distances_are_those_of_float64_beside_a_large_common_offset():
    residuals, _ = planted_residuals(COUNTS, (1.0, 3.0), offset=1000.0)
    frame = score_layers(project(residuals, refusal_directions(residuals)), rounds=2).frame()
    labels = np.array(residuals.prompts.labels)
    for pair, names in PAIRS.items():
        chosen = np.isin(labels, names)
        rows = frame[(frame["score"] == "silhouette") & (frame["pair"] == pair)]
        for layer, value in zip(rows["layer"], rows["value"], strict=True):
            points = residuals.values[layer].double().numpy()[chosen]
            assert value == pytest.approx(silhouette_score(points, labels[chosen]), abs=1e-9)
