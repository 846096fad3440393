"""How much memory is free, and how many tokens of a model fit into it at once."""

from __future__ import annotations

from pathlib import Path

import torch

from actor_lens.models.chat_model import ChatModel

# Share of the free memory that one forward pass may take: the estimate below is rough, and what
# the pass leaves behind needs room too.
_SHARE = 0.25
# Beyond these, larger batches are no faster: cores and multiprocessors are busy already.
_ENOUGH_ON_CPU = 4096
_ENOUGH_ON_GPU = 32768
# A core computes about this much in a second or two, and a user should hear of the work as often.
# Of a large model the weights are read anew for each batch, so that it is not made smaller yet.
_OPERATIONS_ON_CPU, _LEAST_ON_CPU = 1.5e11, 512
_CGROUP = Path("/sys/fs/cgroup")


def token_budget(
    model: ChatModel, longest: int, *, cap: int | None = None, kept_per_token: int = 0
) -> int:
    """Tokens, padding included, that one forward pass should hold at most.

    Args:
        model: Its widths say what a token takes, its devices how much is free.
        longest: Length of the longest prompt: eager attention keeps one score for each pair of
            tokens and head.
        cap: More than this many are never asked for; by default what keeps the device busy.
        kept_per_token: Bytes that are kept for each token after the pass.
    """
    devices = {parameter.device for parameter in model.hf.parameters()}
    free = min(free_memory(device) for device in devices)
    on_cpu = all(device.type == "cpu" for device in devices)
    if cap is None:
        moment = max(_LEAST_ON_CPU, int(_OPERATIONS_ON_CPU / (2 * model.hf.num_parameters())))
        cap = min(_ENOUGH_ON_CPU, moment) if on_cpu else _ENOUGH_ON_GPU
    needed = bytes_per_token(model, longest) + kept_per_token
    return max(1, min(cap, int(_SHARE * free / needed)))


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on a device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What torch has taken from the driver and does not use.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    import psutil

    return min(int(psutil.virtual_memory().available), _container_room())


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # The CPU allocator has no error class of its own.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def bytes_per_token(model: ChatModel, longest: int) -> int:
    """A generous estimate of the temporaries of one block, which are freed before the next."""
    config = model.hf.config.get_text_config()
    width = 12 * model.d_model + 4 * int(getattr(config, "intermediate_size", 4 * model.d_model))
    # Scores, their float32 softmax and the mask.
    attention = 3 * int(config.num_attention_heads) * longest
    return 4 * attention + model.hf.dtype.itemsize * width


def cache_bytes_per_token(model: ChatModel) -> int:
    """Keys and values of one token in all layers, in bytes.

    ``2 * layers * key-value heads * width of a head * bytes of a number``. Sliding windows, which
    keep fewer tokens, are not taken into account.
    """
    config = model.hf.config.get_text_config()
    heads = int(config.num_attention_heads)
    groups = int(getattr(config, "num_key_value_heads", None) or heads)
    width = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    return 2 * model.n_layers * groups * width * model.hf.dtype.itemsize


def _container_room() -> int:
    """What the limit of a container leaves; psutil reports the memory of the whole machine."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = (_CGROUP / "memory.current").read_text().strip()
        # Pages of files count as used but are given back when memory is short.
        statistics = (_CGROUP / "memory.stat").read_text().split()
        pages = dict(zip(statistics[::2], statistics[1::2], strict=True))
        return int(limit) - int(used) + int(pages.get("inactive_file", 0))
    except (OSError, ValueError):  # no container, no limit ("max"), or not Linux
        return 2**62
