"""Law: what prompts have in common is read once, and no score shows how they were read.

Truth is a full pass over each prompt alone, without padding, cache or fused attention.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from actor_lens.models import reading as module
from actor_lens.models.batches import TokenBatch, pad_batch
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.decoding import ReplySettings, greedy_replies
from actor_lens.models.fused_attention import with_fused_attention
from actor_lens.models.interventions import ablate_everywhere, add_direction, shift_last_token
from actor_lens.models.key_cache import room_of
from actor_lens.models.reading import (
    OwnWayError,
    read_prompts,
    run_keeping,
    run_tokens,
    scores_behind,
)
from tests.support.greedy import greedy_ids
from tests.support.tiny_models import (
    ARCHITECTURES,
    D_MODEL,
    shared_tiny_model,
    talkative_tiny_model,
)

SYSTEM = "You are kind and brief and you never guess."
PROMPTS = ("How do I kill a Python process, and why?", "Bake a cake", "Bake!", "a", "Bake a cake")
# phi3 prepares its inputs itself.
PLAIN = tuple(name for name in ARCHITECTURES if name != "phi3")
each_architecture = pytest.mark.parametrize("architecture", PLAIN)


def speaker(architecture: str) -> ChatModel:
    return shared_tiny_model(architecture).with_system_prompt(SYSTEM)


def batch_of(model: ChatModel) -> TokenBatch:
    return pad_batch(model.tokenize(PROMPTS), pad_token_id=model.pad_token_id, device=model.device)


def alone(model: ChatModel, beginning: tuple[int, ...] = ()) -> Tensor:
    rows = [torch.tensor([[*ids, *beginning]]) for ids in model.tokenize(PROMPTS)]
    with torch.no_grad():
        return torch.cat([model.hf(input_ids=row).logits[:, -1] for row in rows])


@pytest.fixture
def shapes(monkeypatch):
    """Prompts and tokens of each pass."""
    seen: list[tuple[int, int]] = []

    def count(one: object, ids: Tensor, *rest: Tensor, **settings: int) -> object:
        seen.append(tuple(ids.shape))
        return run_keeping(one, ids, *rest, **settings)

    monkeypatch.setattr(module, "run_keeping", count)
    return seen


@each_architecture
@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_scores_are_those_of_single_prompts(architecture, at_once, monkeypatch):
    monkeypatch.setattr(module, "token_budget", lambda _model, width: at_once * width)
    model = speaker(architecture)
    with torch.no_grad():
        reading = read_prompts(model, batch_of(model), room=4)
    torch.testing.assert_close(reading.scores, alone(model), atol=1e-4, rtol=1e-4)


@each_architecture
def test_what_all_begin_with_is_read_once(architecture, shapes):
    model = speaker(architecture)
    rows = model.tokenize(PROMPTS)
    common = rows[0].index(model.tokenizer.convert_tokens_to_ids("<user>")) + 1
    with torch.no_grad():
        read_prompts(model, batch_of(model), room=4)
    longest = max(map(len, rows))
    if architecture in ("llama", "qwen2", "qwen3"):
        assert shapes == [(1, common), (len(PROMPTS), longest - common)]
    else:  # what is seen depends on the columns between: windows slide, positions are learned
        assert shapes == [(len(PROMPTS), longest)]


def test_little_in_common_is_not_worth_a_pass(shapes):
    model = shared_tiny_model("llama")
    with torch.no_grad():
        read_prompts(model, batch_of(model), room=4)
    assert [n_rows for n_rows, _ in shapes] == [len(PROMPTS)]


def test_equal_prompts_keep_a_token_of_their_own(shapes):
    model = speaker("llama")
    [ids] = model.tokenize(["Hello"])
    batch = pad_batch([ids] * 3, pad_token_id=2, device=model.device)
    with torch.no_grad():
        scores = read_prompts(model, batch, room=1).scores
    assert shapes == [(1, len(ids) - 1), (3, 1)]
    torch.testing.assert_close(scores, scores[:1].expand(3, -1))


def test_a_hooked_model_reads_all_prompts_as_they_are(shapes):
    model = speaker("llama")
    batch = batch_of(model)
    with torch.no_grad(), shift_last_token(model, 1, torch.ones(len(PROMPTS), D_MODEL)):
        read_prompts(model, batch, room=4)
    assert shapes == [tuple(batch.input_ids.shape)]


@each_architecture
def test_beginnings_of_replies_are_asked_about_without_a_trace(architecture):
    model = speaker(architecture)
    batch = batch_of(model)
    with torch.no_grad():
        reading = read_prompts(model, batch, room=3)
    for beginning in ((40,), (40, 41, 42), (7, 7, 7, 7), (40,)):  # the third has no room
        scores = scores_behind(model, batch, beginning, reading)
        torch.testing.assert_close(scores, alone(model, beginning), atol=1e-4, rtol=1e-4)
    assert room_of(reading.cache) in (0, 3)  # 0 where a window slides, which forgets by itself


def test_a_model_that_prepares_its_inputs_is_not_read():
    model = shared_tiny_model("phi3")
    with pytest.raises(OwnWayError):
        read_prompts(model, batch_of(model), room=4)


class TestFusedAttention:
    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_it_is_the_same_function_with_the_same_weights(self, architecture):
        model = talkative_tiny_model(architecture)
        fused, batch = with_fused_attention(model), batch_of(model)
        assert [id(one) for one in fused.parameters()] == [id(one) for one in model.hf.parameters()]
        ends = []
        for hf in (model.hf, fused):
            with torch.no_grad():
                first, cache = run_tokens(
                    model, batch.input_ids, batch.attention_mask, batch.position_ids
                )
                token = first.argmax(dim=-1, keepdim=True)
                mask = torch.nn.functional.pad(batch.attention_mask, (0, 1), value=1)
                positions = batch.position_ids[:, -1:] + 1
                ends.append(run_tokens(model, token, mask, positions, cache, hf=hf)[0])
        torch.testing.assert_close(ends[0], ends[1], atol=1e-4, rtol=1e-4)
        assert model.hf.config._attn_implementation == "eager"

    def test_capped_scores_stay_eager(self):
        models = {name: talkative_tiny_model(name) for name in ("gemma2", "llama", "gpt2")}
        assert with_fused_attention(models["gemma2"]) is models["gemma2"].hf
        for name in ("llama", "gpt2"):
            fused = with_fused_attention(models[name])
            assert {
                module.config._attn_implementation
                for module in fused.modules()
                if hasattr(module, "config")
            } == {"sdpa"}

    @pytest.mark.parametrize("architecture", ["llama", "gpt2"])
    def test_hooks_act_on_every_token_of_a_reply(self, architecture):
        model = talkative_tiny_model(architecture)
        batch, direction = batch_of(model), torch.linspace(-1, 1, D_MODEL)
        rows = model.tokenize(PROMPTS)
        plain = [greedy_ids(model.hf, ids, 6) for ids in rows]
        for hooked in (add_direction(model, 1, 3 * direction), ablate_everywhere(model, direction)):
            with hooked:
                truth = [greedy_ids(model.hf, ids, 6) for ids in rows]
                assert greedy_replies(model, batch, ReplySettings(6)) == truth
            assert truth != plain

    def test_modules_that_are_tied_to_their_place_are_left_alone(self):
        model = talkative_tiny_model("llama")
        block = model.blocks[0]
        block.forward = block.forward
        assert with_fused_attention(model) is model.hf
