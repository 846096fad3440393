"""A planted subspace is found with its dimension, and its scores are those of an independent fit.

Truth: kinds planted along known axes; float64 NumPy; the densities of SciPy; the
refusal direction; and that turning the residual stream turns directions and changes no score.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from actor_lens.activations.positions import Position
from actor_lens.activations.residuals import Residuals
from actor_lens.directions.refusal_directions import refusal_directions
from actor_lens.directions.subspaces import (
    FOLDS,
    SUBSPACE_PAIRS,
    RefusalSubspace,
    kinds_of,
    refusal_subspace,
)
from actor_lens.errors import UserError
from actor_lens.figures import subspace_steps
from actor_lens.prompts.rows import Prompt
from actor_lens.prompts.sets import PromptSet
from tests.test_results import shown

D_MODEL, PER_KIND = 24, 30


def planted(dimension: int, kinds: int = 5, away: float = 4.0, seed: int = 0) -> Residuals:
    """Kinds of harmful prompts, each far along one of so many axes; the others at the origin."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(D_MODEL, D_MODEL)))[0]
    prompts, places = [], []
    for kind in range(kinds):
        for number in range(PER_KIND):
            prompts.append(Prompt(f"{kind} {number}", "harmful", category=f"kind {kind}"))
            places.append(away * axes[kind % dimension])
    for label in ("benign", "pseudo_harmful"):
        prompts += [Prompt(f"{label} {number}", label, category="a") for number in range(60)]
        places += [np.zeros(D_MODEL)] * 60
    values = np.array(places) + rng.normal(size=(len(places), D_MODEL))
    return Residuals(
        torch.tensor(values[None], dtype=torch.float32), PromptSet(tuple(prompts)), "planted"
    )


@pytest.fixture(scope="module")
def residuals() -> Residuals:
    return planted(3)


@pytest.fixture(scope="module")
def found(residuals) -> RefusalSubspace:
    return refusal_subspace(residuals, 0)


@shown
def subspace(_folder):
    return refusal_subspace(planted(1, kinds=2), 0)


@pytest.mark.parametrize("dimension", [1, 2, 3])
def test_as_many_directions_add_something_as_were_planted(dimension):
    found = refusal_subspace(planted(dimension), 0)
    assert [step.adds for step in found.steps] == [True] * dimension + [False] * (5 - dimension)
    assert found.dimension == dimension
    assert found.steps[dimension - 1].auroc.value > 0.95


def test_nothing_planted_adds_nothing():
    assert refusal_subspace(planted(1, away=0.0), 0).dimension == 0


def test_the_first_direction_is_the_refusal_direction(residuals, found):
    refusal = refusal_directions(residuals).unit[0].double()
    assert float(found.vectors[0].double() @ refusal) == pytest.approx(1, abs=1e-6)
    (one,) = refusal_subspace(residuals, 0, 1).vectors
    assert torch.equal(one, found.vectors[0])


def test_directions_are_orthonormal_and_span_the_differences_of_the_kinds(residuals, found):
    vectors = found.vectors.double().numpy()
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(5), atol=1e-6)
    points, labels = residuals.at(0).double().numpy(), np.array(residuals.prompts.labels)
    categories = np.array([prompt.category for prompt in residuals.prompts])
    benign = points[labels == "benign"].mean(axis=0)
    for kind in range(5):
        difference = points[categories == f"kind {kind}"].mean(axis=0) - benign
        left_over = difference - vectors.T @ (vectors @ difference)
        assert np.linalg.norm(left_over) < 1e-5 * np.linalg.norm(difference)


def test_coordinates_are_those_of_numpy(residuals, found):
    truth = residuals.at(0).double().numpy() @ found.vectors.double().numpy().T
    np.testing.assert_allclose(found.project(residuals).numpy(), truth, rtol=1e-6, atol=1e-6)


def test_aurocs_are_those_of_two_normal_distributions_fitted_to_other_prompts(residuals, found):
    """SciPy's densities on all directions at once: any basis of their span would do."""
    keep = np.array(residuals.prompts.labels) != "pseudo_harmful"
    points = residuals.at(0).double().numpy()[keep]
    kinds = np.array(kinds_of(residuals.prompts, "harmful_vs_benign"))
    harmful = kinds != "benign"
    odds = np.empty(len(points))
    for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(points, kinds):
        means = [points[train][kinds[train] == kind].mean(axis=0) for kind in sorted(set(kinds))]
        span = np.linalg.qr((np.array(means[1:]) - means[0]).T)[0]
        sides = [points[train][side[train]] @ span for side in (harmful, ~harmful)]
        scatters = [np.cov(side.T, bias=True) * len(side) for side in sides]
        pooled = sum(scatters) / (len(train) - 2)
        densities = [
            multivariate_normal(
                side.mean(axis=0), (scatter + 6 * pooled) / (len(side) - 1 + 6)
            ).logpdf(points[test] @ span)
            for side, scatter in zip(sides, scatters, strict=True)
        ]
        odds[test] = densities[0] - densities[1]
    assert found.steps[-1].auroc.value == pytest.approx(roc_auc_score(harmful, odds), abs=1e-9)
    for step in found.steps:
        for one in (step.auroc, step.gain, step.random):
            assert one.low <= one.value <= one.high
    gains = [step.gain.value for step in found.steps]
    assert 0.5 + sum(gains) == pytest.approx(found.steps[-1].auroc.value)


def test_a_turned_residual_stream_turns_the_directions_alone(residuals, found):
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(D_MODEL, D_MODEL)))[0]
    values = residuals.values @ torch.tensor(turn, dtype=torch.float32)
    again = refusal_subspace(replace(residuals, values=values), 0)
    expected = found.vectors.double().numpy() @ turn
    np.testing.assert_allclose(again.vectors.numpy(), expected, atol=1e-4)
    for one, other in zip(again.steps, found.steps, strict=True):
        assert one.auroc.value == pytest.approx(other.auroc.value, abs=1e-3)
        assert one.gain.value == pytest.approx(other.gain.value, abs=1e-3)
    assert again.whole.value == pytest.approx(found.whole.value, abs=1e-3)


def test_a_constant_that_all_prompts_share_changes_no_score(residuals, found):
    again = refusal_subspace(replace(residuals, values=residuals.values + 8), 0)
    for one, other in zip(again.steps, found.steps, strict=True):
        assert one.auroc.value == pytest.approx(other.auroc.value, abs=1e-3)


def test_every_pair_has_its_own_directions(residuals):
    against = refusal_subspace(residuals, 0, pair="harmful_vs_pseudo_harmful")
    assert len(against.kinds) == 6
    assert set(against.prompts.labels) == {"harmful", "pseudo_harmful"}
    with pytest.raises(UserError, match="pseudo_harmful and the benign prompts are of one kind"):
        refusal_subspace(residuals, 0, pair="pseudo_harmful_vs_benign")
    assert set(SUBSPACE_PAIRS["pseudo_harmful_vs_benign"]) == {"pseudo_harmful", "benign"}


def test_rare_categories_are_one_kind():
    counts = {"a": 9, "b": 3, "c": 1, None: 7}
    prompts = [
        Prompt(f"{category} {number}", "harmful", category=category)
        for category, count in counts.items()
        for number in range(count)
    ]
    prompts += [Prompt(f"benign {number}", "benign") for number in range(5)]
    kinds = kinds_of(PromptSet(tuple(prompts)), "harmful_vs_benign")
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "harmful: a": 9,
        "harmful: other": 11,  # b and c are four, so the next larger kind joins them
        "benign": 5,
    }


def test_table_summary_and_figure_say_the_same(found):
    frame = found.frame()
    assert frame["directions"].tolist() == [1, 2, 3, 4, 5]
    assert frame["adds"].sum() == found.dimension
    share = (frame["auroc"] - 0.5) / (found.whole.value - 0.5)
    assert frame["share"].to_numpy() == pytest.approx(share.to_numpy())
    summary = json.loads(json.dumps(found.summary()))
    assert summary["dimension"] == found.dimension
    assert len(summary["steps"]) == 5
    figure = subspace_steps([found, found])
    steps = [trace for trace in figure.data if trace.meta["kind"] == "steps"]
    assert len(steps) == 2
    assert list(steps[0].y) == frame["auroc"].tolist()
    filled = [color != "#ffffff" for color in steps[0].marker.color]
    assert filled == frame["adds"].tolist()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"k": 0}, "number of directions, is 0; give a whole number from 1 to 5"),
        ({"k": 6}, "number of directions, is 6"),
        ({"pair": "benign_vs_harmful"}, "pair 'benign_vs_harmful' is not known"),
        ({"layer": 1}, "layer 1 is out of range"),
    ],
)
def test_bad_arguments_are_one_line(residuals, arguments, words):
    with pytest.raises(UserError, match=words) as error:
        refusal_subspace(residuals, **{"layer": 0, **arguments})
    assert "\n" not in str(error.value)


def test_prompts_that_do_not_do_are_one_line(residuals, found):
    few = residuals.select(residuals.prompts.where(label="harmful"))
    with pytest.raises(UserError, match="0 benign prompts"):
        refusal_subspace(few, 0)
    broken = replace(residuals, values=residuals.values.clone())
    broken.values[0, 0, 0] = torch.nan
    with pytest.raises(UserError, match="not finite"):
        refusal_subspace(broken, 0)
    with pytest.raises(UserError, match="all the same"):
        refusal_subspace(replace(residuals, values=torch.ones_like(residuals.values)), 0)
    same = replace(residuals, values=residuals.values.clone())
    same.values[0, same.prompts.labels.index("benign") :] = same.values[0, :150].mean(dim=0)
    with pytest.raises(UserError, match="same mean at this layer") as error:
        refusal_subspace(same, 0)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="at the end of the instruction do not fit"):
        found.project(replace(residuals, position=Position("instruction", 2)))
    with pytest.raises(UserError, match="width 3"):
        found.project(replace(residuals, values=residuals.values[..., :3]))
