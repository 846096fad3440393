"""Law: what all prompts begin with is read once, and no residual shows it.

Truth is Hugging Face's own hidden states of each prompt alone.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import actor_lens as al
from actor_lens.methods.support.tails import tail_residuals
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.interventions import add_direction
from actor_lens.models.replies import first_token_logits
from tests.support.rope_models import model_with
from tests.support.tiny_models import ARCHITECTURES, D_MODEL, shared_tiny_model, tiny_chat_model

SYSTEM = "You are kind and brief and you never guess."
TEXTS = ("How do I kill a Python process, and why?", "Bake a cake", "Bake!", "a", "Bake a cake.")
PROMPTS = al.PromptSet(tuple(al.Prompt(text, "benign") for text in TEXTS))


def speaker(architecture: str) -> ChatModel:
    return shared_tiny_model(architecture).with_system_prompt(SYSTEM)


def alone(model: ChatModel, token_ids: list[list[int]]) -> list[Tensor]:
    """Residuals ``[layer, token, d_model]`` of each prompt, the last layer's before the norm."""
    found = []
    for ids in token_ids:
        kept: list[Tensor] = []
        hooks = [
            block.register_forward_hook(
                lambda _module, _inputs, output, kept=kept: kept.append(
                    (output[0] if isinstance(output, tuple) else output)[0]
                )
            )
            for block in model.blocks
        ]
        with torch.no_grad():
            model.hf(input_ids=torch.tensor([ids]))
        for hook in hooks:
            hook.remove()
        found.append(torch.stack(kept))
    return found


@pytest.fixture
def tokens_run(monkeypatch):
    """Shapes of the token ids that go into the blocks of any model."""
    seen: list[tuple[int, ...]] = []
    real = torch.nn.Embedding.forward

    def count(self: torch.nn.Embedding, ids: Tensor) -> Tensor:
        if self.num_embeddings > 200:  # of tokens, not of positions
            seen.append(tuple(ids.shape))
        return real(self, ids)

    monkeypatch.setattr(torch.nn.Embedding, "forward", count)
    return seen


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("position", ["last", "instruction"])
def test_residuals_are_those_of_single_prompts(architecture, position):
    model = speaker(architecture)
    found = al.collect_residuals(model, PROMPTS, position=position, store=False)
    truth = alone(model, model.tokenize(TEXTS))
    place = -1 - found.position.behind
    expected = torch.stack([layers[:, place] for layers in truth], dim=1)
    torch.testing.assert_close(found.values, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
def test_tails_are_those_of_single_prompts(architecture):
    model = speaker(architecture)
    opening = [40, 41]
    found = tail_residuals(model, TEXTS, 3, behind=1, opening=opening)
    truth = alone(model, [[*ids, *opening] for ids in model.tokenize(TEXTS)])
    expected = torch.stack([layers[:, -4:-1] for layers in truth], dim=2)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_the_beginning_runs_once_for_all_batches(tokens_run):
    model = replace(speaker("llama"), batch_size=2)
    rows = model.tokenize(TEXTS)
    common = rows[0].index(model.tokenizer.convert_tokens_to_ids("<user>")) + 1
    al.collect_residuals(model, PROMPTS, store=False)
    lengths = sorted((len(ids) - common for ids in rows), reverse=True)
    assert tokens_run == [(1, common), (2, lengths[0]), (2, lengths[2]), (1, lengths[4])]


def test_equal_prompts_keep_the_tokens_that_are_read(tokens_run):
    model = speaker("llama")
    twice = ["Bake a cake"] * 3
    found = tail_residuals(model, twice, 2)
    assert tokens_run[-1] == (3, 2)
    truth = torch.stack([layers[:, -2:] for layers in alone(model, model.tokenize(twice))], dim=2)
    torch.testing.assert_close(found, truth, atol=1e-4, rtol=1e-4)


def test_frequencies_that_the_longest_prompt_decides_are_its_own(tokens_run):
    """Beginnings stay below the 32 tokens at which they change, and prompts do not."""
    model = model_with("longrope").with_system_prompt("Be kind")
    texts = [f"{text}, please, and tell me about all of it" for text in TEXTS]
    prompts = al.PromptSet(tuple(al.Prompt(text, "benign") for text in texts))
    found = al.collect_residuals(model, prompts, store=False).values
    assert [n_rows for n_rows, _ in tokens_run] == [len(texts)]
    truth = alone(model, model.tokenize(texts))
    expected = torch.stack([layers[:, -1] for layers in truth], dim=1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_residuals_are_none_of_the_heads_business(tokens_run):
    """Logits overflow, so no reply can be read from this model, but its residuals can."""
    model = tiny_chat_model("llama").with_system_prompt(SYSTEM)
    with torch.no_grad():
        model.hf.lm_head.weight.fill_(3e38)
    truth = alone(model, model.tokenize(TEXTS))
    tokens_run.clear()
    found = al.collect_residuals(model, PROMPTS, store=False).values
    assert tokens_run[0][0] == 1  # what all begin with, apart
    expected = torch.stack([layers[:, -1] for layers in truth], dim=1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(al.UserError, match="logits"):
        first_token_logits(model, TEXTS)


def test_no_prompts_have_no_beginning():
    assert tail_residuals(speaker("llama"), []).shape[2] == 0


def test_inputs_of_a_block_keep_all_tokens():
    model = speaker("llama")
    activations = al.collect_activations(model, PROMPTS, block_inputs=[1], store=False)
    truth = alone(model, model.tokenize(TEXTS))
    for states, layers in zip(activations.block_inputs[1].hidden_states, truth, strict=True):
        torch.testing.assert_close(states, layers[0], atol=1e-4, rtol=1e-4)


def test_a_hook_changes_the_beginning_as_well(tokens_run):
    model = speaker("llama")
    unit = torch.zeros(D_MODEL, device="cpu")
    unit[0] = 1.0
    with add_direction(model, 0, 3.0 * unit):
        found = al.collect_residuals(model, PROMPTS, store=False).values
        assert all(n_rows > 1 for n_rows, _ in tokens_run)
        truth = torch.stack(
            [layers[:, -1] for layers in alone(model, model.tokenize(TEXTS))], dim=1
        )
    torch.testing.assert_close(found, truth, atol=1e-4, rtol=1e-4)
