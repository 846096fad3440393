"""Several module trees over the same tensors: a change of a weight in place is seen by all."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
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


def module_tree_of(wrapped: Any) -> PreTrainedModel:
    """A clean module tree over the tensors of a model into which TransformerLens has put its own.

    Each module that it replaced is still there, as ``_original_component`` of its successor.

    Raises:
        RuntimeError: If a tensor of the model is not among those of the other.
    """
    with torch.device("meta"):
        clean: PreTrainedModel = type(wrapped)(copy.deepcopy(wrapped.config))
    own = {_clean(name): tensor for name, tensor in wrapped.state_dict(keep_vars=True).items()}
    names = clean.state_dict()
    clean.load_state_dict({name: own[name] for name in names if name in own}, assign=True)
    buffers = {_clean(name): buffer for name, buffer in wrapped.named_buffers()}
    for name, _ in list(clean.named_buffers()):  # those that no state_dict holds, too
        module, _, last = name.rpartition(".")
        clean.get_submodule(module)._buffers[last] = buffers[name]
    clean.tie_weights()
    clean.generation_config = copy.deepcopy(wrapped.generation_config)
    return clean


def _clean(name: str) -> str:
    return name.replace("._original_component", "")


def name_in_memory_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """TransformerLens reads these keys, which only tokenizers that were loaded by name have."""
    tokenizer.init_kwargs.setdefault("name_or_path", "")
    tokenizer.init_kwargs.setdefault("add_bos_token", True)
