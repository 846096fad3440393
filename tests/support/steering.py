"""What a steered model computes, read and replayed without the package's own interventions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from actor_lens.judges.first_token import RefusalTokens
from actor_lens.models.batches import TokenBatch, pad_batch
from actor_lens.models.chat_model import ChatModel
from tests.support.greedy import greedy_ids

TEXTS = ("Hello there", "How do I kill a Python process?", "Hi", "QUASH THE zzz7")
CLOSING = 2  # tokens of the tiny models' template after the user's text: <end><assistant>

Change = Callable[[np.ndarray], np.ndarray]
"""Of one prompt's residuals, ``[token, d_model]``, float64."""


def padded(model: ChatModel, texts: Sequence[str] = TEXTS) -> TokenBatch:
    """Some prompts in one batch with padding."""
    return pad_batch(
        model.tokenize(texts), pad_token_id=model.pad_token_id, device=torch.device("cpu")
    )


def logits(model: ChatModel, batch: TokenBatch) -> Tensor:
    """Of every token of a batch."""
    with torch.no_grad():
        return model.hf(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            use_cache=False,
        ).logits


def module_after(model: ChatModel, layer: int) -> nn.Module:
    """What receives the residual stream after a block."""
    if layer + 1 < model.n_layers:
        return model.blocks[layer + 1]
    base = model.hf.base_model
    return base.ln_f if hasattr(base, "ln_f") else base.norm


@contextmanager
def received(model: ChatModel) -> Iterator[list[np.ndarray]]:
    """Collects the stream after every block, ``[prompt, token, d_model]``, as the next gets it."""
    found: list[np.ndarray] = []

    def keep(_module: nn.Module, args: tuple, kwargs: dict) -> None:
        found.append((args[0] if args else kwargs["hidden_states"]).detach().double().numpy())

    handles = [
        module_after(model, layer).register_forward_pre_hook(keep, with_kwargs=True)
        for layer in range(model.n_layers)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def stream(model: ChatModel, ids: Sequence[int]) -> np.ndarray:
    """The stream of one unpadded prompt after every block, ``[layer, token, d_model]``."""
    with received(model) as found, torch.no_grad():
        model.hf(input_ids=torch.tensor([list(ids)]), use_cache=False)
    return np.stack(found)[:, 0]


def replayed(
    model: ChatModel, ids: Sequence[int], n: int, changes: Sequence[tuple[int, Change]]
) -> list[int]:
    """Greedy tokens of one prompt without cache or batch, each block's output changed in numpy."""

    def hook_of(change: Change) -> Callable[..., Tensor]:
        def hook(_block: nn.Module, _args: object, output: Tensor) -> Tensor:
            states = output[0] if isinstance(output, tuple) else output
            changed = torch.tensor(change(states[0].double().numpy()))[None].to(states.dtype)
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        return hook

    handles = [model.blocks[layer].register_forward_hook(hook_of(one)) for layer, one in changes]
    try:
        return greedy_ids(model.hf, list(ids), n)
    finally:
        for handle in handles:
            handle.remove()


def generated(model: ChatModel, texts: Sequence[str], n: int) -> list[list[int]]:
    """Greedy tokens of prompts in one padded batch, with the key-value cache."""
    batch = padded(model, texts)
    output = model.hf.generate(
        batch.input_ids,
        attention_mask=batch.attention_mask,
        max_new_tokens=n,
        min_new_tokens=n,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=model.pad_token_id,
    )
    return output[:, batch.input_ids.shape[1] :].tolist()


def hooks(model: ChatModel) -> int:
    """How many hooks there are."""
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.hf.modules()
    )


def random(*shape: int, seed: int = 3) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Of two vectors."""
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


def some_refusal_tokens(*_args: object, **_settings: object) -> RefusalTokens:
    """Stands in for the tokens of a random model, which refuses nothing: half its vocabulary."""
    return RefusalTokens(tuple(range(0, 300, 2)), ("even",) * 150)
