"""The form with fused attention gives the same scores, and running it leaves the model as it was.

Rotary modules of the kinds here put other frequencies in place of theirs while they run.
"""

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from actor_lens.models.chat_model import ChatModel, wrap_model
from actor_lens.models.fused_attention import with_fused_attention
from tests.support.tiny_models import ARCHITECTURES, tiny_tokenizer

SHORT, LONG = torch.arange(6, 16)[None], torch.arange(6, 106)[None]
ROPE = {
    "dynamic": ({"factor": 4.0}, 32),
    "longrope": (
        {
            "short_factor": [1.0] * 4,
            "long_factor": [2.0, 3.0, 5.0, 9.0],
            "original_max_position_embeddings": 32,
        },
        128,
    ),
}


def model_with(kind: str) -> ChatModel:
    """A tiny Llama whose frequencies change beyond 32 tokens."""
    torch.manual_seed(0)
    settings, positions = ROPE[kind]
    rope = {"rope_type": kind, "rope_theta": 10000.0, **settings}
    given = {**ARCHITECTURES["llama"], "max_position_embeddings": positions}
    hf = AutoModelForCausalLM.from_config(CONFIG_MAPPING["llama"](**given, rope_parameters=rope))
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.mul_(4.0)
    return wrap_model(hf.float(), tiny_tokenizer(), name=kind)


@pytest.mark.parametrize("kind", ROPE)
def test_frequencies_that_one_form_changes_are_not_the_others(kind):
    model = model_with(kind)
    fused = with_fused_attention(model)
    assert fused is not model.hf
    assert fused.config._attn_implementation == "sdpa"
    with torch.no_grad():
        short = model.hf(SHORT).logits
        long = fused(LONG).logits
        assert torch.equal(model.hf(SHORT).logits, short)
        torch.testing.assert_close(model.hf(LONG).logits, long, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(fused(SHORT).logits, short, rtol=1e-3, atol=1e-3)
    alone = model_with(kind).hf
    with torch.no_grad():
        torch.testing.assert_close(alone(LONG).logits, long, rtol=1e-3, atol=1e-3)
        assert not torch.allclose(alone(LONG).logits[:, :10], short, rtol=1e-2, atol=1e-2)
