"""The table of docs/guides/store-and-speed.md: ``python -m tests.benchmarks.run``.

``--shape 20M`` is quick, ``134M`` is the table's, ``7B`` is for a GPU. ``--only`` names parts.
Every figure is a ratio of two measurements of one run, medians over rounds. Nothing else should
run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from actor_lens.activations.residuals import collect_residuals
from actor_lens.activations.store import Store
from actor_lens.activations.store_files import Layout
from actor_lens.diagnostics.bench import machine_facts
from actor_lens.progress import Reporter, reporting
from tests.benchmarks.job import BenchSettings, Task, on_disk, run_task
from tests.benchmarks.random_models import random_model, random_prompts

Record = dict[str, Any]


def collection(model: Any, rounds: int) -> Record:
    """All layers' residuals against a plain pass and against every hook, at three lengths."""
    found = {}
    for length in (30, 64, 128):
        prompts = random_prompts(model, [length] * (180 * 30 // length))
        with on_disk(model, prompts) as files:
            measured = run_task("collection", files, BenchSettings(repeats=max(3, rounds)))
        times = measured["rounds"]
        found[f"{length} tokens"] = {
            "tokens_per_second": measured["tokens"] / statistics.median(times["ours"]),
            "to_plain_pass": _paired(times["ours"], times["plain"]),
            "all_hooks_to_ours": _paired(times["all_hooks"], times["ours"]),
        }
    return found


def mixed_lengths(model: Any, rounds: int) -> Record:
    """Tokens a second of 1,000 prompts of 5 to 200 tokens against 1,000 of equal length."""
    lengths = random.Random(0).choices(range(5, 201), k=1000)
    equal = [round(sum(lengths) / len(lengths))] * len(lengths)
    mixed_prompts, equal_prompts = random_prompts(model, lengths), random_prompts(model, equal)
    collect_residuals(model, mixed_prompts[:20], store=False)  # warms up
    ratios, rates = [], []
    for _ in range(rounds):
        mixed = sum(lengths) / _seconds(model, mixed_prompts)
        same = sum(equal) / _seconds(model, equal_prompts)
        ratios.append(mixed / same)
        rates.append(mixed)
    return {
        "tokens_per_second": statistics.median(rates),
        "mixed_to_equal": statistics.median(ratios),
        "rounds": ratios,
    }


def training(model: Any, rounds: int) -> Record:
    """ACTOR, naive ACTOR, SFT and a sweep at 3 epochs; ACTOR and naive ACTOR at 10."""
    prompts = random_prompts(model, [30] * 180)
    return {
        "3 epochs": _training(model, prompts, ("actor", "naive_actor", "sft", "sweep"), 3, rounds),
        "10 epochs": _training(model, prompts, ("actor", "naive_actor"), 10, rounds),
    }


def _training(
    model: Any, prompts: Any, tasks: tuple[Task, ...], epochs: int, rounds: int
) -> Record:
    """Medians of each way of training over rounds, in which all take turns."""
    settings = BenchSettings(layer=model.n_layers // 2, epochs=epochs)
    found: dict[Task, list[Record]] = {task: [] for task in tasks}
    with on_disk(model, prompts) as files:
        for number in range(rounds):
            for task in tasks:
                found[task].append(run_task(task, files, settings))
            _Lines().stage(f"training, {epochs} epochs", number + 1, rounds)
        difference = _largest_difference(files.folder)
    seconds = {task: [one["seconds"] for one in found[task]] for task in tasks}
    peaks = {
        task: statistics.median(one["memory"]["peak"] for one in found[task]) for task in tasks
    }
    return {
        task: {
            "seconds": statistics.median(seconds[task]),
            "times_actor": _paired(seconds[task], seconds["actor"]),
            "peak_bytes": peaks[task],
            "peak_to_actor": peaks[task] / peaks["actor"],
        }
        for task in tasks
    } | {"largest_relative_difference": difference}


def _largest_difference(folder: Path) -> float:
    """Largest ``|a - b| / |b|`` of a tensor of the two kinds of ACTOR."""
    naive, ours = (load_file(folder / f"{task}.safetensors") for task in ("naive_actor", "actor"))
    return max(
        float((naive[name] - ours[name]).double().norm() / ours[name].double().norm())
        for name in ours
    )


def growth(model: Any, rounds: int) -> Record:
    """Seconds and peak memory of collecting 100 to 1,600 prompts into a store."""
    sizes = (100, 200, 400, 800, 1600)
    found: dict[int, list[Record]] = {size: [] for size in sizes}
    for _ in range(rounds):
        for size in sizes:
            prompts = random_prompts(model, [30] * size)
            with on_disk(model, prompts) as files, tempfile.TemporaryDirectory() as store:
                found[size].append(run_task("collect", files, BenchSettings(store=store)))
            _Lines().stage("growth", size, sizes[-1])
    seconds = {size: statistics.median(one["seconds"] for one in found[size]) for size in sizes}
    peaks = {
        size: statistics.median(one["memory"]["peak"] for one in found[size]) for size in sizes
    }
    each = {size: seconds[size] / size for size in sizes}
    return {
        "seconds": seconds,
        "peak_bytes": peaks,
        "time_a_prompt_most_to_least": max(each.values()) / min(each.values()),
        "peak_1600_to_100": peaks[1600] / peaks[100],
    }


def second_session(_model: Any, rounds: int) -> Record:
    """Loading 1,000 prompts x 32 layers x 4096 from the store, as a later session does."""
    n_prompts, n_layers, d_model = 1000, 32, 4096
    layout = Layout(n_layers, tuple(range(n_prompts + 1)), 4 * d_model)
    identity = {"kind": "residuals", "made": "for a benchmark"}
    random_rows = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        started = time.perf_counter()
        with store.filling(identity, layout) as filling:
            for first in range(0, n_prompts, 50):
                rows = range(first, first + 50)
                filling.put(
                    rows,
                    [random_rows.random((n_layers, d_model), dtype=np.float32) for _ in rows],
                )
            filling.finish()
        written = time.perf_counter() - started
        seconds = []
        for _ in range(max(5, rounds)):
            before = _anonymous_bytes()
            started = time.perf_counter()
            found = Store(folder).read(identity)
            assert found is not None
            values = torch.from_numpy(found).view(torch.float32).view(n_layers, n_prompts, d_model)
            seconds.append(time.perf_counter() - started)
            grown = _anonymous_bytes() - before
            assert values.shape == (n_layers, n_prompts, d_model)
    return {
        "bytes": layout.nbytes,
        "write_seconds": written,
        "load_seconds": statistics.median(seconds),
        "memory_grown_bytes": grown,
    }


PARTS = {
    part.__name__: part for part in (second_session, collection, mixed_lengths, growth, training)
}


def main() -> None:
    """Run parts and print one JSON record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="134M")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--out", type=Path)
    words = parser.parse_args()
    model = random_model(words.shape)
    record: Record = {
        "model": model.name,
        "parameters": model.hf.num_parameters(),
        "layers": model.n_layers,
        "machine": machine_facts(model.device),
    }
    for name in words.only.split(","):
        with reporting(_Lines()):
            record[name] = PARTS[name](model, words.rounds)
        sys.stderr.write(f"{name}: {json.dumps(record[name])}\n")
    text = json.dumps(record, indent=2)
    if words.out is not None:
        words.out.write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(text + "\n")


def _paired(times: list[float], others: list[float]) -> float:
    """Median of the ratios within a round."""
    return statistics.median(time / other for time, other in zip(times, others, strict=True))


def _seconds(model: Any, prompts: Any) -> float:
    started = time.perf_counter()
    collect_residuals(model, prompts, store=False)
    return time.perf_counter() - started


def _anonymous_bytes() -> int:
    """Memory that no file stands behind: a copy would be here, a map is not."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    fields: Mapping[str, str] = dict(line.split(":", 1) for line in lines)
    return int(fields["RssAnon"].split()[0]) * 1024


class _Lines(Reporter):
    def stage(self, name: str, done: int, total: int) -> None:
        sys.stderr.write(f"{name}: {done}/{total}\n")


if __name__ == "__main__":
    main()
