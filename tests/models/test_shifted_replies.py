"""Law: replies to shifted prompts are those of whole passes with the same shift.

The whole passes have no cache and no batch: the text so far goes through the Hugging Face model
token after token, with a hook of the test's own on the last prompt token.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from actor_lens.models.batches import TokenBatch, pad_batch
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.replies import end_tokens
from actor_lens.models.shifted_replies import ShiftedReplies
from tests.support.greedy import greedy_ids
from tests.support.tiny_models import ARCHITECTURES, D_MODEL, N_LAYERS, talkative_tiny_model

PROMPTS = ["Hello there", "How do I kill a Python process?", "Hi", "Shoot a film"]
NEW_TOKENS = 6


def padded(model: ChatModel) -> TokenBatch:
    return pad_batch(
        model.tokenize(PROMPTS), pad_token_id=model.pad_token_id, device=torch.device("cpu")
    )


@contextmanager
def moved(model: ChatModel, layer: int, place: int, shift: Tensor) -> Iterator[None]:
    """Adds to the residual of one token after a block, in passes over the whole text."""

    def hook(_module: object, _inputs: object, output: object) -> object:
        residual = output[0] if isinstance(output, tuple) else output
        assert isinstance(residual, Tensor)
        residual = residual.clone()
        residual[:, place] += shift
        return (residual, *output[1:]) if isinstance(output, tuple) else residual

    handle = model.blocks[layer].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def whole_passes(model: ChatModel, layer: int, row: int, shift: Tensor) -> list[int]:
    """The reply to one shifted prompt, written one whole pass a token."""
    [ids] = model.tokenize([PROMPTS[row]])
    with moved(model, layer, len(ids) - 1, shift):
        return greedy_ids(model.hf, ids, NEW_TOKENS, end_tokens(model))


@pytest.mark.parametrize("layer", [1, N_LAYERS - 1])
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_replies_are_those_of_whole_passes_question_after_question(architecture, layer):
    model = talkative_tiny_model(architecture)
    shifted = ShiftedReplies(model, PROMPTS, padded(model), layer)
    # Phi-3 has a way of its own to put tokens into the model, and is read anew each time.
    assert (shifted._cache is None) == (architecture == "phi3")
    direction = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(layer))
    seen = set()
    # Later questions are of fewer prompts, in another order, and go back to a smaller shift.
    for rows, size in (([0, 1, 2, 3], 0.0), ([3, 1], 9.0), ([0, 3], 30.0), ([1, 2], 3.0)):
        shifts = torch.stack([size * (1 + row) * direction for row in rows])
        replies = shifted.write(rows, shifts, NEW_TOKENS)
        expected = [
            whole_passes(model, layer, row, shift) for row, shift in zip(rows, shifts, strict=True)
        ]
        assert replies == expected
        seen |= {(row, tuple(reply)) for row, reply in zip(rows, replies, strict=True)}
    assert len(seen) > len(PROMPTS)  # shifts change what is said


def test_residuals_are_those_without_a_shift_whatever_was_asked():
    model = talkative_tiny_model("llama")
    batch = padded(model)
    shifted = ShiftedReplies(model, PROMPTS, batch, 1)
    shifted.write([0, 1], torch.full((2, D_MODEL), 5.0), 2)
    for row, text in enumerate(PROMPTS):
        output = model.hf(input_ids=torch.tensor(model.tokenize([text])), output_hidden_states=True)
        torch.testing.assert_close(shifted.residuals[row], output.hidden_states[2][0, -1])


def test_a_model_with_hooks_is_read_anew_and_says_the_same():
    model = talkative_tiny_model("llama")
    rows, shifts = [2, 0], torch.randn(2, D_MODEL, generator=torch.Generator().manual_seed(1)) * 9
    quick = ShiftedReplies(model, PROMPTS, padded(model), 1)
    expected = quick.write(rows, shifts, NEW_TOKENS)
    model.blocks[0].register_forward_hook(lambda _module, _inputs, output: output)
    slow = ShiftedReplies(model, PROMPTS, padded(model), 1)
    assert slow._cache is None
    assert slow.write(rows, shifts, NEW_TOKENS) == expected
    torch.testing.assert_close(slow.residuals, quick.residuals)
