"""Law: a direction is the mean harmful residual minus the mean benign one, at each layer apart.

It finds what was planted, points toward refusal, and a large mean that all prompts share does not
blur it.
"""

import numpy as np
import pytest
import torch

from actor_lens.directions.options import FIXED_ORIGINS, ORIGINS
from actor_lens.directions.refusal_directions import refusal_directions
from actor_lens.errors import UserError
from tests.support.planted import planted_residuals, random_residuals, residuals_of

COUNTS = {"harmful": 60, "pseudo_harmful": 40, "benign": 80}
LABELLED = ("harmful", "pseudo_harmful", "benign")


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def test_planted_direction_is_found_and_points_toward_refusal():
    residuals, planted = planted_residuals(COUNTS, (2.0, 3.0, 4.0))
    vectors = refusal_directions(residuals).vectors.double().numpy()
    assert (cosines(vectors, planted) > 0.99).all()
    # Harmful prompts lie at +4, benign ones at -4, times the strength of the layer.
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [16, 24, 32], rtol=0.05)


def test_direction_is_the_difference_of_means_in_float64():
    residuals = random_residuals()
    values = residuals.values.double().numpy()
    is_label = {label: np.array(residuals.prompts.labels) == label for label in LABELLED}
    directions = refusal_directions(residuals)
    for label, chosen in is_label.items():
        np.testing.assert_allclose(directions.means[label], values[:, chosen].mean(1), rtol=1e-6)
    expected = values[:, is_label["harmful"]].mean(1) - values[:, is_label["benign"]].mean(1)
    np.testing.assert_allclose(directions.vectors, expected, rtol=1e-6)
    np.testing.assert_allclose(
        directions.unit, expected / np.linalg.norm(expected, axis=1)[:, None], rtol=1e-5
    )


def test_a_large_common_offset_does_not_spoil_the_means():
    # 3000 prompts at 1e4: sums in float32 would lose about as much as the classes differ by.
    counts = {"harmful": 3000, "benign": 3000}
    residuals, _ = planted_residuals(counts, (0.02,), offset=1e4)
    values = residuals.values.double().numpy()
    harmful = np.array(residuals.prompts.labels) == "harmful"
    expected = values[:, harmful].mean(1) - values[:, ~harmful].mean(1)
    np.testing.assert_allclose(refusal_directions(residuals).vectors, expected, atol=1e-6)


def test_swapping_the_labels_turns_the_direction_round():
    residuals = random_residuals()
    swap = {"harmful": "benign", "benign": "harmful", "pseudo_harmful": "pseudo_harmful"}
    swapped = residuals_of(
        residuals.values, tuple(swap[label] for label in residuals.prompts.labels)
    )
    torch.testing.assert_close(
        refusal_directions(swapped).vectors, -refusal_directions(residuals).vectors
    )


def test_pseudo_harmful_prompts_have_no_say():
    residuals = random_residuals()
    moved = residuals.values.clone()
    moved[:, residuals.mask("pseudo_harmful")] += 100.0
    again = refusal_directions(residuals_of(moved, residuals.prompts.labels))
    torch.testing.assert_close(again.vectors, refusal_directions(residuals).vectors)


def test_origins_have_their_closed_form():
    # Benign prompts at (1, 0), (3, 0), harmful ones at (7, 8): R = (5, 8), the shared mean is far.
    values = np.array([[[1.0, 0.0], [3.0, 0.0], [7.0, 8.0]]])
    directions = refusal_directions(residuals_of(values, ("benign", "benign", "harmful")))
    length = np.sqrt(5**2 + 8**2)
    benign, harmful = 2 * 5 / length, (7 * 5 + 8 * 8) / length
    assert directions.mean_projections("harmful").item() == pytest.approx(harmful)
    assert directions.origins("zero").tolist() == [0.0]
    assert directions.origins("benign_mean").item() == pytest.approx(benign)
    assert directions.origins("midpoint").item() == pytest.approx((benign + harmful) / 2)


def test_origin_keeps_its_digits_beside_a_large_mean():
    residuals, _ = planted_residuals(COUNTS, (1.0, 2.0), offset=1e4, d_model=64)
    directions = refusal_directions(residuals)
    expected = np.einsum(
        "ld,ld->l", directions.means["benign"].double().numpy(), directions.unit.double().numpy()
    )
    np.testing.assert_allclose(directions.origins("benign_mean"), expected, rtol=1e-7)


def test_frame_has_a_row_a_layer_with_norm_and_means():
    residuals = random_residuals(n_layers=3)
    directions = refusal_directions(residuals)
    frame = directions.frame()
    assert list(frame.columns) == [
        "layer",
        "norm",
        "mean_harmful",
        "mean_pseudo_harmful",
        "mean_benign",
    ]
    assert frame["layer"].tolist() == [0, 1, 2]
    np.testing.assert_allclose(
        frame["norm"], np.linalg.norm(directions.vectors.numpy(), axis=1), rtol=1e-6
    )
    # The means of harmful and benign prompts lie |R| apart on the direction between them.
    np.testing.assert_allclose(frame["mean_harmful"] - frame["mean_benign"], frame["norm"], 1e-4)


def test_pseudo_harmful_prompts_may_be_absent():
    residuals, _ = planted_residuals({"harmful": 3, "benign": 3})
    directions = refusal_directions(residuals)
    assert set(directions.means) == {"harmful", "benign"}


@pytest.mark.parametrize("missing", ["harmful", "benign"])
def test_a_missing_label_is_named(missing: str):
    labels = {"harmful", "pseudo_harmful", "benign"} - {missing}
    residuals, _ = planted_residuals(dict.fromkeys(sorted(labels), 3))
    with pytest.raises(UserError, match=f"no {missing} prompts"):
        refusal_directions(residuals)


def test_equal_means_are_refused_with_their_layer():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 20, 8)) + 5
    values[1, 10:] = values[1, :10]
    with pytest.raises(UserError, match="same mean at layer 1"):
        refusal_directions(residuals_of(values, ("harmful",) * 10 + ("benign",) * 10))


def test_means_that_differ_by_rounding_only_are_refused():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(501, 8)) * 100
    values = np.concatenate([rows, rng.permutation(rows)])[None]
    with pytest.raises(UserError, match="same mean at layer 0"):
        refusal_directions(residuals_of(values, ("harmful",) * 501 + ("benign",) * 501))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_residuals_that_are_not_finite_are_refused(bad: float):
    residuals = random_residuals()
    residuals.values[1, 2, 3] = bad
    with pytest.raises(UserError, match="'planted' hold values that are not finite"):
        refusal_directions(residuals)


def test_an_unknown_origin_is_refused():
    directions = refusal_directions(random_residuals())
    with pytest.raises(UserError, match=f"origin 'mean' is not known; use one of {ORIGINS[0]}"):
        directions.origins("mean")


def test_anchors_stand_in_for_harmful_and_benign_prompts():
    residuals, anchors = random_residuals(seed=0), random_residuals(seed=1)
    found, own, theirs = (
        refusal_directions(residuals, anchors=anchors),
        refusal_directions(residuals),
        refusal_directions(anchors),
    )
    assert torch.equal(found.vectors, theirs.vectors)
    assert torch.equal(found.means["pseudo_harmful"], own.means["pseudo_harmful"])
    for origin in FIXED_ORIGINS:
        assert torch.equal(found.origins(origin), theirs.origins(origin))
    benign = anchors.select(anchors.prompts.where(label="benign"))
    with pytest.raises(UserError, match="no harmful anchors"):
        refusal_directions(residuals, anchors=benign)
