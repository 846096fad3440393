"""Law: predictions are what single prompts give, one at a time, under a hook of the test's own.

So is the causal score of a layer, which is made of them.
"""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from actor_lens.activations.residuals import collect_residuals
from actor_lens.directions.layer_scores import score_layers
from actor_lens.directions.predicted_refusals import current_refusals, predict_refusals
from actor_lens.directions.projections import Projections, project
from actor_lens.directions.refusal_directions import refusal_directions
from actor_lens.directions.targets import Targets, just_enough_targets
from actor_lens.errors import UserError
from actor_lens.figures import refusal_rates
from actor_lens.judges.first_token import RefusalTokens
from actor_lens.models.chat_model import ChatModel
from actor_lens.prompts.rows import Prompt
from actor_lens.prompts.sets import PromptSet
from tests.support.planted import planted_residuals
from tests.support.tiny_models import tiny_chat_model

# ---- The causal score ----

TEXTS = {
    "harmful": ("Burn it", "Steal the silver now", "Hurt him", "Break in tonight", "Poison it"),
    "pseudo_harmful": ("Kill the task", "Shoot a film", "Blow out candles", "Crack an egg"),
    "benign": ("Bake a cake", "Sing", "Write me a rather long letter", "Count to ten"),
}


@pytest.fixture(scope="module")
def model() -> ChatModel:
    return tiny_chat_model()


@pytest.fixture(scope="module")
def prompts() -> PromptSet:
    return PromptSet(tuple(Prompt(text, label) for label, texts in TEXTS.items() for text in texts))


@pytest.fixture(scope="module")
def projections(model: ChatModel, prompts: PromptSet) -> Projections:
    residuals = collect_residuals(model, prompts)
    return project(residuals, refusal_directions(residuals))


@pytest.fixture(scope="module")
def tokens(model: ChatModel, prompts: PromptSet) -> RefusalTokens:
    """Tokens whose total probability is about a half: some prompts "refuse", some do not."""
    with torch.no_grad():
        probabilities = torch.stack(
            [
                model.hf(input_ids=torch.tensor(model.tokenize([text]))).logits[0, -1].softmax(-1)
                for text in prompts.texts
            ]
        )
    likeliest = probabilities.mean(0).argsort(descending=True).tolist()
    return RefusalTokens(tuple(likeliest[::2]), ("",) * len(likeliest[::2]))


def scores_one_at_a_time(
    model: ChatModel,
    projections: Projections,
    tokens: RefusalTokens,
    layer: int,
    *,
    alpha: float,
    origin: str,
    shift: str = "projected",
) -> list[float]:
    """Log-odds of a refusal of each prompt at its target, in numpy with a hook of our own."""
    values = projections.residuals.values[layer].double().numpy()
    labels = np.array(projections.prompts.labels)
    vector = values[labels == "harmful"].mean(0) - values[labels == "benign"].mean(0)
    unit = vector / np.linalg.norm(vector)
    o = (values[labels == "benign"] @ unit).mean() if origin == "benign_mean" else 0.0
    scores = []
    for row, text in enumerate(projections.prompts.texts):
        sign = 1 if labels[row] == "harmful" else -1
        way = np.linalg.norm(vector) if shift == "uniform" else values[row] @ unit - o
        target = values[row] + sign * alpha * way * unit

        def put(_block: object, _inputs: object, output: object, to: np.ndarray = target) -> object:
            hidden = output[0] if isinstance(output, tuple) else output
            hidden = hidden.clone()
            hidden[0, -1] = torch.tensor(to, dtype=hidden.dtype)
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        handle = model.hf.model.layers[layer].register_forward_hook(put)
        scores.append(score_alone(model, text, tokens))
        handle.remove()
    return scores


def score_alone(model: ChatModel, text: str, tokens: RefusalTokens) -> float:
    """Log-odds of one of the tokens at the start of the reply to one prompt."""
    with torch.no_grad():
        logits = model.hf(input_ids=torch.tensor(model.tokenize([text]))).logits[0, -1]
    share = float(logits.double().softmax(-1)[list(tokens.ids)].sum())
    return math.log(share / (1 - share))


def refused_one_at_a_time(
    model: ChatModel,
    projections: Projections,
    tokens: RefusalTokens,
    layer: int,
    *,
    alpha: float,
    origin: str,
) -> list[bool]:
    """Whether each prompt begins a refusal at its target."""
    scores = scores_one_at_a_time(model, projections, tokens, layer, alpha=alpha, origin=origin)
    return [score > 0 for score in scores]


@pytest.mark.parametrize(("alpha", "origin"), [(1.0, "benign_mean"), (2.0, "zero")])
def test_causal_score_is_that_of_single_prompts_at_their_targets(
    model: ChatModel, projections: Projections, tokens: RefusalTokens, alpha: float, origin: str
):
    scores = score_layers(
        projections, model=model, tokens=tokens, alpha=alpha, origin=origin, rounds=2
    )
    frame = scores.frame()
    causal = frame[frame["score"] == "causal"].set_index("layer")
    assert set(causal["pair"]) == {"all"}
    expected = []
    for layer in range(model.n_layers):
        refused = dict.fromkeys(TEXTS, 0)
        singly = refused_one_at_a_time(
            model, projections, tokens, layer, alpha=alpha, origin=origin
        )
        for label, one in zip(projections.prompts.labels, singly, strict=True):
            refused[label] += one
        expected.append(((4 - refused["pseudo_harmful"]) / 4 + refused["harmful"] / 5) / 2)
    assert causal["value"].tolist() == pytest.approx(expected)
    assert len(set(expected)) > 1
    assert causal[["null_low", "null_high"]].isna().all(axis=None)


def test_causal_interval_combines_those_of_both_rates(
    model: ChatModel, projections: Projections, tokens: RefusalTokens
):
    layer = model.n_layers - 1
    scores = score_layers(projections, model=model, tokens=tokens, rounds=2)
    (row,) = [row for row in scores.rows if row.score == "causal" and row.layer == layer]
    singly = refused_one_at_a_time(
        model, projections, tokens, layer, alpha=1.0, origin="benign_mean"
    )
    labels = projections.prompts.labels
    low = high = value = 0.0
    for label, refusing in (("harmful", True), ("pseudo_harmful", False)):
        hits = [one == refusing for one, its in zip(singly, labels, strict=True) if its == label]
        share = sum(hits) / len(hits)
        wilson = stats.binomtest(sum(hits), len(hits)).proportion_ci(method="wilson")
        value += share / 2
        low += (share - wilson.low) ** 2 / 4
        high += (wilson.high - share) ** 2 / 4
    expected = (value, value - math.sqrt(low), value + math.sqrt(high))
    assert (row.measurement.value, row.measurement.low, row.measurement.high) == pytest.approx(
        expected
    )


def test_benign_prompts_stand_in_for_pseudo_harmful_ones(
    model: ChatModel, projections: Projections, tokens: RefusalTokens
):
    labels = projections.prompts.labels
    both = projections.residuals.select(
        PromptSet(
            tuple(
                prompt
                for prompt, label in zip(projections.prompts, labels, strict=True)
                if label != "pseudo_harmful"
            )
        )
    )
    fewer = project(both, refusal_directions(both))
    scores = score_layers(fewer, model=model, tokens=tokens, rounds=2)
    for row in (row for row in scores.rows if row.score == "causal"):
        refused = refused_one_at_a_time(
            model, fewer, tokens, row.layer, alpha=1.0, origin="benign_mean"
        )
        assert row.measurement.value == pytest.approx(
            (sum(refused[:5]) / 5 + 1 - sum(refused[5:]) / 4) / 2
        )


def test_causal_score_is_repeatable_and_leaves_no_hook(
    model: ChatModel, projections: Projections, tokens: RefusalTokens
):
    first, again = (
        score_layers(projections, model=model, tokens=tokens, rounds=5) for _ in range(2)
    )
    assert first.frame().equals(again.frame())
    assert not any(block._forward_hooks for block in model.blocks)


# ---- Predicted refusals ----


def targets_of(projections: Projections, layer: int = 1, **settings: object) -> Targets:
    return just_enough_targets(projections.residuals, projections.directions, layer, **settings)


@pytest.mark.parametrize("batch_size", [None, 1, 3])
@pytest.mark.parametrize(
    "settings",
    [
        {"alpha": 1.0, "origin": "benign_mean"},
        {"alpha": 2.0, "origin": "zero"},
        {"alpha": 0.5, "origin": "zero", "shift": "uniform"},
    ],
    ids=["benign_mean", "zero", "uniform"],
)
def test_predicted_refusals_are_those_of_single_prompts_at_their_targets(
    model: ChatModel,
    projections: Projections,
    tokens: RefusalTokens,
    settings: dict[str, object],
    batch_size: int | None,
):
    for layer in range(model.n_layers):
        targets = targets_of(projections, layer, **settings)
        found = predict_refusals(model.with_batch_size(batch_size), targets, tokens)
        expected = scores_one_at_a_time(model, projections, tokens, layer, **settings)
        np.testing.assert_allclose(found.refusal_scores, expected, atol=1e-5)
        assert found.refused == tuple(score > 0 for score in expected)
        assert (found.layer, found.prompts) == (layer, projections.prompts)
    assert not any(block._forward_hooks for block in model.blocks)


def test_current_refusals_are_those_of_single_prompts_unmoved(
    model: ChatModel, projections: Projections, prompts: PromptSet, tokens: RefusalTokens
):
    expected = [score_alone(model, text, tokens) for text in prompts.texts]
    for batch_size in (None, 3):
        found = current_refusals(model.with_batch_size(batch_size), prompts, tokens)
        np.testing.assert_allclose(found.refusal_scores, expected, atol=1e-5)
        assert found.refused == tuple(score > 0 for score in expected)
        assert (found.layer, found.prompts) == (None, prompts)
    assert len(set(found.refused)) == 2
    moved = predict_refusals(model, targets_of(projections), tokens).refusal_scores
    assert float((moved - found.refusal_scores).abs().max()) > 5e-3


def test_targets_no_way_off_change_nothing(
    model: ChatModel, projections: Projections, prompts: PromptSet, tokens: RefusalTokens
):
    still = targets_of(projections, alpha=1e-30)
    predicted = predict_refusals(model, still, tokens).refusal_scores
    now = current_refusals(model, prompts, tokens).refusal_scores
    torch.testing.assert_close(predicted, now, atol=1e-6, rtol=1e-5)


def test_table_of_predicted_refusals_has_a_row_for_each_prompt(
    model: ChatModel, projections: Projections, tokens: RefusalTokens
):
    found = predict_refusals(model, targets_of(projections), tokens)
    frame = found.frame()
    assert list(frame.columns) == [
        "prompt_index",
        "prompt",
        "label",
        "split",
        "category",
        "refusal_score",
        "refused",
    ]
    assert frame["prompt"].tolist() == list(projections.prompts.texts)
    assert frame["refusal_score"].tolist() == found.refusal_scores.tolist()
    assert (frame["refused"] == (frame["refusal_score"] > 0)).all()
    assert frame["refused"].dtype == bool


def test_the_causal_score_is_the_predicted_tradeoff_score(
    model: ChatModel, projections: Projections, tokens: RefusalTokens
):
    scores = score_layers(projections, model=model, tokens=tokens, rounds=2)
    causal = {row.layer: row.measurement.value for row in scores.rows if row.score == "causal"}
    for layer in range(model.n_layers):
        found = predict_refusals(model, targets_of(projections, layer), tokens)
        assert causal[layer] == pytest.approx(found.tradeoff_score)


def test_before_and_predicted_are_drawn_alike(
    model: ChatModel, projections: Projections, prompts: PromptSet, tokens: RefusalTokens
):
    before = current_refusals(model, prompts, tokens)
    predicted = predict_refusals(model, targets_of(projections), tokens)
    figure = refusal_rates(before=before, predicted=predicted)
    bars = {bar.name: list(bar.x) for bar in figure.data if bar.type == "bar"}
    for name, result in (("before", before), ("predicted", predicted)):
        shares = [
            np.mean(
                [r for r, label in zip(result.refused, prompts.labels, strict=True) if label == one]
            )
            for one in TEXTS
        ]
        assert bars[name] == pytest.approx(shares)


def test_refusals_of_no_prompts_are_not_predicted(
    model: ChatModel, projections: Projections, tokens: RefusalTokens
):
    none = projections.residuals.select(PromptSet(()))
    targets = just_enough_targets(none, projections.directions, 1)
    for predict in (
        lambda: predict_refusals(model, targets, tokens),
        lambda: current_refusals(model, PromptSet(()), tokens),
    ):
        with pytest.raises(UserError, match="no prompts were given"):
            predict()


def test_targets_of_a_model_of_another_shape_are_refused(model: ChatModel, tokens: RefusalTokens):
    residuals, _ = planted_residuals({"harmful": 3, "benign": 3}, (1.0, 1.0))
    other = project(residuals, refusal_directions(residuals))
    with pytest.raises(UserError, match="4 layers of width 32, the directions 2"):
        predict_refusals(model, targets_of(other), tokens)
