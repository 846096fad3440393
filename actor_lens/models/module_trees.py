"""Several module trees over the same tensors: a change of a weight in place is seen by all."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from actor_lens.models.quantization import shared_state

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def twin(hf: PreTrainedModel, replaced: Mapping[str, Tensor] | None = None) -> PreTrainedModel:
    """A second module tree over the same tensors: wrapping it leaves ``hf`` as it was.

    Args:
        hf: The model whose tensors are shared.
        replaced: Values of parameters that the second tree has for itself, by their names.
    """
    shared = [*hf.parameters(), *hf.buffers(), *shared_state(hf)]
    memo: dict[int, Any] = {id(tensor): tensor for tensor in shared}
    own = dict(hf.named_parameters())  # a tied tensor is here under its first name alone
    for name, value in (replaced or {}).items():
        if name in own:
            like = own[name]
            values = value.to(device=like.device, dtype=like.dtype, copy=True)
            memo[id(like)] = nn.Parameter(values, requires_grad=False)
    second = copy.deepcopy(hf, memo)
    if not second.config.architectures:  # a model that was never saved; TransformerLens goes by it
        second.config.architectures = [type(hf).__name__]
    return second


def name_in_memory_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """TransformerLens reads these keys, which only tokenizers that were loaded by name have."""
    tokenizer.init_kwargs.setdefault("name_or_path", "")
    tokenizer.init_kwargs.setdefault("add_bos_token", True)
