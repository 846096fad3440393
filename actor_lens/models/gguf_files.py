"""Model files of llama.cpp (GGUF): weights, tokenizer and chat template in one file.

transformers reads them and makes full precision of packed weights. What the file itself says is
looked at before, so that a fault has one line.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from actor_lens.errors import UserError, require
from actor_lens.files.lfs import beginning, check_no_pointer
from actor_lens.progress import report, stage
from actor_lens.text import one_line, plural

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_MAGIC = b"GGUF"
_PART = re.compile(r"-\d{5}-of-\d{5}$")
_FULL_PRECISION = ("F64", "F32", "F16", "BF16")
_PURPOSE = "a GGUF file"
# Two threads that load files would take each other's readers for gguf's own.
_one_at_a_time = threading.RLock()


def is_gguf(path: Path) -> bool:
    """Whether a file is one of llama.cpp's, by its name."""
    return path.suffix.lower() == ".gguf"


def packed_formats(path: Path) -> str | None:
    """What transformers will make full precision of: ``"Q4_1 (210 tensors), Q6_K (1 tensor)"``.

    None where no tensor is quantised.

    Args:
        path: A GGUF file.

    Raises:
        UserError: If it is a pointer of Git LFS, one part of several, cut off or damaged, or the
            package gguf is not installed.
    """
    check_no_pointer(path)
    if beginning(path, len(_MAGIC)) != _MAGIC:
        raise UserError(
            f"model file '{path}' is no GGUF file, whatever its name says; download it again, "
            "or give a Hugging Face folder"
        )
    if _PART.search(path.stem):
        raise UserError(
            f"model file '{path}' is one part of several; join them with llama.cpp's "
            "llama-gguf-split --merge and give the whole file"
        )
    gguf = require("gguf", "gguf", _PURPOSE)
    try:
        tensors = gguf.GGUFReader(path).tensors
    except Exception as error:  # wrong counts, types and offsets each have their own
        raise UserError(
            f"model file '{path}' is damaged or not complete; download it again "
            f"({type(error).__name__}: {one_line(error, 100)})"
        ) from error
    counts = Counter(tensor.tensor_type.name for tensor in tensors)
    packed = [
        f"{name} ({plural(count, 'tensor')})"
        for name, count in counts.most_common()
        if name not in _FULL_PRECISION
    ]
    return ", ".join(packed) or None


@contextmanager
def own_folder(path: Path) -> Iterator[tuple[str, str | None]]:
    """A folder with nothing but a GGUF file, which is parsed once, for a ``with`` statement.

    transformers prefers a tokenizer or chat template that lies beside the file to the file's own.
    With the folder comes what ``packed_formats`` says of the file.

    Raises:
        UserError: As ``packed_formats``, before the file is copied where links fail.
    """
    # Windows does not remove what is still mapped to memory.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, _parsing_once():
        packed = packed_formats(path)
        for place in (os.symlink, os.link, shutil.copyfile):  # not every disk has links
            try:
                place(path.resolve(), Path(folder) / path.name)
                break
            except OSError:
                if place is shutil.copyfile:
                    raise
        yield folder, packed


@contextmanager
def _parsing_once() -> Iterator[None]:
    """Keep what gguf makes of a file, within a ``with`` statement.

    transformers parses the whole vocabulary for the configuration, the tokenizer and the weights,
    and lists the names of all tensors for each module: for a small model that is most of the time.
    """
    gguf = require("gguf", "gguf", _PURPOSE)
    with _one_at_a_time:
        read_once = cache(gguf.GGUFReader)
        kept: dict[str, Any] = {
            "GGUFReader": lambda path, *rest: read_once(os.path.realpath(path), *rest),
            "get_tensor_name_map": cache(gguf.get_tensor_name_map),
        }
        with patch.multiple(gguf, **kept):
            yield


def read_config(path: Path, folder: str) -> Any:
    """The configuration that a GGUF file describes.

    Args:
        path: The file.
        folder: Its own folder.

    Raises:
        UserError: If transformers does not read its architecture.
    """
    import gguf
    import transformers

    try:
        return transformers.AutoConfig.from_pretrained(folder, gguf_file=path.name)
    except Exception as error:
        field = gguf.GGUFReader(path).get_field("general.architecture")
        named = "" if field is None else f" '{one_line(field.contents(), 40)}'"
        raise UserError(
            f"model file '{path}': transformers does not read the architecture{named} from GGUF "
            f"files ({one_line(error, 100)}); give the Hugging Face folder of the model"
        ) from error


@contextmanager
def unpacking_stage() -> Iterator[None]:
    """Report tensors as they are unpacked, in place of the one bar that transformers always shows.

    Its switch hides all others.
    """
    from transformers import modeling_gguf_pytorch_utils

    with patch.object(modeling_gguf_pytorch_utils, "tqdm", _report_each), stage("packed weights"):
        yield


def _report_each(tensors: Sequence[Any], **_bar: Any) -> Iterator[Any]:
    for number, tensor in enumerate(tensors, start=1):
        yield tensor
        report(number, len(tensors))


def forget_packing(hf: PreTrainedModel) -> None:
    """Let a model that was read from a GGUF file be the ordinary one that it now is.

    transformers goes on calling it quantised, and would neither save nor move it.
    """
    for name in ("is_quantized", "quantization_method", "hf_quantizer"):
        vars(hf).pop(name, None)
    vars(hf.config).pop("quantization_config", None)


def rename(hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, old: str, new: str) -> None:
    """Call what was read from one folder by the name of another.

    Args:
        hf: The model.
        tokenizer: Its tokenizer; that of an adapter keeps its name.
        old: Folder that they were read from, which will be gone.
        new: Folder to name instead.
    """
    hf.name_or_path = hf.config.name_or_path = new
    if tokenizer.name_or_path == old:
        tokenizer.name_or_path = tokenizer.init_kwargs["name_or_path"] = new
