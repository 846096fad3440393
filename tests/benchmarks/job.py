"""A task in a process of its own, so that its peak memory is its own: what it is handed."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from actor_lens.models.chat_model import ChatModel
from actor_lens.prompts.sets import PromptSet

Task = Literal["collection", "actor", "naive_actor", "sft", "sweep", "collect"]


@dataclass(frozen=True)
class BenchSettings:
    """Sizes of the work that is timed.

    Attributes:
        layer: The block that is trained.
        epochs: Passes over the prompts, in every way of training.
        reply_tokens: Length of the replies that SFT trains on.
        repeats: Rounds of the task ``collection``, after one that warms up.
        store: Folder of the store that the task ``collect`` writes into.
    """

    layer: int = 0
    epochs: int = 1
    reply_tokens: int = 64
    repeats: int = 3
    store: str = ""


@dataclass(frozen=True)
class Job:
    """One task for a process of its own.

    Attributes:
        task: Name of the task.
        model: Keyword arguments of ``load_model``.
        prompts: Path of a file of prompts.
        settings: Sizes of the work.
        threads: Number of torch's threads.
        state_file: Path to which trained tensors are written, where the task trains a block.
    """

    task: Task
    model: Mapping[str, Any]
    prompts: str
    settings: BenchSettings
    threads: int
    state_file: str

    def to_json(self) -> str:
        """The job as text, to be read by ``from_json``."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """The job that ``to_json`` wrote."""
        values = json.loads(text)
        return cls(**{**values, "settings": BenchSettings(**values["settings"])})


@dataclass(frozen=True)
class BenchFiles:
    """Files that the processes of tasks read and write.

    Attributes:
        model: Keyword arguments of ``load_model``.
        prompts: The file of prompts.
        folder: A folder for trained tensors.
    """

    model: Mapping[str, Any]
    prompts: Path
    folder: Path


def run_task(task: Task, files: BenchFiles, settings: BenchSettings) -> dict[str, Any]:
    """Run one task in a process of its own and return what it measured.

    Raises:
        subprocess.CalledProcessError: If the process fails.
    """
    job = Job(
        task=task,
        model=files.model,
        prompts=str(files.prompts),
        settings=settings,
        threads=torch.get_num_threads(),
        state_file=str(files.folder / f"{task}.safetensors"),
    )
    words = [sys.executable, "-m", "tests.benchmarks.process"]
    done = subprocess.run(words, input=job.to_json(), stdout=subprocess.PIPE, text=True, check=True)
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


@contextmanager
def on_disk(model: ChatModel, prompts: PromptSet) -> Iterator[BenchFiles]:
    """Yield model and prompts as files that other processes find, for a ``with`` statement."""
    with tempfile.TemporaryDirectory(prefix="actor-lens-bench-") as name:
        folder = Path(name)
        path = folder / "prompts.jsonl"
        lines = (
            json.dumps({"prompt": prompt.prompt, "label": prompt.label, "split": "train"})
            for prompt in prompts
        )
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        source = model.source
        if source is None:
            model.hf.save_pretrained(folder / "model")
            model.tokenizer.save_pretrained(folder / "model")
            dtype = str(model.hf.dtype).removeprefix("torch.")
            device = str(model.device)
            source = {"name": str(folder / "model"), "dtype": dtype, "device": device}
        yield BenchFiles(source, path, folder)
