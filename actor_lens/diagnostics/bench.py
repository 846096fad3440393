"""Costs of ACTOR and of what it is compared with, in paired rounds on one machine."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from actor_lens.diagnostics.bench_job import PARTS, BenchSettings, Job, Part, Task
from actor_lens.errors import UserError, check_choice, check_whole
from actor_lens.models.chat_model import ChatModel
from actor_lens.progress import stage
from actor_lens.prompts.sets import PromptSet, require_labels
from actor_lens.results import Result, plain, records
from actor_lens.text import clip, one_line, plural

_IN_ROUNDS: tuple[Part, ...] = ("collection", "looks")
"""Parts that have rounds of their own, in one process."""
_QUESTIONS = {
    "pass": "a pass",
    "base_pass": "a pass, no head",
    "residuals": "residuals, all layers",
    "layer_scores": "causal scores, all layers",
    "what_if": "what-if, one layer",
    "trained_layer": "one trained layer",
    "generate": "generate",
    "replies": "replies",
    "evaluation": "evaluation",
}
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
    "Looking: a pass goes to the logits of the first reply token. What-if has keys and values "
    "kept; a trained layer is scored from its cached inputs; replies are compared with "
    "transformers' generate on the same batches; an evaluation adds first-token scores.",
    "Plain pass: the base model without head, gradients or cache, transformers' default attention, "
    "same batches. SFT: AdamW, default attention, replies of {reply_tokens} random tokens. The "
    "sweep is without scoring its outcomes.",
)


@dataclass(frozen=True, repr=False)
class BenchResult(Result):
    """What looking and training cost on one machine.

    Attributes:
        machine: Processor, cores, memory, device, versions, date.
        setting: Model, prompts, tokens, layer, epochs.
        rounds: Measurements of every round of each part.
        agreement: Largest relative difference of a tensor between naive ACTOR's weights and
            ACTOR's, None where one of them was not run.
    """

    machine: Mapping[str, Any]
    setting: Mapping[str, Any]
    rounds: Mapping[Part, Sequence[Mapping[str, Any]]]
    agreement: float | None

    _hint = "larger jobs: .predicted(n_prompts, epochs)"

    def seconds(self, part: Part) -> float:
        """Median seconds of a part; NaN where it was not run."""
        return _median(measured["seconds"] for measured in self.rounds.get(part, ()))

    def peak_bytes(self, part: Part) -> float:
        """Median peak memory of a part; NaN where it was not run."""
        return _median(float(one["memory"]["peak"]) for one in self.rounds.get(part, ()))

    def ratio(self, part: Part, to: Part = "actor") -> float:
        """Median over rounds of the time of a part in relation to another's."""
        pairs = zip(self.rounds.get(part, ()), self.rounds.get(to, ()), strict=False)
        return _median(measured["seconds"] / other["seconds"] for measured, other in pairs)

    @property
    def collection(self) -> dict[str, float]:
        """``tokens_per_second``, and time in relation to a plain pass and to all hooks."""
        measurements = self.rounds.get("collection", ())
        if not measurements:
            return {}
        times = {
            name: [value for measured in measurements for value in measured["rounds"][name]]
            for name in ("ours", "plain", "all_hooks")
        }
        return {
            "tokens_per_second": measurements[0]["tokens"] / statistics.median(times["ours"]),
            "to_plain_pass": _paired(times["ours"], times["plain"]),
            "all_hooks_to_ours": _paired(times["all_hooks"], times["ours"]),
        }

    def looks(self) -> pd.DataFrame:
        """One row a question about the model, in relation to what it is compared with.

        Columns: ``question``, ``seconds``, ``compared_with``, ``ratio`` (median over rounds),
        ``limit`` (the most that it should be). Without rows where they were not asked.
        """
        columns = ["question", "seconds", "compared_with", "ratio", "limit"]
        rows = []
        for measured in self.rounds.get("looks", ()):
            times = measured["rounds"]
            for question, (other, limit) in measured["limits"].items():
                ratio = _paired(times[question], times[other])
                seconds = statistics.median(times[question])
                rows.append((_QUESTIONS[question], seconds, _QUESTIONS[other], ratio, limit))
        return pd.DataFrame(rows, columns=columns)

    def frame(self) -> pd.DataFrame:
        """One row a way of training.

        Columns: ``part``, ``seconds``, ``times_actor`` (time in relation to ACTOR), ``peak_bytes``.
        """
        parts = [part for part in PARTS if part in self.rounds and part not in _IN_ROUNDS]
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
        parts: tuple[Part, ...] = ("actor", "sweep", "naive_actor", "sft")
        seconds: dict[str, float] = {}
        for part in (part for part in parts if part in self.rounds):
            # Collecting is done once, whatever the epochs, by those that do it at all.
            collect = _median(
                measured.get("parts", {}).get("collect", 0.0) for measured in self.rounds[part]
            )
            seconds[part] = more * (collect + longer * (self.seconds(part) - collect))
        return seconds

    def _headline(self) -> str:
        model, machine = self.setting["model"], clip(self.machine["processor"], 40)
        trained = [part for part in PARTS if part in self.rounds and part not in _IN_ROUNDS]
        parts = [f"{part} {self.seconds(part):.3g} s" for part in trained]
        work = plural(self.setting["prompts"], "prompt")
        return f"BenchResult: {model} on {machine}, {work}: {', '.join(parts) or 'nothing trained'}"

    def summary(self) -> dict[str, Any]:
        """Every measurement, and what follows from them, as plain values."""
        parts = [part for part in self.rounds if part not in _IN_ROUNDS]
        return {
            "machine": dict(self.machine),
            "setting": dict(self.setting),
            "collection": self.collection,
            "looks": records(self.looks()),
            "training": {
                part: {
                    "seconds": self.seconds(part),
                    "times_actor": plain(self.ratio(part)),
                    "peak_bytes": self.peak_bytes(part),
                }
                for part in parts
            },
            "naive_actor_largest_relative_difference": self.agreement,
            "rounds": {part: list(measured) for part, measured in self.rounds.items()},
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
    parts: Sequence[Part] = PARTS,
) -> BenchResult:
    """Measure what looking and training cost.

    Every part runs in a process of its own that loads the model, one part after the other, round
    after round, so that a slow moment of the machine falls on all of them alike.

    Args:
        model: The model, which is left as it is. One that was made in memory is saved to a
            temporary folder for the other processes.
        prompts: Training prompts, at least two of each label.
        layer: The block to train; None for the middle one.
        epochs: Passes over the prompts, in every way of training.
        rounds: Number of times that everything is measured.
        reply_tokens: Length of the replies that are generated, and that SFT trains on.
        parts: Names of the parts to measure.

    Raises:
        UserError: If a part is not known, a number is below 1, prompts are missing, or a process
            fails, for instance because memory ran out.
    """
    if not parts:
        raise UserError(f"no parts to measure; name some of {', '.join(PARTS)}")
    for part in parts:
        check_choice("part", part, PARTS)
    check_whole("rounds", rounds, 1)
    require_labels(prompts, 2)
    settings = BenchSettings(
        layer=model.check_layer(model.n_layers // 2 if layer is None else layer),
        epochs=check_whole("epochs", epochs, 1),
        reply_tokens=check_whole("reply_tokens", reply_tokens, 1),
        repeats=max(3, rounds),
    )
    measurements: dict[Part, list[dict[str, Any]]] = {part: [] for part in parts}
    with on_disk(model, prompts) as files:
        with stage("benchmark", rounds * len(parts)) as done:
            for number, (turn, part) in enumerate(product(range(rounds), parts)):
                if part not in _IN_ROUNDS or turn == 0:
                    measurements[part].append(run_task(part, files, settings))
                done(number + 1)
        agreement = _agreement(files.folder)
    token_counts = [len(ids) for ids in model.tokenize(prompts.texts)]
    return BenchResult(
        machine=machine_facts(model.device),
        setting={
            "model": model.name,
            "parameters": model.hf.num_parameters(),
            "layers": model.n_layers,
            "dtype": str(model.hf.dtype).removeprefix("torch."),
            "prompts": len(prompts),
            "tokens": sum(token_counts),
            "layer": settings.layer,
            "epochs": epochs,
            "reply_tokens": reply_tokens,
            "rounds": rounds,
        },
        rounds=measurements,
        agreement=agreement,
    )


def machine_facts(device: torch.device) -> dict[str, Any]:
    """Processor, cores, memory, device, versions and date of a measurement."""
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
        UserError: If the process fails.
    """
    job = Job(
        task=task,
        model=files.model,
        prompts=str(files.prompts),
        settings=settings,
        threads=torch.get_num_threads(),
        state_file=str(files.folder / f"{task}.safetensors"),
    )
    done = subprocess.run(
        [sys.executable, "-m", "actor_lens.diagnostics.bench_process"],
        input=job.to_json(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        hint = " (killed: memory ran out?)" if done.returncode < 0 else ""
        raise UserError(
            f"measuring '{task}' failed{hint}: {one_line(last)}; leave it out with --only"
        )
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
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _paired(times: Sequence[float], others: Sequence[float]) -> float:
    """Median of the ratios within a round."""
    return _median(time / other for time, other in zip(times, others, strict=False))


def _median(values: Iterable[float]) -> float:
    """The median; NaN of nothing."""
    numbers = list(values)
    return statistics.median(numbers) if numbers else float("nan")
