"""SCANS: the sign of each prompt, and what is added where, replayed in float64 numpy."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from actor_lens.activations.residuals import collect_block_inputs, collect_residuals
from actor_lens.errors import UserError
from actor_lens.methods import scans
from actor_lens.methods.scans import (
    Signs,
    best_threshold,
    fit_signs,
    middle_third,
    steer_by_sign,
    upper_third,
)
from actor_lens.methods.support.tails import tail_residuals
from actor_lens.models.chat_model import ChatModel, wrap_model
from actor_lens.models.interventions import add_direction
from actor_lens.prompts.rows import Prompt
from actor_lens.prompts.sets import PromptSet
from tests.support.steering import (
    CLOSING,
    TEXTS,
    cosine,
    generated,
    hooks,
    logits,
    padded,
    random,
    received,
    replayed,
    stream,
)
from tests.support.tiny_models import (
    D_MODEL,
    N_LAYERS,
    SOME_ARCHITECTURES,
    shared_tiny_model,
    talkative_tiny_model,
    tiny_chat_model,
    tiny_tokenizer,
)
from tests.support.tiny_runs import tiny_prompts

OPENING = (70, 71)
LAYERS = (1, 2)


def sigma_alone(model: ChatModel, text: str, signs: Signs) -> float:
    """The formula, one prompt at a time."""
    flow = stream(model, [*model.tokenize([text])[0], *OPENING])
    end_of_text = flow.shape[1] - 1 - len(OPENING) - CLOSING
    cosines = [
        cosine(flow[layer, end_of_text] - flow[layer, -1], reference)
        for layer, reference in zip(signs.layers, signs.reference.double().numpy(), strict=True)
    ]
    return float(np.mean(cosines))


def signs_that_split(model: ChatModel) -> tuple[Signs, list[float]]:
    """A criterion that finds some of the texts harmful and others not."""
    layers = upper_third(N_LAYERS)
    start = Signs(random(len(layers), D_MODEL, seed=8), layers, 0.0, OPENING, CLOSING)
    values = [sigma_alone(model, text, start) for text in TEXTS]
    threshold = float(np.mean(sorted(values)[1:3]))
    signs = Signs(start.reference, layers, threshold, OPENING, CLOSING)
    truth = [1.0 if value >= threshold else -1.0 for value in values]
    assert sorted(truth) == [-1.0, -1.0, 1.0, 1.0]
    return signs, truth


@pytest.mark.parametrize("architecture", SOME_ARCHITECTURES)
def test_a_pass_steers_each_prompt_by_its_own_sign_from_the_end_of_its_text(architecture):
    model = shared_tiny_model(architecture)
    signs, truth = signs_that_split(model)
    vectors = random(N_LAYERS, D_MODEL)
    batch = padded(model)
    with received(model) as plain:
        logits(model, batch)
    with steer_by_sign(model, signs, vectors, [1]), received(model) as steered:
        logits(model, batch)
    steered = steered[-N_LAYERS:]  # after what the judging pass handed on
    expected = plain[1].copy()
    for row, sign in enumerate(truth):
        expected[row, -1 - CLOSING :] += sign * vectors[1].double().numpy()
    real = batch.attention_mask.bool().numpy()
    assert np.array_equal(steered[0], plain[0])
    assert np.abs(steered[1] - expected)[real].max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("architecture", SOME_ARCHITECTURES)
def test_generation_with_cache_and_padding_equals_a_replay_without(architecture):
    model = talkative_tiny_model(architecture)
    signs, truth = signs_that_split(model)
    vectors = 3.0 * random(N_LAYERS, D_MODEL)
    wanted = []
    for text, sign in zip(TEXTS, truth, strict=True):
        ids = model.tokenize([text])[0]
        start = len(ids) - 1 - CLOSING

        def change(layer: int, start: int = start, sign: float = sign):
            def add(states: np.ndarray) -> np.ndarray:
                changed = states.copy()
                changed[start:] += sign * vectors[layer].double().numpy()
                return changed

            return layer, add

        wanted.append(replayed(model, ids, 6, [change(layer) for layer in LAYERS]))
    assert wanted != generated(model, TEXTS, 6)
    with steer_by_sign(model, signs, vectors, LAYERS):
        assert generated(model, TEXTS, 6) == wanted
        # A new batch is judged anew.
        assert generated(model, TEXTS[::-1], 6) == wanted[::-1]


@pytest.mark.parametrize("architecture", SOME_ARCHITECTURES)
def test_residuals_are_those_of_its_own_passes_whatever_was_read_before(architecture):
    model = replace(shared_tiny_model(architecture), batch_size=2)
    signs, truth = signs_that_split(model)
    order = sorted(range(len(TEXTS)), key=lambda row: truth[row])  # batches of one sign each
    texts = [TEXTS[row] for row in order]
    prompts = PromptSet(tuple(Prompt(text, "benign") for text in texts))
    with steer_by_sign(model, signs, 3.0 * random(N_LAYERS, D_MODEL), LAYERS):
        flows = []
        for ids in model.tokenize(texts):
            with received(model) as found:
                model.hf(input_ids=torch.tensor([ids]), use_cache=False)
            flows.append(torch.tensor(np.stack(found[-N_LAYERS:])[:, 0]).float())
        for asked in (slice(0, 4), slice(0, 2), slice(2, 4), slice(0, 2)):
            wanted, some = flows[asked], prompts[asked]
            last = torch.stack([flow[:, -1] for flow in wanted], dim=1)
            residuals = collect_residuals(model, some, store=False).values
            torch.testing.assert_close(residuals, last, atol=1e-4, rtol=1e-4)
            tails = tail_residuals(model, some.texts, 2)
            torch.testing.assert_close(tails[:, -1], last, atol=1e-4, rtol=1e-4)
            inputs = collect_block_inputs(model, some, 3, store=False).hidden_states
            for states, flow in zip(inputs, wanted, strict=True):
                torch.testing.assert_close(states, flow[2], atol=1e-4, rtol=1e-4)


def test_the_judging_pass_is_not_steered_and_nesting_adds_up():
    model = shared_tiny_model("llama")
    signs, truth = signs_that_split(model)
    vectors, more = 50.0 * random(N_LAYERS, D_MODEL), random(D_MODEL, seed=9)
    batch = padded(model)
    with received(model) as plain:
        logits(model, batch)
    with steer_by_sign(model, signs, vectors, [0]), add_direction(model, N_LAYERS - 1, 0 * more):
        with received(model) as steered:
            logits(model, batch)
    moved = (steered[-N_LAYERS] - plain[0])[:, -1] @ vectors[0].double().numpy()
    assert np.sign(moved).tolist() == truth


def test_fit_gives_the_mean_step_of_harmful_prompts_and_a_threshold_between_values():
    model = shared_tiny_model("llama")
    train, held_out = tiny_prompts(4), tiny_prompts(3, offset=10)
    signs = fit_signs(model, train, held_out, "ok")
    ids = tuple(model.tokenizer("ok", add_special_tokens=False)["input_ids"])
    assert (signs.opening, signs.closing, signs.layers) == (ids, CLOSING, upper_third(N_LAYERS))
    steps = []
    for text in train.where(label="harmful").texts:
        flow = stream(model, [*model.tokenize([text])[0], *ids])
        steps.append(flow[:, -1 - len(ids) - CLOSING] - flow[:, -1])
    truth = np.mean(steps, axis=0)[list(signs.layers)]
    assert np.abs(signs.reference.numpy() - truth).max() < 1e-4 * np.abs(truth).max()


def test_the_threshold_is_the_best_of_all_by_exhaustion():
    values = torch.tensor([0.1, 0.9, 0.4, 0.6, 0.5, 0.2])
    positive = [False, True, True, True, False, False]

    def balanced(threshold: float) -> float:
        found = values.numpy() >= threshold
        truth = np.array(positive)
        return found[truth].mean() + (~found[~truth]).mean()

    best = max(balanced(t) for t in np.linspace(0, 1, 201))
    assert balanced(best_threshold(values, positive)) == pytest.approx(best)


@pytest.mark.parametrize(
    ("n_layers", "middle", "upper"),
    [(1, (0,), (0,)), (3, (1,), (2,)), (32, tuple(range(10, 21)), tuple(range(21, 32)))],
)
def test_thirds_of_the_layers(n_layers, middle, upper):
    assert middle_third(n_layers) == middle
    assert upper_third(n_layers) == upper


def test_nothing_is_left_after_it_nor_after_an_exception_while_judging(monkeypatch):
    model = shared_tiny_model("llama")
    signs, _ = signs_that_split(model)
    vectors, batch = random(N_LAYERS, D_MODEL), padded(model)
    before, n_hooks = logits(model, batch), hooks(model)
    with steer_by_sign(model, signs, vectors, LAYERS):
        assert not torch.equal(logits(model, batch), before)
    assert torch.equal(logits(model, batch), before)

    def fails(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(scans, "sigma", fails)
    with pytest.raises(KeyboardInterrupt), steer_by_sign(model, signs, vectors, LAYERS):
        logits(model, batch)
    assert torch.equal(logits(model, batch), before)
    assert hooks(model) == n_hooks


def test_a_template_without_closing_tokens_is_an_error():
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    model = wrap_model(tiny_chat_model("llama").hf, tiny_tokenizer(template), name="open")
    with pytest.raises(UserError, match=r"no token behind the user's text.*use another method"):
        fit_signs(model, tiny_prompts(2), tiny_prompts(2), "Sure")
