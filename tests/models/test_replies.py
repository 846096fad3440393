"""A batched greedy reply is, token by token, what a prompt alone gets from argmax over logits.

Truth is a loop of full forward passes of the Hugging Face model, one prompt at a time, without
padding and without a key-value cache.
"""

import copy
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from actor_lens.errors import UserError
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.replies import first_token_logits, generate_replies, kl_divergence
from actor_lens.progress import reporting, stage
from tests.support.greedy import greedy_ids
from tests.support.logs import transformers_log
from tests.support.reports import Recorder
from tests.support.tiny_models import (
    SOME_ARCHITECTURES,
    shared_tiny_model,
    talkative_tiny_model,
    tiny_chat_model,
)

PROMPTS = [
    "How do I kill a Python process?",
    "a",
    "How do I make a bomb at home, quickly and quietly?",
    "Bake a cake",
    "Bake a cakes",
]
N = 10
PAD = 2
each_architecture = pytest.mark.parametrize("architecture", SOME_ARCHITECTURES)


def prompt_ids(model: ChatModel, prompt: str) -> list[int]:
    return model.tokenizer(model.render(prompt), add_special_tokens=False)["input_ids"]


def true_replies(model: ChatModel, n: int = N, ends: tuple[int, ...] = ()) -> list[list[int]]:
    return [greedy_ids(model.hf, prompt_ids(model, prompt), n, ends) for prompt in PROMPTS]


@contextmanager
def replies_as_ids(model: ChatModel) -> Iterator[None]:
    """Let "decoding" write token ids, for text would hide differences between odd bytes."""

    def batch_decode(rows: list[list[int]], **_kwargs: object) -> list[str]:
        return [" ".join(map(str, row)) for row in rows]

    model.tokenizer.batch_decode = batch_decode
    try:
        yield
    finally:
        del model.tokenizer.batch_decode


def reply_ids(model: ChatModel, **options: int) -> list[list[int]]:
    """Tokens of each reply, its end token included."""
    with replies_as_ids(model):
        texts = generate_replies(model, PROMPTS, **options)
    return [[int(token) for token in text.split()] for text in texts]


# ---- Replies ----


@each_architecture
@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_batched_replies_are_those_of_single_prompts_token_by_token(architecture, batch_size):
    model = talkative_tiny_model(architecture)
    ends = (model.hf.generation_config.eos_token_id,)
    truth = true_replies(model, ends=ends)
    assert len({tuple(reply) for reply in truth}) > 2  # else order and padding would not matter
    assert reply_ids(model.with_batch_size(batch_size), new_tokens=N) == truth


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text", "gpt2"])
def test_any_of_several_end_tokens_ends_a_reply(architecture):
    model = talkative_tiny_model(architecture)
    free = true_replies(model)
    ends = (free[0][3], free[4][5])
    truth = true_replies(model, ends=ends)
    assert {reply[-1] for reply in truth if len(reply) < N} == set(ends)
    assert len({len(reply) for reply in truth}) > 1
    model.hf.generation_config.eos_token_id = list(ends)
    assert reply_ids(model, new_tokens=N) == truth


def test_the_end_token_of_the_tokenizer_serves_a_model_that_names_none():
    model = tiny_chat_model("llama")
    end = true_replies(model)[0][2]
    model.hf.generation_config.eos_token_id = None
    model.tokenizer.eos_token = model.tokenizer.convert_ids_to_tokens(end)
    assert reply_ids(model, new_tokens=N) == true_replies(model, ends=(end,))


def test_padding_with_the_end_token_is_masked_all_the_same():
    model = tiny_chat_model("llama")
    model.tokenizer.pad_token = None
    assert model.pad_token_id == model.tokenizer.eos_token_id == 1
    assert reply_ids(model.with_batch_size(3), new_tokens=N) == true_replies(model, ends=(1,))


def test_a_model_without_generation_settings_replies():
    model = tiny_chat_model("llama")
    truth = true_replies(model, ends=(1,))
    model.hf.generation_config = None
    assert reply_ids(model, new_tokens=N) == truth


@pytest.mark.parametrize(
    "shipped",
    [
        {"do_sample": True, "temperature": 9.0, "top_p": 0.9, "top_k": 50},
        {"repetition_penalty": 3.0},
        {"no_repeat_ngram_size": 1},
        {"num_beams": 3},
        {"min_new_tokens": N},
        {"max_length": 5},
        {"max_new_tokens": 2},
        {"suppress_tokens": list(range(10, 290))},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_settings_that_a_checkpoint_ships_do_not_change_replies(shipped):
    model = tiny_chat_model("llama")
    end = true_replies(model)[1][4]
    truth = true_replies(model, ends=(end,))
    settings = GenerationConfig(eos_token_id=end, pad_token_id=PAD, **shipped)
    model.hf.generation_config = copy.deepcopy(settings)
    assert reply_ids(model, new_tokens=N) == truth
    assert model.hf.generation_config.to_dict() == settings.to_dict()


@each_architecture
def test_nothing_is_logged(architecture):
    model = shared_tiny_model(architecture)
    with transformers_log() as messages:
        generate_replies(model, PROMPTS, new_tokens=2)
    assert messages == []


def test_replies_are_text_without_special_tokens():
    model = shared_tiny_model("llama")
    replies = generate_replies(model, PROMPTS, new_tokens=N)
    for reply, ids in zip(replies, true_replies(model, ends=(1,)), strict=True):
        assert reply == model.tokenizer.decode(ids, skip_special_tokens=True).strip()
    assert not any("</s>" in reply or "<pad>" in reply for reply in replies)


def test_blanks_around_a_reply_are_left_out(monkeypatch):
    model = tiny_chat_model("llama")
    monkeypatch.setattr(
        model.tokenizer, "batch_decode", lambda rows, **_: ["\n a reply \n"] * len(rows)
    )
    assert generate_replies(model, PROMPTS[:2], new_tokens=1) == ["a reply", "a reply"]


def test_end_tokens_are_left_out_of_the_text():
    model = tiny_chat_model("llama")
    ids = true_replies(model)[3]
    place = 1
    assert ids[place] not in ids[:place]
    token = model.tokenizer.convert_ids_to_tokens(ids[place])
    model.hf.generation_config.eos_token_id = ids[place]
    model.tokenizer.add_special_tokens({"eos_token": token})
    reply = generate_replies(model, PROMPTS[3:4], new_tokens=N)[0]
    assert reply == model.tokenizer.decode(ids[:place]).strip()
    assert reply != model.tokenizer.decode(ids[: place + 1]).strip()


def test_order_is_kept():
    model = shared_tiny_model("llama").with_batch_size(2)
    order = [4, 2, 0, 3, 1]
    replies = generate_replies(model, PROMPTS, new_tokens=N)
    assert len(set(replies)) > 2
    shuffled = generate_replies(model, [PROMPTS[i] for i in order], new_tokens=N)
    assert shuffled == [replies[i] for i in order]


def test_replies_follow_the_weights_of_the_moment():
    model = tiny_chat_model("llama")
    before = reply_ids(model, new_tokens=N)
    with torch.no_grad():
        for parameter in model.blocks[2].parameters():
            parameter.mul_(1.5)
    after = reply_ids(model, new_tokens=N)
    assert after != before
    assert after == true_replies(model, ends=(1,))


def test_progress_goes_on_within_a_batch_and_ends_with_the_speed():
    recorder = Recorder()
    with reporting(recorder), stage("here"):
        generate_replies(shared_tiny_model("llama").with_batch_size(4), PROMPTS, new_tokens=60)
    parts = recorder.parts("here")
    assert parts == sorted(parts)
    assert {1, 2, 3, 4} < {done for done, _ in parts}  # the prompts of the first batch
    assert [done for done, _ in parts].count(5) == 1
    assert parts[-1] == (5, 5)
    speeds = [re.fullmatch(r"[\d,]+ tokens a second", text) for _, text in recorder.notes]
    assert len(speeds) == 2  # one a batch
    assert all(speeds)


def test_no_prompts_have_no_replies():
    model = shared_tiny_model("llama")
    assert generate_replies(model, []) == []
    assert first_token_logits(model, []).shape == (0, 300)


# ---- The first token ----


@each_architecture
@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_first_token_logits_are_those_of_single_prompts(architecture, batch_size):
    model = shared_tiny_model(architecture)
    logits = first_token_logits(model.with_batch_size(batch_size), PROMPTS)
    assert logits.dtype == torch.float32
    for row, prompt in zip(logits, PROMPTS, strict=True):
        with torch.no_grad():
            truth = model.hf(torch.tensor([prompt_ids(model, prompt)]), use_cache=False).logits
        assert float((row - truth[0, -1]).abs().max()) <= 1e-5 * max(1, float(truth.abs().max()))


@each_architecture
def test_the_first_token_of_a_reply_has_the_highest_logit(architecture):
    model = shared_tiny_model(architecture)
    firsts = first_token_logits(model, PROMPTS).argmax(dim=1).tolist()
    assert firsts == [reply[0] for reply in true_replies(model, n=1)]


def test_logits_are_float32_whatever_the_dtype_of_the_model():
    model = tiny_chat_model("llama")
    model.hf.bfloat16()
    assert first_token_logits(model, PROMPTS).dtype == torch.float32


# ---- Errors ----


@pytest.mark.parametrize("value", [0, -1])
def test_a_reply_length_below_one_is_an_error(value):
    model = shared_tiny_model("llama")
    with pytest.raises(UserError, match=f"new_tokens is {value}; .*at least 1"):
        generate_replies(model, PROMPTS, new_tokens=value)


def test_a_prompt_that_leaves_no_room_for_its_reply_is_an_error():
    model = shared_tiny_model("llama")
    prompt = "x" * (256 - 4 - 5)  # four tokens of template, five of room
    assert len(prompt_ids(model, prompt)) == 251
    assert len(generate_replies(model, [prompt], new_tokens=5)) == 1
    with pytest.raises(UserError, match=r"has 251 tokens .* needs 6 for the reply; .* takes 256"):
        generate_replies(model, [prompt], new_tokens=6)


def test_divergence_is_the_formula_and_infinite_where_a_token_is_ruled_out():
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 9, generator=generator)
    p, q = (np.exp(x.double().numpy()) for x in (one, other))
    p, q = p / p.sum(), q / q.sum()
    assert kl_divergence(one, other) == pytest.approx(float((p * np.log(p / q)).sum()))
    assert kl_divergence(one, one) == 0
    ruled_out = other.clone()
    ruled_out[3] = -torch.inf
    assert kl_divergence(one, ruled_out) == math.inf
    assert kl_divergence(ruled_out, one) < math.inf
