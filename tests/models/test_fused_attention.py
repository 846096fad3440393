"""The form with fused attention gives the same scores, and running it leaves the model as it was.

Rotary modules of the kinds here put other frequencies in place of theirs while they run.
"""

import pytest
import torch

from actor_lens.models.fused_attention import with_fused_attention
from tests.support.rope_models import ROPE, model_with

SHORT, LONG = torch.arange(6, 16)[None], torch.arange(6, 106)[None]


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
