"""Reading a checkpoint: where it lies, what is checked before and after, where it runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from actor_lens.errors import UserError, check_choice
from actor_lens.files.bundled import BUNDLED_MODELS, bundled
from actor_lens.files.lfs import check_no_pointer
from actor_lens.files.paths import user_path
from actor_lens.models.adapters import (
    ADAPTER_FILE,
    Adapter,
    alone_message,
    base_of,
    find_adapter,
    merge_adapter,
)
from actor_lens.models.chat_templates import check_system_prompt, set_chat_template
from actor_lens.models.checkpoint_checks import (
    check_causal,
    check_no_adapter,
    check_not_applied,
    check_not_offloaded,
    check_not_packed,
)
from actor_lens.models.gguf_files import (
    forget_packing,
    is_gguf,
    own_folder,
    read_config,
    rename,
    unpacking_stage,
)
from actor_lens.models.hub_errors import one_line_errors
from actor_lens.models.options import (
    DEVICE_MAPS,
    DTYPES,
    DeviceMapStrategy,
    Dtype,
    Quantization,
)
from actor_lens.models.quantization import quantization_config, quantization_of
from actor_lens.models.smollm2 import (
    CAUTIOUS,
    SMOLLM2,
    cautious_adapter,
    check_cautious_packages,
    find_smollm2,
)
from actor_lens.models.torch_defaults import torch_defaults
from actor_lens.text import one_line

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


def read_checkpoint(
    name: str,
    *,
    adapter: str | Path | None,
    device: str,
    device_map: DeviceMapStrategy | Mapping[str, Any] | None,
    dtype: Dtype,
    chat_template: str | Path | None,
    system_prompt: str | None,
    revision: str | None,
    quantization: Quantization | None,
    trust_remote_code: bool,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, Any], str | None]:
    """Read model and tokenizer as ``load_model`` was asked to.

    Returns:
        The model, with the adapter merged; its tokenizer, or the adapter's where it brings one,
        with the chat template in place; arguments of ``load_model`` that load the same again: a
        hub revision is the commit that was read, and a chat template the text of the file that was
        given; and the packed formats that full precision was made of, None for none.

    Raises:
        UserError: As ``load_model``.
    """
    import transformers

    if name == CAUTIOUS:
        adapter, name = cautious_adapter(adapter), find_smollm2()
        check_cautious_packages(name)
    elif name == SMOLLM2:
        name = find_smollm2()
    source = _resolve(name)
    local = os.path.exists(source)
    _check_arguments(name, adapter, device, device_map, revision, quantization, local=local)
    file = Path(source) if local and is_gguf(Path(source)) else None
    found = None if adapter is None else find_adapter(adapter)
    torch_device = _device(device)
    torch_dtype = _dtype(dtype, torch_device)
    from_hub: dict[str, Any] = {
        "revision": revision or "main",
        "trust_remote_code": trust_remote_code,
    }
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with (
        one_line_errors(name, revision, (*BUNDLED_MODELS, SMOLLM2, CAUTIOUS)),
        nullcontext((source, None)) if file is None else own_folder(file) as (source, packed),
        nullcontext() if file is None else unpacking_stage(),
    ):
        if not local:
            _ask_hub(name, from_hub["revision"])
        if file is None:
            config = transformers.AutoConfig.from_pretrained(source, **from_hub)
        else:
            config = read_config(file, source)
            from_hub["gguf_file"] = file.name
        if not local:  # all else comes from the same commit, whatever happens meanwhile
            from_hub["revision"] = _commit_of(name, from_hub["revision"])
        check_causal(name, getattr(config, "architectures", None) or [])
        tokenizer = _read_tokenizer(source, found, from_hub)
        set_chat_template(name, tokenizer, chat_template)
        check_system_prompt(name, tokenizer, system_prompt)
        hf = _read_weights(
            name, source, config, torch_device, torch_dtype, device_map, quantization, from_hub
        )
        if file is not None:
            rename(hf, tokenizer, source, str(file.parent))
    if found is not None:
        hf = merge_adapter(found, name, hf)
    loaded_with = {
        "name": os.path.abspath(file or source) if local else name,
        "adapter": None if found is None else found.source,
        "device": device,
        "device_map": device_map,
        "dtype": dtype,
        "chat_template": None if chat_template is None else tokenizer.chat_template,
        "system_prompt": system_prompt,
        "revision": None if local else from_hub["revision"],
        "quantization": quantization,
        "trust_remote_code": trust_remote_code,
    }
    return hf, tokenizer, loaded_with, packed


def _check_arguments(
    name: str,
    adapter: str | Path | None,
    device: str,
    device_map: DeviceMapStrategy | Mapping[str, Any] | None,
    revision: str | None,
    quantization: Quantization | None,
    *,
    local: bool,
) -> None:
    if adapter is not None and quantization is not None:
        raise UserError(
            f"adapter '{adapter}' and quantization '{quantization}' were given; an adapter is "
            "merged into weights in full precision: leave the quantization out"
        )
    if quantization is not None and is_gguf(Path(name)):
        raise UserError(
            f"quantization '{quantization}' was given for '{name}', whose packed weights are read "
            "in full precision; leave the quantization out"
        )
    if device_map is not None and device != "auto":
        raise UserError(
            f"device '{device}' and a device map were given; leave one of them out (a map says "
            "itself which devices it uses)"
        )
    if isinstance(device_map, str) and device_map not in DEVICE_MAPS:
        raise UserError(
            f"device map '{device_map}' is not known; use {', '.join(DEVICE_MAPS)}, or --device "
            "for one device"
        )
    if revision is not None and local:
        raise UserError(
            f"revision '{revision}' was given for '{name}', which is no model of the hub; leave "
            "the revision out"
        )


def _ask_hub(name: str, revision: str) -> None:
    """Ask the hub once for the model: its answer for every file would come after many trials.

    It is not asked where it may not be, or where the model is in the cache.

    Raises:
        UserError: If there is only an adapter.
    """
    from huggingface_hub import HfApi, constants, hf_hub_download

    if constants.HF_HUB_OFFLINE or _cached_folder(name, revision) is not None:
        return
    info = HfApi().model_info(name, revision=revision, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT)
    files = {file.rfilename for file in info.siblings or ()}
    if ADAPTER_FILE in files and "config.json" not in files:
        card = Path(hf_hub_download(name, ADAPTER_FILE, revision=revision))
        raise UserError(alone_message(name, base_of(card.parent)))


def _commit_of(name: str, revision: str) -> str:
    """The commit that a revision meant when its config was read."""
    folder = _cached_folder(name, revision)
    return revision if folder is None else folder.name  # snapshots/COMMIT


def _cached_folder(name: str, revision: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(cached).parent if isinstance(cached, str) else None


def _read_tokenizer(
    source: str, adapter: Adapter | None, from_hub: Mapping[str, Any]
) -> PreTrainedTokenizerBase:
    """The tokenizer of the model, or that which the adapter was trained with and brings along."""
    import transformers

    if adapter is not None and _has_tokenizer(adapter.folder):
        source, from_hub = str(adapter.folder), {}
    tokenizer: PreTrainedTokenizerBase
    tokenizer = transformers.AutoTokenizer.from_pretrained(source, **from_hub)
    return tokenizer


def _read_weights(
    name: str,
    source: str,
    config: PreTrainedConfig,
    device: torch.device,
    dtype: torch.dtype | str,
    device_map: DeviceMapStrategy | Mapping[str, Any] | None,
    quantization: Quantization | None,
    from_hub: Mapping[str, Any],
) -> PreTrainedModel:
    import transformers

    declared = getattr(config, "quantization_config", None) is not None
    quantized: dict[str, Any] = {}
    if quantization is not None:
        # Quantised layers cannot be moved afterwards; the rest must have a type of its own.
        dtype = _stored_dtype(config) if isinstance(dtype, str) else dtype
        device_map = device_map or {"": str(device)}
        quantized["quantization_config"] = quantization_config(quantization, dtype)
    with torch_defaults():
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
            source,
            config=config,
            dtype=dtype,
            device_map=device_map,
            attn_implementation="eager",
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, by name
            **quantized,
            **from_hub,
        )
    hf: PreTrainedModel
    hf, report = loaded
    _check_complete(name, report)
    files = Path(source) if os.path.isdir(source) else _cached_folder(name, from_hub["revision"])
    check_not_applied(name, hf)
    if "gguf_file" in from_hub:
        forget_packing(hf)
    elif not declared:
        check_not_packed(name, files, report["unexpected_keys"])
    elif isinstance(dtype, torch.dtype) and quantization_of(hf) is None:
        hf.to(dtype)  # type: ignore[arg-type]  # unpacked weights have a type of their own
    if device_map is None:
        hf.to(device)  # type: ignore[arg-type]
    else:
        check_not_offloaded(name, hf)
    return hf


def _stored_dtype(config: PreTrainedConfig) -> torch.dtype:
    stored = getattr(config, "dtype", None)
    return stored if isinstance(stored, torch.dtype) else torch.bfloat16


def _resolve(name: str) -> str:
    """Folder or hub name to read from, with a folder's contents checked before torch reads them."""
    if name in BUNDLED_MODELS:
        return str(bundled(BUNDLED_MODELS[name]))
    folder = user_path(name)  # Path's own raises where there is no such user
    if not os.path.exists(folder):  # Path.exists raises on names too long for a file
        return name
    if not folder.is_dir():
        if is_gguf(folder):
            return str(folder)
        raise UserError(
            f"model '{name}' is a file; give the folder that holds config.json, or a .gguf file"
        )
    _check_files(name, folder)
    return str(folder)


def _check_files(name: str, folder: Path) -> None:
    """Refuse a folder in which something is missing, or is not what it seems."""
    check_no_adapter(name, folder)
    if not (folder / "config.json").is_file():
        raise UserError(f"model folder '{name}' has no config.json; give a Hugging Face folder")
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"model folder '{name}' has no *.safetensors weights (pickled weights are not read); "
            "save the model with save_pretrained first"
        )
    if not _has_tokenizer(folder):
        raise UserError(
            f"model folder '{name}' has no tokenizer ({', '.join(_TOKENIZER_FILES)}); "
            "save the tokenizer into it with save_pretrained"
        )
    for path in (*folder.glob("*.json"), *folder.glob("*.model"), *folder.glob("*.safetensors")):
        if not path.is_dir():
            check_no_pointer(path)


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / file).is_file() for file in _TOKENIZER_FILES)


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"device '{device}' is not known; use auto, cpu or cuda") from error
    try:
        torch.zeros(1, dtype=torch.float32, device=chosen).item()
    except Exception as error:  # each kind of device has its own error for not being there
        raise UserError(
            f"device '{device}' is not available ({one_line(error, 100)}); use --device cpu"
        ) from error
    return chosen


def _dtype(dtype: Dtype, device: torch.device) -> torch.dtype | str:
    check_choice("dtype", dtype, DTYPES)
    if dtype == "auto":
        # Half precision is slow on CPUs and gains nothing for models that fit one.
        return torch.float32 if device.type == "cpu" else "auto"
    chosen: torch.dtype = getattr(torch, dtype)
    return chosen


def _check_complete(name: str, report: Mapping[str, Any]) -> None:
    """Refuse what transformers would fill with random numbers."""
    misfits = {key for key, *_shapes in report["mismatched_keys"]}
    faults = ((report["missing_keys"], "lacks"), (misfits, "has in another shape"))
    for names, fault in faults:
        if names:
            raise UserError(
                f"model '{name}' {fault} {len(names)} of the tensors that its config.json asks "
                f"for, the first is {min(names)}; copy or save the model again"
            )
