"""The fine-tuned model as others use it: an ordinary Hugging Face folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from actor_lens.errors import UserError
from actor_lens.models import ChatModel
from actor_lens.saving import replacing_folder
from actor_lens.training_run import TrainingRun


def export_model(
    model: ChatModel, run: TrainingRun, folder: str | Path, *, overwrite: bool = False
) -> Path:
    """Write the whole model with the trained block in place, and its tokenizer.

    The folder is written aside and takes its name when it is complete. It is read by
    ``load_model`` and by everything that reads Hugging Face folders, in the dtype that the model
    has in memory. That model is as before afterwards.

    Args:
        model: The model that the run was trained on.
        run: A fine-tune of one of its blocks.
        folder: Where to write; made if it is not there.
        overwrite: Replace a model that is there, with all that is in its folder.

    Returns:
        The folder.

    Raises:
        UserError: If the run belongs to another model, the folder holds something already, or it
            cannot be written.
    """
    import transformers

    folder = Path(folder)
    run.check_belongs_to(model)
    _check_free(folder, model, overwrite)
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with replacing_folder(folder) as staging, _disk_errors(), run.applied_to(model):
        model.hf.save_pretrained(staging)
        model.tokenizer.save_pretrained(staging)
    return folder


def _check_free(folder: Path, model: ChatModel, overwrite: bool) -> None:
    """Refuse a folder whose content would be lost, unless it is a model and that was asked for."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        content = os.listdir(folder) if os.path.lexists(folder) else []
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be used ({error.strerror or error}); give another folder"
        ) from error
    if content and not overwrite:
        raise UserError(f"{folder}: is not empty; give another folder, or overwrite=True")
    if content and "config.json" not in content:
        raise UserError(
            f"{folder}: holds no model (no config.json) but other files, which overwriting would "
            "delete; give another folder"
        )
    source = str((model.source or {}).get("name", ""))
    if os.path.isabs(source) and os.path.realpath(folder) == os.path.realpath(source):
        raise UserError(
            f"{folder}: is what the model was loaded from, which the run needs; give another folder"
        )


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
        raise OSError(" ".join(str(error).split())) from error
