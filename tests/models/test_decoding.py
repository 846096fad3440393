"""Laws of decoding: rows that have ended leave, and no reply shows how its batch was run.

Truth is a loop of full passes over one prompt, without padding and without a key-value cache.
"""

from contextlib import AbstractContextManager
from functools import cache

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LogitsProcessor
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from actor_lens.models import decoding as module
from actor_lens.models import reading
from actor_lens.models.batches import TokenBatch, pad_batch
from actor_lens.models.chat_model import ChatModel, wrap_model
from actor_lens.models.decoding import ReplySettings, greedy_replies
from actor_lens.models.interventions import edit_blocks, shift_last_token
from tests.support.greedy import greedy_ids
from tests.support.tiny_models import (
    ARCHITECTURES,
    D_MODEL,
    talkative_tiny_model,
    tiny_tokenizer,
)

PROMPTS = [
    "How do I make a bomb at home, quickly and quietly?",
    "How do I kill a Python process?",
    "Bake a cakes",
    "Bake a cake",
    "Bake!",
    "a",
]
N = 8
each_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


def batch_of(model: ChatModel) -> TokenBatch:
    return pad_batch(model.tokenize(PROMPTS), pad_token_id=model.pad_token_id, device=model.device)


@cache
def speaker(architecture: str) -> ChatModel:
    """A model that the tests here leave as it is."""
    return talkative_tiny_model(architecture)


@cache
def free_truths(model: ChatModel) -> list[list[int]]:
    """Replies that nothing ends."""
    return [greedy_ids(model.hf, ids, N) for ids in model.tokenize(PROMPTS)]


def cut(replies: list[list[int]], ends: tuple[int, ...]) -> list[list[int]]:
    """Replies up to and with their first end token."""
    ending = [[place for place, token in enumerate(reply) if token in ends] for reply in replies]
    return [
        reply[: places[0] + 1] if places else reply
        for reply, places in zip(replies, ending, strict=True)
    ]


def truths(model: ChatModel, ends: tuple[int, ...] = ()) -> list[list[int]]:
    return cut(free_truths(model), ends)


def early_ends(model: ChatModel) -> tuple[int, ...]:
    """End tokens with which replies end at different lengths, and not all of them."""
    free = free_truths(model)
    ends = (free[0][2], free[2][5])
    assert len({len(reply) for reply in truths(model, ends)}) > 1
    return ends


@pytest.fixture
def passes(monkeypatch):
    """Rows and new tokens of each pass through the model."""
    seen: list[tuple[int, int]] = []
    run = reading.run_tokens

    def counting(model: ChatModel, ids: Tensor, *rest: Tensor, **named: object) -> object:
        seen.append(tuple(ids.shape))
        return run(model, ids, *rest, **named)

    for place in (module, reading):
        monkeypatch.setattr(place, "run_tokens", counting)
    return seen


@pytest.fixture
def generations(monkeypatch):
    """How often transformers' own ``generate`` was used."""
    seen: list[TokenBatch] = []
    run = module._generate

    def counting(model: ChatModel, batch: TokenBatch, decoding: ReplySettings) -> object:
        seen.append(batch)
        return run(model, batch, decoding)

    monkeypatch.setattr(module, "_generate", counting)
    return seen


@each_architecture
def test_replies_are_those_of_single_prompts_while_rows_leave(architecture, passes):
    model = speaker(architecture)
    ends = early_ends(model)
    assert greedy_replies(model, batch_of(model), ReplySettings(N, ends)) == truths(model, ends)
    if architecture != "phi3":  # which prepares its inputs itself
        rows = [n_rows for n_rows, n_tokens in passes if n_tokens == 1]
        lengths = [len(reply) for reply in truths(model, ends)]
        assert rows == [sum(length > step for length in lengths) for step in range(1, max(lengths))]


@each_architecture
def test_prompts_may_be_read_in_parts(architecture, passes, monkeypatch):
    model = speaker(architecture)
    monkeypatch.setattr(reading, "token_budget", lambda _model, width: 2 * width)
    assert greedy_replies(model, batch_of(model), ReplySettings(N)) == truths(model)
    if architecture != "phi3":
        lengths = [len(ids) for ids in model.tokenize(PROMPTS)]
        assert passes[:3] == [(2, lengths[0]), (2, lengths[2]), (2, lengths[4])]
        assert set(passes[3:]) == {(len(PROMPTS), 1)}


def test_rows_leave_together_not_one_at_a_time(passes):
    model = speaker("llama")
    prompts = [f"{number}" for number in range(24)]
    batch = pad_batch(model.tokenize(prompts), pad_token_id=2, device=model.device)
    free = [greedy_ids(model.hf, ids, 5) for ids in model.tokenize(prompts)]
    ends = (free[0][2], free[1][0])
    truth = cut(free, ends)
    assert greedy_replies(model, batch, ReplySettings(5, ends)) == truth
    rows = [n_rows for n_rows, n_tokens in passes if n_tokens == 1]
    for step, (before, after) in enumerate(zip([len(prompts), *rows], rows, strict=False), 1):
        going_on = sum(len(reply) > step for reply in truth)
        assert after in (before, going_on)
        assert 8 * (after - going_on) < max(after, 1)


def moved_at_all_tokens(
    model: ChatModel, layer: int, moves: Tensor
) -> AbstractContextManager[None]:
    """Each row moved by a vector of its own."""
    return edit_blocks(model, [layer], lambda residual: residual + moves[:, None])


@pytest.mark.parametrize("moved", [shift_last_token, moved_at_all_tokens])
def test_hooks_that_hold_something_for_each_row_find_their_rows(moved, passes, monkeypatch):
    model = speaker("llama")
    monkeypatch.setattr(reading, "token_budget", lambda _model, width: width)
    moves = 3 * torch.randn(len(PROMPTS), D_MODEL, generator=torch.Generator().manual_seed(0))
    alone = []
    for prompt, move in zip(PROMPTS, moves, strict=True):
        batch = pad_batch(model.tokenize([prompt]), pad_token_id=2, device=model.device)
        with moved(model, 1, move[None]):
            alone += greedy_replies(model, batch, ReplySettings(N))
    ends = (alone[0][2],)
    assert cut(alone, ends) != cut(truths(model), ends)
    passes.clear()
    with moved(model, 1, moves):
        assert greedy_replies(model, batch_of(model), ReplySettings(N, ends)) == cut(alone, ends)
    assert {n_rows for n_rows, _ in passes} == {len(PROMPTS)}


def test_processors_are_asked_about_all_rows_and_all_their_tokens():
    model = speaker("llama")
    ends = early_ends(model)
    batch = batch_of(model)
    asked: list[Tensor] = []

    class Watch(LogitsProcessor):
        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            asked.append(input_ids)
            return scores

    replies = greedy_replies(model, batch, ReplySettings(N, ends, [Watch()]))
    assert replies == truths(model, ends)
    for written, ids in enumerate(asked):
        assert torch.equal(ids[:, : batch.input_ids.shape[1]], batch.input_ids)
        for reply, row in zip(replies, ids[:, batch.input_ids.shape[1] :].tolist(), strict=True):
            assert row == [*reply, *[model.pad_token_id] * N][:written]


def other_model(kind: str, **sizes: object) -> ChatModel:
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**sizes)).float()
    with torch.no_grad():
        for parameter in hf.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
    return wrap_model(hf, tiny_tokenizer(), name=kind)


CONVOLUTIONS = {
    **ARCHITECTURES["llama"],
    "layer_types": ["conv", "full_attention"] * 2,
    "conv_L_cache": 3,
    "block_multiple_of": 8,
}
NO_CACHE = {**ARCHITECTURES["gpt2"], "afn": "gelu"}


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [("phi3", ARCHITECTURES["phi3"]), ("lfm2", CONVOLUTIONS), ("openai-gpt", NO_CACHE)],
)
def test_models_that_decode_in_their_own_way_go_through_generate(kind, sizes, generations):
    model = other_model(kind, **sizes)
    ends = (truths(model)[0][1],)
    shares: list[float] = []
    replies = greedy_replies(model, batch_of(model), ReplySettings(N, ends, on_part=shares.append))
    assert replies == truths(model, ends)
    assert len(generations) == 1
    assert shares == sorted(shares)
    assert shares[-1] <= 1


def test_parts_of_the_work_add_up(monkeypatch):
    model = speaker("llama")
    monkeypatch.setattr(reading, "token_budget", lambda _model, width: 2 * width)
    shares: list[float] = []
    greedy_replies(
        model, batch_of(model), ReplySettings(N, early_ends(model), on_part=shares.append)
    )
    prompt_tokens = sum(map(len, model.tokenize(PROMPTS)))
    everything = prompt_tokens + N * len(PROMPTS)
    assert shares == sorted(shares)
    assert shares[2] == pytest.approx(prompt_tokens / everything)
    assert shares[-1] == 1
