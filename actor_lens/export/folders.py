"""The fine-tuned model as others use it: a whole Hugging Face folder, or the one block alone."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from actor_lens import __version__
from actor_lens.errors import UserError
from actor_lens.export.model_card import (
    CardFacts,
    Form,
    base_in_code,
    base_model_name,
    write_model_card,
)
from actor_lens.files.paths import user_path
from actor_lens.files.saving import replacing_folder
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.finite import not_finite_weights
from actor_lens.models.weights import tensor_digest
from actor_lens.text import one_line
from actor_lens.training.run import TrainingRun

DELTA_FILE = "delta.safetensors"
DELTA_CARD = "delta.json"
Kind = Literal["model", "delta", "adapter"]
MARKERS: dict[Kind, str] = {
    "model": "config.json",
    "delta": DELTA_CARD,
    "adapter": "adapter_config.json",
}
"""The file by which an export of each kind is known: other folders are not overwritten."""


def export_model(
    model: ChatModel,
    run: TrainingRun,
    folder: str | Path,
    *,
    overwrite: bool = False,
    facts: CardFacts | None = None,
) -> Path:
    """Write the whole model with the trained block in place, its tokenizer and a model card.

    The folder is written aside and takes its name when it is complete. It is read by
    ``load_model`` and by everything that reads Hugging Face folders, in the dtype that the model
    has in memory. That model is as before afterwards.

    Args:
        model: The model that the run was trained on.
        run: A fine-tune of one of its blocks.
        folder: Folder to write to; made if it is not there.
        overwrite: Replace an export of the same kind that is there, with all that is in its folder.
        facts: What the model card says beyond the run.

    Returns:
        The folder.

    Raises:
        UserError: If the run belongs to another model, the block is quantised, the folder holds
            something already, or it cannot be written.
    """
    facts = facts or CardFacts()
    with writing_export(folder, model, run, "model", overwrite) as staging:
        with run.applied_to(model):
            model.hf.save_pretrained(staging)
            model.tokenizer.save_pretrained(staging)
            _check_written(staging, model)
        write_model_card(staging, model, run, _model_form(model, facts), facts)
    return user_path(folder)


def _check_written(folder: Path, model: ChatModel) -> None:
    """Compare every tensor that was written, and its number format, with the model's own.

    Raises:
        UserError: If another tensor, or fewer of them, would be read back.
    """
    own = model.hf.state_dict()
    compared = set()
    for name, tensor in _read_back(folder, model):
        if name not in own or not _same_bits(tensor, own[name]):
            raise _not_as_written(model, name)
        compared.add(own[name].data_ptr())
    for name, tensor in own.items():
        if tensor.data_ptr() not in compared:  # by address: a tied tensor is written once
            raise _not_as_written(model, name)


def _read_back(folder: Path, model: ChatModel) -> Iterator[tuple[str, Tensor]]:
    """Tensors of a folder under the names that they have in the model."""
    own = model.hf.state_dict()
    paths = sorted(folder.glob("*.safetensors"))
    files = {}
    for path in paths:
        with safe_open(path, framework="pt") as file:
            files[path] = list(file.keys())
    if all(name in own for names in files.values() for name in names):
        for path, names in files.items():
            with safe_open(path, framework="pt") as file:
                yield from ((name, file.get_tensor(name)) for name in names)
        return
    # Some architectures are written under other names: only reading the model tells what is there.
    again = type(model.hf).from_pretrained(folder, dtype=model.hf.dtype, use_safetensors=True)
    yield from again.state_dict().items()


def _same_bits(one: Tensor, other: Tensor) -> bool:
    same_kind = (one.dtype, one.shape) == (other.dtype, other.shape)
    return same_kind and tensor_digest(one) == tensor_digest(other)


def _not_as_written(model: ChatModel, name: str) -> UserError:
    return UserError(
        f"'{model.name}' cannot be exported as a whole model: transformers writes {name} otherwise "
        "than it is in memory; export the block alone (--as delta), or start from a checkpoint "
        "in bfloat16"
    )


def export_delta(
    model: ChatModel,
    run: TrainingRun,
    folder: str | Path,
    *,
    overwrite: bool = False,
    facts: CardFacts | None = None,
) -> Path:
    """Write only the trained block, to be put into the base model by three lines of transformers.

    ``delta.safetensors`` holds the block's tensors themselves and not their differences: adding
    a rounded difference would not give the trained weights, replacing gives them to the bit.
    ``delta.json`` says what they belong to; it and ``README.md`` hold the three lines. Arguments,
    result and errors are those of ``export_model``.
    """
    facts = facts or CardFacts()
    with writing_export(folder, model, run, "delta", overwrite) as staging:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in run.state.items()}
        save_file(tensors, staging / DELTA_FILE, metadata={"format": "pt"})
        card = _delta_card(model, run, facts, (staging / DELTA_FILE).read_bytes())
        text = json.dumps(card, indent=2)
        (staging / DELTA_CARD).write_text(text + "\n", encoding="utf-8")
        write_model_card(staging, model, run, _delta_form(model, facts), facts)
    return user_path(folder)


def delta_lines(model: ChatModel, facts: CardFacts | None = None) -> list[str]:
    """Python that puts a delta into the base model, run in the delta's folder.

    Three lines after the imports. Weights are asked for in the dtype that the block was trained
    in; the last line fails where a tensor has no place in the model.
    """
    named = base_in_code(base_model_name(model, facts or CardFacts()))
    return [
        "from safetensors.torch import load_file",
        "from transformers import AutoModelForCausalLM",
        "",
        f'model = AutoModelForCausalLM.from_pretrained({named}, dtype="{dtype_name(model)}")',
        f'delta = load_file("{DELTA_FILE}")',
        "assert not model.load_state_dict(delta, strict=False).unexpected_keys",
    ]


@contextmanager
def writing_export(
    folder: str | Path, model: ChatModel, run: TrainingRun, kind: Kind, overwrite: bool
) -> Iterator[Path]:
    """Yield an empty folder that takes the place of ``folder`` when all is written.

    Args:
        folder: Folder of the export.
        model: The exported model; the folder it was loaded from is never overwritten.
        run: The run that is exported.
        kind: Kind of the export.
        overwrite: Whether an export of that kind may be replaced.

    Raises:
        UserError: If the run belongs to another model, its block is quantised, the folder holds
            something else or cannot be written, or a part of a model is to be written whose base
            is no model by itself but one with an adapter.
    """
    import transformers

    folder = user_path(folder)
    _check_float_block(model, run)
    adapter = (model.source or {}).get("adapter")
    if adapter is not None and kind != "model":
        raise UserError(
            f"model '{model.name}' has the adapter '{adapter}' in its weights, so a {kind} of this "
            "run would have no base that can be loaded by name; export it as model"
        )
    check_folder(folder, kind, overwrite=overwrite)
    source = str((model.source or {}).get("name", ""))
    if os.path.isabs(source) and os.path.realpath(folder) == os.path.realpath(source):
        raise UserError(
            f"{folder}: is what the model was loaded from, which the run needs; give another folder"
        )
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with replacing_folder(folder) as staging, _disk_errors():
        yield staging


def _model_form(model: ChatModel, facts: CardFacts) -> Form:
    named = _without_ticks(base_in_code(base_model_name(model, facts)))
    adapter = (model.source or {}).get("adapter")
    merged = f" and merge the adapter {_without_ticks(repr(adapter))} into it" if adapter else ""
    return Form(
        library="transformers",
        what="A whole model, in the format of Hugging Face transformers.",
        lines=[
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            "folder = '.'  # this folder, or its name on the hub",
            f'model = AutoModelForCausalLM.from_pretrained(folder, dtype="{dtype_name(model)}")',
            "tokenizer = AutoTokenizer.from_pretrained(folder)",
        ],
        undo=f"Load the base model instead: `from_pretrained({named})`{merged}. "
        "All tensors outside the trained block are the same, bit for bit.",
    )


def _delta_form(model: ChatModel, facts: CardFacts) -> Form:
    named = _without_ticks(base_in_code(base_model_name(model, facts)))
    return Form(
        library="transformers",
        what=f"The tensors of one decoder block, in `{DELTA_FILE}`, which replace those of the "
        "base model.",
        lines=delta_lines(model, facts),
        undo=f"Load the base model again: `from_pretrained({named})`. No other tensor was touched.",
        tags=["one-layer-delta"],
    )


def _without_ticks(code: str) -> str:
    """Python inside backticks."""
    return code.replace("`", "")


def _delta_card(
    model: ChatModel, run: TrainingRun, facts: CardFacts, file: bytes
) -> dict[str, Any]:
    return {
        "format": "actor-lens one-layer delta",
        "holds": "replaced tensors",
        "base_model": base_model_name(model, facts),
        "base_fingerprint": run.fingerprint,
        "layer": run.layer,
        "load_with": delta_lines(model, facts),
        "tensors": {
            name: {
                "shape": list(tensor.shape),
                "dtype": str(tensor.dtype).removeprefix("torch."),
                "xxh3_128": tensor_digest(tensor),
            }
            for name, tensor in run.state.items()
        },
        "sha256": {DELTA_FILE: hashlib.sha256(file).hexdigest()},
        "trained_parameters": run.trained_parameters,
        "settings": asdict(run.config),
        "train_prompts": dict(run.train_prompts),
        "versions": {"actor_lens": __version__},
    }


def check_folder(folder: str | Path, kind: Kind, *, overwrite: bool = False) -> None:
    """Check that an export may be written into a folder, before there is a model.

    Args:
        folder: Where the export will go; its parent is made if it is not there.
        kind: Kind of the export.
        overwrite: Whether an export of this kind may be replaced.

    Raises:
        UserError: If its content would be lost, or it cannot be used.
    """
    folder, marker = user_path(folder), MARKERS[kind]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        content = os.listdir(folder) if os.path.lexists(folder) else []
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be used ({error.strerror or error}); give another folder"
        ) from error
    if content and not overwrite:
        raise UserError(
            f"{folder}: is not empty; give another folder, or overwrite=True (--overwrite)"
        )
    if content and marker not in content:
        raise UserError(
            f"{folder}: holds no {kind} (no {marker}) but other files, which overwriting would "
            "delete; give another folder"
        )


def _check_float_block(model: ChatModel, run: TrainingRun) -> None:
    """Check that the block which a run replaces holds ordinary numbers, and the run fits it.

    What would be written of a quantised block fits no other copy of the model; weights that are
    not finite, trained or not, are of no use to anyone.
    """
    prefix = model.block_prefix(run.layer)
    for name, tensor in model.hf.state_dict().items():
        if name.startswith(prefix) and not tensor.is_floating_point():
            raise UserError(
                f"layer {run.layer} of '{model.name}' is quantised ({name} holds {tensor.dtype}) "
                "and cannot be exported; load the model without quantization"
            )
    run.check_belongs_to(model)
    with run.applied_to(model):
        broken = not_finite_weights(model)
    if broken:
        raise UserError(
            f"{len(broken)} tensors of '{model.name}' with this run hold NaN or infinity, the "
            f"first is {broken[0]}, and are not exported; train again with a lower learning rate, "
            "or copy the model again"
        )


def dtype_name(model: ChatModel) -> str:
    """The dtype of a model's weights as ``from_pretrained`` takes it, such as ``"bfloat16"``."""
    return str(model.hf.dtype).removeprefix("torch.")


@contextmanager
def _disk_errors() -> Iterator[None]:
    """Make OSErrors of the exceptions by which libraries in Rust report a full disk and the like.

    Source: std::io::Error, whose text ends in "(os error NUMBER)".
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        if "(os error " not in str(error):
            raise
        raise OSError(one_line(error)) from error
