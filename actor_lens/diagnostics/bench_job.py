"""What a benchmark hands to the process of one task, and how it travels there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Part = Literal["collection", "looks", "actor", "naive_actor", "sft", "sweep"]
PARTS: tuple[Part, ...] = get_args(Part)
Task = Literal["collection", "looks", "actor", "naive_actor", "sft", "sweep", "collect"]


@dataclass(frozen=True)
class BenchSettings:
    """Sizes of the work that is timed.

    Attributes:
        layer: The block that is moved or trained.
        epochs: Passes over the prompts, in every way of training.
        reply_tokens: Length of the replies that are generated, and that SFT trains on.
        repeats: Rounds of the tasks ``collection`` and ``looks``, after one that warms up.
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
