"""Costs of ACTOR and of what it is compared with, in paired rounds on one machine."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from actor_lens.errors import UserError
from actor_lens.models.chat_model import ChatModel
from actor_lens.progress import stage
from actor_lens.prompts.sets import PromptSet, require_labels

if TYPE_CHECKING:
    import pandas as pd

PARTS = ("collection", "actor", "naive_actor", "sft", "sweep")
_TITLES = {
    "actor": "ACTOR, one layer on cached inputs",
    "naive_actor": "naive ACTOR, from the tokens at every step",
    "sft": "SFT, every parameter",
    "sweep": "ACTOR, every layer in turn",
}
NOTES = (
    "Each figure is the median over rounds; ratios are taken within a round. Training counts "
    "everything but loading the model: collecting block inputs too. Peak memory is that of a "
    "process of its own beyond what it had before the model was loaded, weights included (on a "
    "GPU: allocated by torch).",
    "Plain pass: the base model without head, gradients or cache, transformers' default attention, "
    "same batches. SFT: AdamW, default attention, replies of {reply_tokens} random tokens. The "
    "sweep is without scoring its outcomes.",
)


@dataclass(frozen=True)
class Costs:
    """What was measured.

    Attributes:
        machine: Processor, cores, memory, device, versions, date.
        setting: Model, prompts, tokens, layer, epochs.
        rounds: For each part what every round gave.
        agreement: Largest relative difference of a tensor between naive ACTOR's weights and
            ACTOR's, None where one of them was not run.
    """

    machine: Mapping[str, Any]
    setting: Mapping[str, Any]
    rounds: Mapping[str, Sequence[Mapping[str, Any]]] = field(repr=False)
    agreement: float | None

    def seconds(self, part: str) -> float:
        """Median seconds of a part; NaN where it was not run."""
        values = [one["seconds"] for one in self.rounds.get(part, ())]
        return statistics.median(values) if values else float("nan")

    def peak_bytes(self, part: str) -> float:
        """Median peak memory of a part; NaN where it was not run."""
        values = [float(one["memory"]["peak"]) for one in self.rounds.get(part, ())]
        return statistics.median(values) if values else float("nan")

    def ratio(self, part: str, to: str = "actor") -> float:
        """Median over rounds of the time of a part in relation to another's."""
        pairs = zip(self.rounds.get(part, ()), self.rounds.get(to, ()), strict=False)
        ratios = [one["seconds"] / other["seconds"] for one, other in pairs]
        return statistics.median(ratios) if ratios else float("nan")

    @property
    def collection(self) -> dict[str, float]:
        """``tokens_per_second``, and time in relation to a plain pass and to all hooks."""
        found = self.rounds.get("collection", ())
        if not found:
            return {}
        times = {
            name: [value for one in found for value in one["rounds"][name]]
            for name in ("ours", "plain", "all_hooks")
        }
        return {
            "tokens_per_second": found[0]["tokens"] / statistics.median(times["ours"]),
            "to_plain_pass": _paired(times["ours"], times["plain"]),
            "all_hooks_to_ours": _paired(times["all_hooks"], times["ours"]),
        }

    def frame(self) -> pd.DataFrame:
        """One row a way of training.

        Columns: ``part``, ``seconds``, ``times_actor`` (time in relation to ACTOR), ``peak_bytes``.
        """
        import pandas as pd

        parts = [part for part in PARTS if part in self.rounds and part != "collection"]
        return pd.DataFrame(
            {
                "part": _TITLES[part],
                "seconds": self.seconds(part),
                "times_actor": self.ratio(part),
                "peak_bytes": self.peak_bytes(part),
            }
            for part in parts
        )

    def predicted(self, n_prompts: int, epochs: int) -> dict[str, float]:
        """Seconds for more prompts of the same lengths and other epochs, by proportion."""
        more = n_prompts / self.setting["prompts"]
        longer = epochs / self.setting["epochs"]
        found = {}
        for part in ("actor", "sweep"):
            if part in self.rounds:
                parts = [one["parts"] for one in self.rounds[part]]
                collect = statistics.median(one["collect"] for one in parts)
                train = self.seconds(part) - collect
                found[part] = more * (collect + longer * train)
        for part in ("naive_actor", "sft"):
            if part in self.rounds:
                found[part] = more * longer * self.seconds(part)
        return found

    def summary(self) -> dict[str, Any]:
        """A record for JSON."""
        parts = [part for part in self.rounds if part != "collection"]
        return {
            "machine": dict(self.machine),
            "setting": dict(self.setting),
            "collection": self.collection,
            "training": {
                part: {
                    "seconds": self.seconds(part),
                    "times_actor": _or_none(self.ratio(part)),
                    "peak_bytes": self.peak_bytes(part),
                }
                for part in parts
            },
            "naive_actor_largest_relative_difference": self.agreement,
            "rounds": {name: list(found) for name, found in self.rounds.items()},
            "notes": [note.format(**self.setting) for note in NOTES],
        }


def bench(
    model: ChatModel,
    prompts: PromptSet,
    *,
    layer: int | None = None,
    epochs: int = 3,
    rounds: int = 3,
    reply_tokens: int = 64,
    parts: Sequence[str] = PARTS,
) -> Costs:
    """Measure what looking and training cost.

    Every part runs in a process of its own that loads the model, one part after the other, round
    after round, so that a slow moment of the machine falls on all of them alike.

    Args:
        model: Only looked at; one made in memory is saved to a temporary folder for the others.
        prompts: To train on, at least two of each label.
        layer: The block to train; the middle one unless given.
        epochs: Of every way of training.
        rounds: How often everything is measured.
        reply_tokens: Length of the replies that SFT trains on.
        parts: What to measure, of ``PARTS``.

    Raises:
        UserError: If a part is not known, prompts are missing, or a process fails, for instance
            because memory ran out.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts:
        raise UserError(f"part '{', '.join(unknown)}' is not known; use {', '.join(PARTS)}")
    if min(rounds, epochs, reply_tokens) < 1:
        raise UserError("rounds, epochs and reply tokens must be at least 1")
    require_labels(prompts, 2)
    layer = model.check_layer(model.n_layers // 2 if layer is None else layer)
    settings = {
        "layer": layer,
        "epochs": epochs,
        "reply_tokens": reply_tokens,
        "repeats": max(3, rounds),
    }
    found: dict[str, list[dict[str, Any]]] = {part: [] for part in parts}
    with on_disk(model, prompts) as files:
        with stage("benchmark", rounds * len(parts)) as done:
            for number, (turn, part) in enumerate(product(range(rounds), parts)):
                if part != "collection" or turn == 0:  # it has rounds of its own
                    found[part].append(run_task(part, files, settings))
                done(number + 1)
        agreement = _agreement(files.folder)
    token_counts = [len(ids) for ids in model.tokenize(prompts.texts)]
    return Costs(
        machine=machine_facts(model.device),
        setting={
            "model": model.name,
            "parameters": model.hf.num_parameters(),
            "layers": model.n_layers,
            "dtype": str(model.hf.dtype).removeprefix("torch."),
            "prompts": len(prompts),
            "tokens": sum(token_counts),
            "layer": layer,
            "epochs": epochs,
            "reply_tokens": reply_tokens,
            "rounds": rounds,
        },
        rounds=found,
        agreement=agreement,
    )


def machine_facts(device: torch.device) -> dict[str, Any]:
    """Where figures were measured."""
    import psutil
    import transformers

    return {
        "processor": _processor(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": int(psutil.virtual_memory().total),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


@dataclass(frozen=True)
class ChildFiles:
    """What a child process reads and writes."""

    model: Mapping[str, Any]
    prompts: Path
    folder: Path

    def state(self, part: str) -> Path:
        """Where a way of training leaves the block's weights."""
        return self.folder / f"{part}.safetensors"


def run_task(task: str, files: ChildFiles, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Run one task in a process of its own.

    Raises:
        UserError: If it fails.
    """
    job = {
        "task": task,
        "model": dict(files.model),
        "prompts": str(files.prompts),
        "settings": dict(settings),
        "threads": torch.get_num_threads(),
        "state_file": str(files.state(task)),
    }
    done = subprocess.run(
        [sys.executable, "-m", "actor_lens.diagnostics.timing_process"],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        hint = " (killed: memory ran out?)" if done.returncode < 0 else ""
        raise UserError(f"measuring '{task}' failed{hint}: {last[:300]}; leave it out with --only")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@contextmanager
def on_disk(model: ChatModel, prompts: PromptSet) -> Iterator[ChildFiles]:
    """Model and prompts where other processes find them."""
    with tempfile.TemporaryDirectory(prefix="actor-lens-bench-") as name:
        folder = Path(name)
        path = folder / "prompts.jsonl"
        lines = (
            json.dumps({"prompt": one.prompt, "label": one.label, "split": "train"})
            for one in prompts
        )
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        source = model.source
        if source is None:
            model.hf.save_pretrained(folder / "model")
            model.tokenizer.save_pretrained(folder / "model")
            dtype = str(model.hf.dtype).removeprefix("torch.")
            device = str(model.device)
            source = {"name": str(folder / "model"), "dtype": dtype, "device": device}
        yield ChildFiles(source, path, folder)


def _agreement(folder: Path) -> float | None:
    """Largest ``|a - b| / |b|`` of a tensor of the two kinds of ACTOR."""
    from safetensors.torch import load_file

    paths = [folder / f"{part}.safetensors" for part in ("naive_actor", "actor")]
    if not all(path.exists() for path in paths):
        return None
    naive, ours = (load_file(path) for path in paths)
    return max(
        float((naive[name] - ours[name]).double().norm() / ours[name].double().norm())
        for name in ours
    )


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _paired(ones: Sequence[float], others: Sequence[float]) -> float:
    ratios = [one / other for one, other in zip(ones, others, strict=False)]
    return statistics.median(ratios) if ratios else float("nan")


def _or_none(value: float) -> float | None:
    return None if value != value else value
