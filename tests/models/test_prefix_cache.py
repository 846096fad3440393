"""Law: a question to a prefix cache is answered as a whole pass with the same change answers it.

The whole pass is the Hugging Face model with a hook of the test's own. What the cache is for is
counted: a block below the change does not run again, one above it runs on one token.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from actor_lens.models.batches import TokenBatch, pad_batch, run_in_batches
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.interventions import add_direction
from actor_lens.models.memory import cache_bytes_per_token
from actor_lens.models.prefix_cache import (
    PrefixCache,
    Take,
    TokenShift,
    keep_prefixes,
    take_logits_after_shifts,
)
from tests.support.tiny_models import (
    ARCHITECTURES,
    N_LAYERS,
    shared_tiny_model,
    talkative_tiny_model,
    tiny_chat_model,
)

PROMPTS = ["Hello there", "How do I kill a Python process?", "Hi"]
each_architecture = pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))


def padded(model: ChatModel, prompts: list[str] = PROMPTS) -> TokenBatch:
    return pad_batch(
        model.tokenize(prompts), pad_token_id=model.pad_token_id, device=torch.device("cpu")
    )


@contextmanager
def hooked(block: nn.Module, moves: Tensor) -> Iterator[list[Tensor]]:
    """Adds to the last token of what a block hands on; the list holds that token as it was."""
    before: list[Tensor] = []

    def hook(_module: nn.Module, _inputs: object, output: object) -> object:
        residual = output[0] if isinstance(output, tuple) else output
        assert isinstance(residual, Tensor)
        before.append(residual[:, -1].clone())
        residual = residual.clone()
        residual[:, -1] += moves
        return (residual, *output[1:]) if isinstance(output, tuple) else residual

    handle = block.register_forward_hook(hook)
    try:
        yield before
    finally:
        handle.remove()


def whole_pass(model: ChatModel, batch: TokenBatch, layer: int, moves: Tensor) -> list[Tensor]:
    """The last token after a block, and the logits of a pass in which it was moved."""
    with hooked(model.blocks[layer], moves) as before, torch.no_grad():
        output = model.hf(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            use_cache=False,
        )
    return [before[0], output.logits[:, -1].float()]


def take_all(model: ChatModel, shifts: Mapping[int, TokenShift], take: Take) -> None:
    """Ask about all prompts, batch by batch."""

    def run(batch: TokenBatch) -> None:
        take_logits_after_shifts(model, PROMPTS, batch, shifts, take)

    run_in_batches(model, model.tokenize(PROMPTS), run)


def random_moves(model: ChatModel, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(PROMPTS), model.d_model, generator=generator)


@each_architecture
def test_every_layer_is_answered_as_by_a_whole_pass(architecture: str) -> None:
    model = shared_tiny_model(architecture)
    batch = padded(model)
    cache = PrefixCache(model, batch)
    moved, expected = {}, {}
    for layer in range(N_LAYERS):
        moves = random_moves(model, layer)
        before, expected[layer] = whole_pass(model, batch, layer, moves)
        torch.testing.assert_close(cache.residuals[layer], before, atol=1e-5, rtol=1e-5)
        moved[layer] = before + moves
    together = dict(cache.logits(moved))
    assert list(together) == list(range(N_LAYERS))
    for layer, logits in together.items():
        torch.testing.assert_close(logits, expected[layer], atol=1e-4, rtol=1e-5)
        assert logits.argmax(-1).tolist() == expected[layer].argmax(-1).tolist()
        # Neither the other questions nor earlier ones play a part.
        [(_, alone)] = cache.logits({layer: moved[layer]})
        torch.testing.assert_close(alone, logits, atol=1e-5, rtol=1e-5)


def test_hooks_act_on_questions_too() -> None:
    model = shared_tiny_model()
    batch, moves = padded(model), random_moves(model, 0)
    with add_direction(model, 2, 3 * random_moves(model, 1)[0]):
        before, expected = whole_pass(model, batch, 1, moves)
        [(_, logits)] = PrefixCache(model, batch).logits({1: before + moves})
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-5)
    _, unhooked = whole_pass(model, batch, 1, moves)
    assert not torch.allclose(logits, unhooked, atol=1e-2)


def test_only_the_last_token_runs_and_only_above_the_change() -> None:
    model = tiny_chat_model()
    cache = PrefixCache(model, padded(model))
    tokens: dict[int, int] = {}
    for index, block in enumerate(model.blocks):
        block.register_forward_hook(
            lambda _module, inputs, _output, index=index: tokens.update(
                {index: tokens.get(index, 0) + inputs[0].shape[1]}
            )
        )
    list(cache.logits({1: cache.residuals[1]}))
    assert tokens == dict.fromkeys(range(2, N_LAYERS), 1)


@pytest.mark.parametrize("batch_size", [1, 2, None])
def test_prompts_keep_their_places_whatever_the_batches(batch_size: int | None) -> None:
    model = shared_tiny_model().with_batch_size(batch_size)
    unit = torch.nn.functional.normalize(random_moves(model, 1)[0], dim=0)
    shifts = {layer: (torch.tensor([2.0, -3.0, 5.0]) * layer, unit) for layer in (0, 2)}
    logits: dict[tuple[int, int], Tensor] = {}

    def take(layer: int, batch: TokenBatch, values: Tensor) -> None:
        logits.update({(layer, row): line for row, line in zip(batch.indices, values, strict=True)})

    take_all(model, shifts, take)
    assert len(logits) == len(shifts) * len(PROMPTS)
    for (layer, row), values in logits.items():
        distances, _ = shifts[layer]
        alone = padded(model, [PROMPTS[row]])
        _, expected = whole_pass(model, alone, layer, distances[row] * unit)
        torch.testing.assert_close(values, expected[0], atol=1e-4, rtol=1e-5)


def test_what_is_kept_answers_as_what_is_not() -> None:
    model = shared_tiny_model().with_batch_size(2)
    kept = keep_prefixes(model, PROMPTS)
    assert kept is not None
    unit = torch.nn.functional.normalize(random_moves(model, 1)[0], dim=0)
    for distance in (1.0, -4.0):
        shifts = {layer: (torch.full((len(PROMPTS),), distance), unit) for layer in range(N_LAYERS)}
        answers: dict[bool, dict[tuple[int, int], Tensor]] = {True: {}, False: {}}

        def take(which: bool, layer: int, batch: TokenBatch, values: Tensor) -> None:
            for row, line in zip(batch.indices, values, strict=True):
                answers[which][layer, row] = line  # noqa: B023

        kept.take_logits(shifts, partial(take, True))
        take_all(model, shifts, partial(take, False))
        assert answers[True].keys() == answers[False].keys()
        assert all(torch.equal(values, answers[False][at]) for at, values in answers[True].items())


def test_nothing_is_kept_beyond_the_budget() -> None:
    model = shared_tiny_model()
    needed = sum(len(ids) for ids in model.tokenize(PROMPTS)) * cache_bytes_per_token(model)
    assert keep_prefixes(model, PROMPTS, budget=needed - 1) is None
    assert keep_prefixes(model, PROMPTS, budget=needed) is not None


def test_a_way_of_decoding_is_applied() -> None:
    model = talkative_tiny_model("llama")
    logits: list[Tensor] = []

    def forbid(_prompts: object) -> object:
        return lambda _ids, scores: scores.index_fill(1, torch.tensor([3]), -torch.inf)

    object.__setattr__(model, "decoding", forbid)
    shifts = {1: (torch.zeros(len(PROMPTS)), torch.ones(model.d_model))}
    take_all(model, shifts, lambda *all_: logits.append(all_[2]))
    assert all((values[:, 3] == -torch.inf).all() for values in logits)


class _NoCache(nn.Module):
    """A block that computes what another one does and keeps no keys and values."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, hidden_states: Tensor, **arguments: object) -> object:
        return self.block(hidden_states, **{**arguments, "past_key_values": None})


def test_a_model_that_keeps_no_cache_is_answered_by_whole_passes() -> None:
    model = tiny_chat_model()
    unit = torch.nn.functional.normalize(random_moves(model, 1)[0], dim=0)
    shifts = {layer: (torch.tensor([2.0, -3.0, 5.0]), unit) for layer in range(N_LAYERS)}

    def answers() -> dict[tuple[int, int], Tensor]:
        logits: dict[tuple[int, int], Tensor] = {}
        take_all(
            model,
            shifts,
            lambda layer, batch, values: logits.update(
                {(layer, row): line for row, line in zip(batch.indices, values, strict=True)}
            ),
        )
        return logits

    expected = answers()
    model.blocks[2] = _NoCache(model.blocks[2])
    assert keep_prefixes(model, PROMPTS) is None
    for place, values in answers().items():
        torch.testing.assert_close(values, expected[place], atol=1e-4, rtol=1e-5)


@each_architecture
def test_what_a_token_takes_is_what_the_cache_holds(architecture: str) -> None:
    model = shared_tiny_model(architecture)
    batch = padded(model)
    cache = PrefixCache(model, batch)
    held = sum(one.keys.nbytes + one.values.nbytes for one in cache._blocks)
    assert held == cache_bytes_per_token(model) * batch.input_ids.numel()
