"""An adapter of PEFT: where its files are, and how it becomes part of its base's weights."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from actor_lens.errors import UserError, require
from actor_lens.files.lfs import check_no_pointer
from actor_lens.files.paths import user_path
from actor_lens.models.quantization import quiet_bitsandbytes
from actor_lens.models.torch_defaults import torch_defaults
from actor_lens.prompts.rows import shown
from actor_lens.text import one_line, plural

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTER_FILE = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_FROM_HUB = (
    ADAPTER_FILE,
    _WEIGHTS,
    "tokenizer*",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
# Largest change of the logits by merging that rounding explains, relative to their length. Sixteen
# bits round each merged weight.
_TOLERANCES = {torch.float32: 1e-3, torch.float64: 1e-3}
_TOLERANCE_16_BIT = 0.3
_PROBE_TOKENS = 16


@dataclass(frozen=True)
class Adapter:
    """An adapter that was found.

    Attributes:
        name: Folder that it was asked for by, or hub name and commit, ``NAME@COMMIT``.
        folder: Folder with its files.
        base: Name of the base model that it says it was trained on; None where it says none.
    """

    name: str
    folder: Path
    base: str | None

    @property
    def source(self) -> str:
        """What finds it again from any folder: the whole path, or hub name and commit."""
        return os.path.abspath(user_path(self.name)) if _is_here(self.name) else self.name


def find_adapter(name: str | Path) -> Adapter:
    """Find an adapter by folder, or by hub name, from which its files are fetched.

    A hub name may end in ``@`` and a branch, tag or commit.

    Raises:
        UserError: If there is none of that name, it cannot be read, or its weights are pickled.
    """
    name = str(name)
    if _is_here(name):
        folder = user_path(name)
    else:
        folder = _fetch(name)
        name = f"{name.partition('@')[0]}@{folder.name}"  # snapshots/COMMIT
    if not (folder / ADAPTER_FILE).is_file():
        whole = " (it holds a whole model: give it with --model)"
        raise UserError(
            f"adapter '{name}' has no {ADAPTER_FILE}"
            f"{whole if (folder / 'config.json').is_file() else ''}; give a folder that PEFT saved"
        )
    if not (folder / _WEIGHTS).is_file():
        raise UserError(
            f"adapter '{name}' has no {_WEIGHTS} (pickled weights are not read); save it with "
            "PEFT's save_pretrained"
        )
    for file in (ADAPTER_FILE, _WEIGHTS):
        check_no_pointer(folder / file)
    return Adapter(name, folder, base_of(folder))


def base_of(folder: Path) -> str | None:
    """The base model that the adapter in a folder names."""
    try:
        card = json.loads((folder / ADAPTER_FILE).read_text(encoding="utf-8"))
        return str(card["base_model_name_or_path"] or "") or None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def alone_message(name: str, base: str | None) -> str:
    """What to say where an adapter was given as a model."""
    given = base or "BASE"
    named = f"of the base model {shown(base)}" if base else "of a base model that it does not name"
    return (
        f"model '{name}' is an adapter alone, {named}; give both: --model {given} --adapter {name} "
        f"(load_model({given!r}, adapter={name!r}))"
    )


def merge_adapter(adapter: Adapter, name: str, hf: PreTrainedModel) -> PreTrainedModel:
    """Merge an adapter into the weights of its base model, by PEFT's own merge.

    Whether the merged model says what the adapted one says is tried on a few tokens: where
    embedding and head are one tensor, for instance, an adapter of one of them would change both.

    Args:
        adapter: The adapter.
        name: Name of the base model.
        hf: The base model; it is changed in place.

    Raises:
        UserError: If PEFT is not installed, the adapter is of another base model or of a kind that
            has no merge, or the merged model says something else.
    """
    quiet_bitsandbytes()
    peft = require("peft", "lora", "an adapter")
    try:
        # PEFT draws random weights before it reads those of the file.
        with torch_defaults(), warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")  # what it warns of is looked for below
            config = peft.PeftConfig.from_pretrained(str(adapter.folder))
            if config.is_prompt_learning:
                raise UserError(
                    f"adapter '{adapter.name}' is of the kind {config.peft_type.value}, whose "
                    "learned prompt is no part of the weights; give one that can be merged, such "
                    "as LoRA"
                )
            adapted = peft.PeftModel(hf, config)
            read = adapted.load_adapter(str(adapter.folder), "default", torch_device=str(hf.device))
            _check_read(adapter, name, read.missing_keys, read.unexpected_keys)
            before = _probe(adapted)
            merged: PreTrainedModel = adapted.merge_and_unload(safe_merge=True)
    except UserError:
        raise
    except Exception as error:  # each kind of misfit has its own error
        raise UserError(_misfit(adapter, name, one_line(error, 160))) from error
    _check_says_the_same(adapter, name, before, _probe(merged), hf.dtype)
    return merged


def _is_here(name: str) -> bool:
    return os.path.exists(user_path(name))


def _fetch(name: str) -> Path:
    """The folder of the hub's cache with an adapter's files."""
    from huggingface_hub import snapshot_download

    try:
        repository, _, revision = name.partition("@")
        patterns = list(_FROM_HUB)
        return Path(
            snapshot_download(repository, revision=revision or None, allow_patterns=patterns)
        )
    except Exception as error:  # of the hub, its client or the network, as it comes
        raise UserError(
            f"adapter '{name}' is neither a folder nor a readable repository of the hub "
            f"({type(error).__name__}: {one_line(error, 120)}); give the folder that PEFT saved"
        ) from error


def _check_read(
    adapter: Adapter, name: str, missing: Iterable[str], unexpected: Iterable[str]
) -> None:
    """Refuse an adapter of which something has no place in the model, or the other way round."""
    for keys, fault in ((unexpected, "for which the model has no place"), (missing, "too few")):
        if keys := sorted(keys):
            reason = f"{plural(len(keys), 'tensor')} {fault}, the first is {keys[0]}"
            raise UserError(_misfit(adapter, name, reason))


def _misfit(adapter: Adapter, name: str, reason: str) -> str:
    base = (
        "does not name its base model" if adapter.base is None else f"is of {shown(adapter.base)}"
    )
    return (
        f"adapter '{adapter.name}' does not fit model '{name}' ({reason}); it {base}: give the "
        "model that it was trained on"
    )


def _probe(model: Any) -> Tensor:
    """Logits of every place of a few tokens."""
    hf = model.get_base_model() if hasattr(model, "get_base_model") else model
    rows = int(hf.config.get_text_config().vocab_size)
    ids = torch.arange(_PROBE_TOKENS, device=hf.device)[None] * 7 % rows
    with torch.no_grad():
        logits: Tensor = hf(input_ids=ids, use_cache=False).logits
    return logits.double()


def _check_says_the_same(
    adapter: Adapter, name: str, before: Tensor, after: Tensor, dtype: torch.dtype
) -> None:
    apart = float((after - before).norm() / before.norm())
    # NaN, from weights that are not finite, is told by the stage that first meets it.
    if apart > _TOLERANCES.get(dtype, _TOLERANCE_16_BIT):
        raise UserError(
            f"adapter '{adapter.name}' cannot be merged into model '{name}': its logits would "
            f"differ by {apart:.1%} from those of the model with the adapter beside it (an adapter "
            "of tied embeddings?); merge it with PEFT by hand and give the whole model"
        )
