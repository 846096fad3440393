"""Law: a target is the activation moved along u by the closed form, and by nothing else.

With ``m = a.u - o`` (projected) or ``m = |R|`` (uniform) the target is ``a - alpha m u``, for
harmful prompts ``a + alpha m u``. The preview says beforehand which class moves the wrong way, and
is silent otherwise.
"""

import re
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from actor_lens.activations.residuals import Residuals
from actor_lens.directions.options import FIXED_ORIGINS, SHIFTS
from actor_lens.directions.refusal_directions import Directions, refusal_directions
from actor_lens.directions.targets import Targets, just_enough_targets
from actor_lens.errors import UserError, check_positive
from actor_lens.prompts.rows import LABELS
from tests.support.planted import random_residuals, residuals_of

LAYER = 1
HARMLESS = ("pseudo_harmful", "benign")
seeds = st.integers(0, 2**32 - 1)
alphas = st.floats(0.01, 3.0)


def parts(residuals: Residuals) -> tuple[Directions, np.ndarray, np.ndarray, np.ndarray]:
    """Directions, and in float64: activations, R and u at the layer."""
    directions = refusal_directions(residuals)
    vector = directions.vectors[LAYER].double().numpy()
    unit = vector / np.sqrt(vector @ vector)
    return directions, residuals.values[LAYER].double().numpy(), vector, unit


def origin_in_float64(residuals: Residuals, unit: np.ndarray, origin: str) -> float:
    labels = np.array(residuals.prompts.labels)
    along = residuals.values[LAYER].double().numpy() @ unit
    benign, harmful = along[labels == "benign"].mean(), along[labels == "harmful"].mean()
    return {"zero": 0.0, "benign_mean": benign, "midpoint": (benign + harmful) / 2}[origin]


@pytest.mark.parametrize("origin", FIXED_ORIGINS)
@pytest.mark.parametrize("shift", SHIFTS)
@given(seed=seeds, alpha=alphas, scale=st.sampled_from([0.01, 1.0, 100.0]))
def test_targets_have_their_closed_form(
    origin: str, shift: str, seed: int, alpha: float, scale: float
):
    residuals = random_residuals(per_label=3, seed=seed, scale=scale)
    directions, before, vector, unit = parts(residuals)
    targets = just_enough_targets(
        residuals, directions, LAYER, alpha=alpha, origin=origin, shift=shift
    )
    o = origin_in_float64(residuals, unit, origin)
    for row, label in enumerate(residuals.prompts.labels):
        amount = before[row] @ unit - o if shift == "projected" else np.sqrt(vector @ vector)
        way = alpha * amount if label == "harmful" else -alpha * amount
        tolerance = 1e-5 * scale * (1 + alpha)
        np.testing.assert_allclose(targets.shifts[row], way, atol=tolerance, rtol=1e-4)
        np.testing.assert_allclose(
            targets.values[row], before[row] + way * unit, atol=tolerance, rtol=1e-4
        )


@given(seed=seeds, alpha=alphas)
def test_zero_origin_is_the_formula_of_the_paper(seed: int, alpha: float):
    residuals = random_residuals(per_label=2, seed=seed)
    directions, before, vector, _ = parts(residuals)
    targets = just_enough_targets(residuals, directions, LAYER, alpha=alpha, origin="zero")
    for row, label in enumerate(residuals.prompts.labels):
        projection = (before[row] @ vector) / (vector @ vector) * vector
        expected = (
            before[row] + alpha * projection
            if label == "harmful"
            else before[row] - alpha * projection
        )
        np.testing.assert_allclose(targets.values[row], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("origin", FIXED_ORIGINS)
@given(seed=seeds)
def test_the_whole_way_ends_on_the_origin(origin: str, seed: int):
    residuals = random_residuals(per_label=3, seed=seed)
    directions, before, _, unit = parts(residuals)
    targets = just_enough_targets(residuals, directions, LAYER, alpha=1.0, origin=origin)
    ends = targets.values.double().numpy() @ unit
    o = origin_in_float64(residuals, unit, origin)
    starts = before @ unit
    for row, label in enumerate(residuals.prompts.labels):
        if label in HARMLESS:
            assert ends[row] == pytest.approx(o, abs=1e-4)
        else:  # twice as far from the origin, on the same side
            assert ends[row] - o == pytest.approx(2 * (starts[row] - o), abs=1e-4)


@pytest.mark.parametrize("shift", SHIFTS)
@given(seed=seeds, alpha=alphas)
def test_what_is_orthogonal_to_the_direction_stays(shift: str, seed: int, alpha: float):
    residuals = random_residuals(per_label=2, seed=seed)
    directions, before, _, unit = parts(residuals)
    targets = just_enough_targets(residuals, directions, LAYER, alpha=alpha, shift=shift)
    after = targets.values.double().numpy()
    across = np.eye(len(unit)) - np.outer(unit, unit)
    np.testing.assert_allclose(after @ across, before @ across, atol=1e-4)


def test_uniform_shift_is_one_length_for_all():
    residuals = random_residuals(per_label=4)
    directions, _, vector, _ = parts(residuals)
    shifts = just_enough_targets(
        residuals, directions, LAYER, alpha=0.5, shift="uniform"
    ).shifts.numpy()
    signs = np.array([1 if label == "harmful" else -1 for label in residuals.prompts.labels])
    np.testing.assert_allclose(shifts, signs * 0.5 * np.linalg.norm(vector), rtol=1e-5)
    projected = just_enough_targets(residuals, directions, LAYER, alpha=0.5).shifts.numpy()
    assert np.unique(np.abs(projected).round(4)).size == len(projected)


@pytest.mark.parametrize("shift", SHIFTS)
def test_moves_lead_from_each_activation_to_its_target(shift: str):
    residuals = random_residuals()
    targets = just_enough_targets(residuals, refusal_directions(residuals), LAYER, shift=shift)
    start = residuals.values[LAYER].double().numpy()
    expected = targets.values.double().numpy() - start
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(targets.shifts[:, None] * targets.unit, expected, atol=1e-5)


def test_the_layer_is_the_one_asked_for():
    residuals = random_residuals()
    directions = refusal_directions(residuals)
    for layer in range(residuals.n_layers):
        targets = just_enough_targets(residuals, directions, layer)
        moved = targets.values - residuals.values[layer]
        torch.testing.assert_close(
            moved, targets.shifts[:, None] * directions.unit[layer], rtol=0, atol=1e-5
        )


def test_frame_tells_where_each_prompt_starts_and_ends():
    residuals = random_residuals(per_label=3)
    directions, before, _, unit = parts(residuals)
    targets = just_enough_targets(residuals, directions, LAYER, alpha=0.7, origin="midpoint")
    frame = targets.frame()
    assert list(frame.columns) == [
        "prompt_index",
        "prompt",
        "label",
        "split",
        "category",
        "before",
        "after",
        "shift",
    ]
    np.testing.assert_allclose(frame["before"], before @ unit, atol=1e-5)
    np.testing.assert_allclose(frame["after"], targets.values.double().numpy() @ unit, atol=1e-5)
    np.testing.assert_allclose(frame["after"] - frame["before"], frame["shift"], atol=1e-5)
    assert frame["label"].tolist() == list(residuals.prompts.labels)


# ---- Preview ----


def on_a_line(places: Mapping[str, float], spread: float = 0.5) -> Residuals:
    """Two prompts a label, on either side of its place on the first of two axes."""
    labels = tuple(label for label in places for _ in range(2))
    along = [place + side * spread for place in places.values() for side in (-1, 1)]
    values = np.stack([along, np.tile([1.0, -1.0], len(places))], axis=-1)
    return residuals_of(np.stack([values, values]), labels)


def line_targets(
    places: Mapping[str, float],
    *,
    alpha: float = 1.0,
    origin: str = "benign_mean",
    shift: str = "projected",
) -> Targets:
    residuals = on_a_line(places)
    return just_enough_targets(
        residuals, refusal_directions(residuals), LAYER, alpha=alpha, origin=origin, shift=shift
    )


BELOW_ZERO = {"harmful": 6.0, "pseudo_harmful": 3.0, "benign": -4.0}
ABOVE_ZERO = {"harmful": 9.0, "pseudo_harmful": 7.0, "benign": 1.0}
ALL_BELOW = {"harmful": -2.0, "pseudo_harmful": -4.0, "benign": -10.0}


def test_preview_holds_the_class_means_of_the_frame():
    residuals = random_residuals(per_label=5)
    targets = just_enough_targets(
        residuals, refusal_directions(residuals), LAYER, alpha=0.6, origin="midpoint"
    )
    preview = targets.preview().frame().set_index("label")
    means = targets.frame().groupby("label")[["before", "after"]].mean()
    assert list(preview.index) == list(LABELS)
    for label in LABELS:
        assert preview.loc[label, "before"] == pytest.approx(means.loc[label, "before"], abs=1e-5)
        assert preview.loc[label, "after"] == pytest.approx(means.loc[label, "after"], abs=1e-5)
    harmful, benign = means.loc["harmful", "before"], means.loc["benign", "before"]
    np.testing.assert_allclose(preview["harmful_mean"], harmful, atol=1e-5)
    np.testing.assert_allclose(preview["benign_mean"], benign, atol=1e-5)
    np.testing.assert_allclose(preview["origin"], (harmful + benign) / 2, atol=1e-5)


def test_preview_of_the_default_moves_only_as_wanted():
    preview = line_targets(BELOW_ZERO).preview()
    frame = preview.frame().set_index("label")
    assert frame["toward"].to_dict() == {
        "harmful": "refusal",
        "pseudo_harmful": "compliance",
        "benign": "neither",
    }
    assert not frame["wrong_way"].any()
    assert frame["after"].to_dict() == pytest.approx(
        {"harmful": 16.0, "pseudo_harmful": -4.0, "benign": -4.0}
    )
    assert preview.warnings == ()


def test_benign_prompts_below_zero_move_toward_refusal_with_origin_zero():
    preview = line_targets(BELOW_ZERO, origin="zero").preview()
    assert preview.warnings == (
        "benign prompts would move toward refusal (mean projection -4.00 -> 0.00)",
    )
    assert preview.frame().set_index("label")["wrong_way"].to_dict() == {
        "harmful": False,
        "pseudo_harmful": False,
        "benign": True,
    }


def test_every_class_may_move_the_wrong_way():
    preview = line_targets(ALL_BELOW, origin="zero").preview()
    assert preview.frame()["wrong_way"].all()
    assert preview.warnings == (
        "harmful prompts would move toward compliance (mean projection -2.00 -> -4.00)",
        "pseudo-harmful prompts would move toward refusal (mean projection -4.00 -> 0.00)",
        "benign prompts would move toward refusal (mean projection -10.00 -> 0.00)",
    )
    assert line_targets(ALL_BELOW, origin="benign_mean").preview().warnings == ()


def test_pseudo_harmful_prompts_below_the_origin_are_warned_of():
    places = {"harmful": 6.0, "pseudo_harmful": -3.0, "benign": -4.0}
    assert (
        line_targets(places, origin="midpoint")
        .preview()
        .warnings[0]
        .startswith(
            "pseudo-harmful prompts would move toward refusal (mean projection -3.00 -> 1.00)"
        )
    )


def test_overshooting_is_warned_of_where_the_uniform_shift_overshoots():
    # |R| is 8: pseudo-harmful prompts go from 7 to -1, within half the gap below the benign mean;
    # benign ones from 1 to -7.
    preview = line_targets(ABOVE_ZERO, shift="uniform").preview()
    assert len(preview.warnings) == 1
    assert preview.warnings[0].startswith(
        "benign prompts would move far below the benign mean 1.00 (mean projection 1.00 -> -7.00)"
    )
    assert not preview.frame()["wrong_way"].any()
    twice = line_targets(ABOVE_ZERO, shift="uniform", alpha=2.0).preview().warnings
    assert [warning.split()[0] for warning in twice] == ["pseudo-harmful", "benign"]
    assert line_targets(ABOVE_ZERO, shift="uniform", alpha=0.4).preview().warnings == ()


@given(
    benign=st.floats(-20, 20),
    gap=st.floats(1, 20),
    pseudo=st.floats(-0.5, 1.5),
    alpha=st.floats(0.05, 2),
    origin=st.sampled_from(FIXED_ORIGINS),
    shift=st.sampled_from(SHIFTS),
)
def test_a_class_is_warned_of_exactly_when_its_mean_moves_the_wrong_way(
    benign: float, gap: float, pseudo: float, alpha: float, origin: str, shift: str
):
    places = {"harmful": benign + gap, "pseudo_harmful": benign + pseudo * gap, "benign": benign}
    o = {"zero": 0.0, "benign_mean": benign, "midpoint": benign + gap / 2}[origin]
    warnings = line_targets(places, alpha=alpha, origin=origin, shift=shift).preview().warnings
    for label, place in places.items():
        way = alpha * (gap if shift == "uniform" else place - o)
        wrong_by = -way if label == "harmful" else way * -1
        if abs(abs(wrong_by) - 0.05 * gap) < 1e-3:  # rounding decides on the edge
            continue
        word = "compliance" if label == "harmful" else "refusal"
        pattern = f"^{label.replace('_', '-')} prompts would move toward {word}"
        warned = any(re.match(pattern, warning) for warning in warnings)
        assert warned == (wrong_by > 0.05 * gap)


def test_classes_that_are_absent_are_not_previewed():
    places = {"harmful": 4.0, "benign": -4.0}
    assert line_targets(places).preview().frame()["label"].tolist() == ["harmful", "benign"]


def test_previewed_prompts_need_not_be_those_of_the_directions():
    directions = refusal_directions(on_a_line(BELOW_ZERO))
    others = on_a_line({"pseudo_harmful": 1.0})
    row = just_enough_targets(others, directions, LAYER).preview().frame().iloc[0]
    assert (row["before"], row["after"]) == pytest.approx((1.0, -4.0), abs=1e-5)
    assert (row["harmful_mean"], row["benign_mean"]) == pytest.approx((6.0, -4.0), abs=1e-5)


# ---- Bad arguments ----


@pytest.mark.parametrize(
    "alpha", [0, 0.0, -1, -0.5, float("nan"), float("inf"), 10**400, True, "1", None, 1j]
)
def test_alpha_that_is_not_a_positive_number_is_refused(alpha: object):
    with pytest.raises(UserError, match=re.escape(f"alpha is {alpha!r}; give a positive finite")):
        check_positive("alpha", alpha)


@pytest.mark.parametrize("alpha", [1, 0.3, np.float32(0.3), np.float64(2), np.int64(2)])
def test_alpha_may_be_any_kind_of_real_number(alpha: float):
    assert check_positive("alpha", alpha) == alpha


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_targets_check_alpha(alpha: float):
    residuals = random_residuals()
    with pytest.raises(UserError, match="alpha is"):
        just_enough_targets(residuals, refusal_directions(residuals), LAYER, alpha=alpha)


@pytest.mark.parametrize("layer", [-1, 3])
def test_a_layer_out_of_range_is_refused(layer: int):
    residuals = random_residuals(n_layers=3)
    with pytest.raises(UserError, match=f"layer {layer} is out of range: layers 0 to 2"):
        just_enough_targets(residuals, refusal_directions(residuals), layer)


def test_an_unknown_origin_is_refused():
    residuals = random_residuals()
    with pytest.raises(UserError, match="origin 'mean' is not known; use one of benign_mean, mid"):
        just_enough_targets(residuals, refusal_directions(residuals), 0, origin="mean")


def test_an_unknown_shift_is_refused():
    residuals = random_residuals()
    with pytest.raises(UserError, match="shift 'equal' is not known; use one of projected, unif"):
        just_enough_targets(residuals, refusal_directions(residuals), 0, shift="equal")


def test_directions_of_another_model_are_refused():
    residuals = random_residuals(n_layers=3, d_model=5)
    other = refusal_directions(random_residuals(n_layers=3, d_model=6))
    with pytest.raises(UserError, match="3 layers of width 5, the directions 3 of width 6"):
        just_enough_targets(residuals, other, 0)
