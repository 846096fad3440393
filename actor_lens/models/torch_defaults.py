"""Torch's own defaults, for libraries that make tensors without saying of which kind."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_defaults() -> Iterator[None]:
    """float32 on the CPU, whatever the user has made the default, for a ``with`` statement."""
    dtype, on_cpu = torch.get_default_dtype(), torch.get_default_device().type == "cpu"
    torch.set_default_dtype(torch.float32)
    try:
        # The context is a device map for transformers, so it is left out where it can be.
        if on_cpu:
            yield
        else:
            with torch.device("cpu"):
                yield
    finally:
        torch.set_default_dtype(dtype)
