"""What identifies a model's weights, and how other weights take their place for a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
import xxhash
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_SAMPLES_PER_TENSOR = 1024


def fingerprint(hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """Identify weights and chat template by evenly spaced samples of every tensor.

    Samples are rounded to bfloat16, so that one checkpoint loaded in two dtypes is the same model.
    Settings of the configuration (positions, windows, soft caps) are not in it, as saved runs go by
    it; the store names what it keeps by those as well.
    """
    digest = hashlib.sha256(str(tokenizer.chat_template).encode())
    for name, tensor in hf.state_dict().items():
        sample = _samples(tensor).to(device="cpu", dtype=torch.bfloat16).float().numpy()
        digest.update(json.dumps([name, list(tensor.shape)]).encode())
        digest.update(sample.tobytes())
    return digest.hexdigest()


class WeightsIdentity:
    """A hash of every bit of a model's weights as they are now, quick to ask for again.

    A tensor is read in full once, and again only after a change: when torch has written to it, or
    when evenly spaced samples of it differ. (Writing through ``.data`` goes past torch's count of
    writes, so of such a change only the samples know.)
    """

    def __init__(self) -> None:
        """Nothing is read yet."""
        self._known: dict[str, tuple[tuple[int, int, str], str]] = {}

    def of(self, hf: PreTrainedModel) -> str:
        """The hash of a model, always the same one for one ``WeightsIdentity``."""
        digest = hashlib.sha256()
        for name, tensor in hf.state_dict().items():
            state = (tensor.data_ptr(), tensor._version, tensor_digest(_samples(tensor)))
            if name not in self._known or self._known[name][0] != state:
                self._known[name] = (state, tensor_digest(tensor))
            digest.update(json.dumps([name, list(tensor.shape), self._known[name][1]]).encode())
        return digest.hexdigest()


def tensor_digest(tensor: Tensor) -> str:
    """A hash of every bit of a tensor, quick, against damage and change but not against forgery."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return xxhash.xxh3_128_hexdigest(flat.view(torch.uint8).numpy().data)


@contextmanager
def overwritten(hf: PreTrainedModel, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Other values in some tensors of a model for the time of a ``with`` statement.

    The tensors are overwritten in place, so that whatever shares them sees the values too, and are
    restored bit for bit on any exit.

    Args:
        hf: The model.
        values: New values by the Hugging Face names of its tensors, in their shapes.
    """
    tensors = hf.state_dict()
    originals = {name: tensors[name].detach().clone() for name in values}
    try:
        _overwrite(tensors, values)
        yield
    finally:
        _overwrite(tensors, originals)


def _overwrite(tensors: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in values.items():
            tensors[name].copy_(value)


def _samples(tensor: Tensor) -> Tensor:
    flat = tensor.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // _SAMPLES_PER_TENSOR)]
