"""What collecting and training cost on this machine, in paired rounds.

``tests/benchmarks`` of the repository measures more, each part in a process of its own.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
import torch

from actor_lens.activations.residuals import collect_residuals
from actor_lens.errors import UserError, check_choice, check_whole
from actor_lens.experiments.comparison.method_costs import cost_of
from actor_lens.experiments.sweep.layer_sweep import sweep_layers
from actor_lens.methods.sft import full_trainee
from actor_lens.methods.support.reply_data import ReplyExample
from actor_lens.methods.support.reply_training import adamw_stepper, check_trainable, collate
from actor_lens.methods.support.tails import run_without_head
from actor_lens.models.batches import TokenBatch, run_in_batches
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.memory import is_out_of_memory
from actor_lens.progress import Reporter, reporting, stage
from actor_lens.prompts.sets import PromptSet, require_labels
from actor_lens.results import Result, plain
from actor_lens.text import clip, plural
from actor_lens.training.config import FinetuneConfig
from actor_lens.training.finetuning import finetune_layer

Part = Literal["collection", "actor", "sft", "sweep"]
PARTS: tuple[Part, ...] = get_args(Part)
_TITLES = {
    "actor": "ACTOR, one layer on cached inputs",
    "sft": "SFT, every parameter",
    "sweep": "ACTOR, every layer in turn",
}
NOTES = (
    "Each figure is the median over rounds; ratios are taken within a round. Training counts "
    "everything but loading the model: collecting block inputs too. Peak memory is what the work "
    "takes beside the loaded model (on a GPU: allocated by torch).",
    "Plain pass: the base model without head, gradients or cache, same batches. SFT: AdamW on a "
    "float32 copy, as the method sft-full, replies of {reply_tokens} random tokens. The sweep is "
    "without scoring its outcomes.",
)
_LR = 1e-5  # of SFT
Measured = dict[str, float]


@dataclass(frozen=True, repr=False)
class BenchResult(Result):
    """What collecting and training cost on one machine.

    Attributes:
        machine: Processor, cores, memory, device, versions, date.
        setting: Model, prompts, tokens, layer, epochs.
        rounds: Of each part what every round took: ``seconds``, of ways to train ``peak_bytes``
            and how many of the seconds went into ``collect``, of collecting those of a ``plain``
            pass.
    """

    machine: Mapping[str, Any]
    setting: Mapping[str, Any]
    rounds: Mapping[Part, Sequence[Measured]]

    _hint = "larger jobs: .predicted(n_prompts, epochs)"

    @property
    def trained(self) -> list[Part]:
        """The ways of training that were measured."""
        return [part for part in PARTS if part in self.rounds and part != "collection"]

    def median(self, part: Part, name: str = "seconds") -> float:
        """Median over the rounds of what a part took; NaN where it was not measured."""
        return _median(measured[name] for measured in self.rounds.get(part, ()))

    def ratio(self, part: Part, to: Part = "actor") -> float:
        """Median over rounds of the time of a part in relation to another's."""
        pairs = zip(self.rounds.get(part, ()), self.rounds.get(to, ()), strict=False)
        return _median(measured["seconds"] / other["seconds"] for measured, other in pairs)

    @property
    def collection(self) -> dict[str, float]:
        """``tokens_per_second``, and time in relation to a plain pass; empty if not measured."""
        if "collection" not in self.rounds:
            return {}
        ratios = (one["seconds"] / one["plain"] for one in self.rounds["collection"])
        rate = self.setting["tokens"] / self.median("collection")
        return {"tokens_per_second": rate, "to_plain_pass": _median(ratios)}

    def frame(self) -> pd.DataFrame:
        """One row a way of training.

        Columns: ``part``, ``seconds``, ``times_actor`` (time in relation to ACTOR), ``peak_bytes``.
        """
        return pd.DataFrame({"part": _TITLES[part], **self._costs(part)} for part in self.trained)

    def _costs(self, part: Part) -> dict[str, float]:
        return {
            "seconds": self.median(part),
            "times_actor": self.ratio(part),
            "peak_bytes": self.median(part, "peak_bytes"),
        }

    def predicted(self, n_prompts: int, epochs: int) -> dict[str, float]:
        """Seconds for more prompts of the same lengths and other epochs, by proportion."""
        more, longer = n_prompts / self.setting["prompts"], epochs / self.setting["epochs"]
        seconds: dict[str, float] = {}
        for part in self.trained:
            collect = self.median(part, "collect")  # done once, whatever the epochs
            seconds[part] = more * (collect + longer * (self.median(part) - collect))
        return seconds

    def summary(self) -> dict[str, Any]:
        """Every measurement, and what follows from them, as plain values."""
        return {
            "machine": dict(self.machine),
            "setting": dict(self.setting),
            "collection": self.collection,
            "training": {part: plain(self._costs(part)) for part in self.trained},
            "rounds": {part: list(measured) for part, measured in self.rounds.items()},
            "notes": [note.format(**self.setting) for note in NOTES],
        }

    def _headline(self) -> str:
        model, machine = self.setting["model"], clip(self.machine["processor"], 40)
        parts = ", ".join(f"{part} {self.median(part):.3g} s" for part in self.trained)
        work = plural(self.setting["prompts"], "prompt")
        return f"BenchResult: {model} on {machine}, {work}: {parts or 'nothing trained'}"


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
    """Measure what collecting and training cost.

    Parts take turns, round after round, so that a slow moment of the machine falls on all alike.

    Args:
        model: The model, which is left as it is.
        prompts: Training prompts, at least two of each label.
        layer: The block to train; None for the middle one.
        epochs: Passes over the prompts, in every way of training.
        rounds: Number of times that everything is measured.
        reply_tokens: Length of the replies that SFT trains on.
        parts: Names of the parts to measure.

    Raises:
        UserError: If a part is not known, a number is below 1, prompts are missing, or memory ran
            out.
        KeyboardInterrupt: If interrupted: half a part is no measurement.
    """
    if not parts:
        raise UserError(f"no parts to measure; name some of {', '.join(PARTS)}")
    for part in parts:
        check_choice("part", part, PARTS)
    check_whole("rounds", rounds, 1)
    require_labels(prompts, 2)
    config = FinetuneConfig(
        layer=model.check_layer(model.n_layers // 2 if layer is None else layer),
        epochs=check_whole("epochs", epochs, 1),
    )
    check_whole("reply_tokens", reply_tokens, 1)
    work: dict[Part, Callable[[], Measured]] = {
        "collection": partial(_collect, model, prompts),
        "actor": partial(_train, model, prompts, config),
        "sft": partial(_fine_tune, model, prompts, config, reply_tokens),
        "sweep": partial(_sweep, model, prompts, config),
    }
    measured: dict[Part, list[Measured]] = {part: [] for part in parts}
    with stage("benchmark", rounds * len(measured)) as done:
        with reporting(Reporter()):  # the first time takes longer
            finetune_layer(model, prompts.sample(2), layer=config.layer, epochs=1, store=False)
        for number in range(rounds * len(measured)):
            part = list(measured)[number % len(measured)]
            with reporting(Reporter()):
                measured[part].append(_within_memory(part, work[part]))
            done(number + 1)
    return BenchResult(
        machine=machine_facts(model.device),
        setting={
            "model": model.name,
            "parameters": model.hf.num_parameters(),
            "layers": model.n_layers,
            "dtype": str(model.hf.dtype).removeprefix("torch."),
            "prompts": len(prompts),
            "tokens": sum(map(len, model.tokenize(prompts.texts))),
            "layer": config.layer,
            "epochs": epochs,
            "reply_tokens": reply_tokens,
            "rounds": rounds,
        },
        rounds=measured,
    )


def _within_memory(part: Part, work: Callable[[], Measured]) -> Measured:
    try:
        return work()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"'{part}' needs more memory than there is; leave it out (--only)"
        ) from error


def _collect(model: ChatModel, prompts: PromptSet) -> Measured:
    """Residuals of all layers, and a plain pass over the same batches."""

    def run(batch: TokenBatch) -> None:
        with torch.no_grad():
            run_without_head(model, batch)

    with cost_of(model) as ours:
        collect_residuals(model, prompts, store=False)
    with cost_of(model) as plain_pass:
        run_in_batches(model, model.tokenize(prompts.texts), run)
    return {"seconds": ours.seconds, "plain": plain_pass.seconds}


def _train(model: ChatModel, prompts: PromptSet, config: FinetuneConfig) -> Measured:
    """ACTOR on cached inputs: collecting them and training, nothing else."""
    with cost_of(model) as cost:
        run = finetune_layer(model, prompts, config, store=False)
    if run.status == "stopped":
        raise KeyboardInterrupt
    return {**vars(cost), "collect": run.seconds["collect"]}


def _fine_tune(
    model: ChatModel, prompts: PromptSet, config: FinetuneConfig, reply_tokens: int
) -> Measured:
    """Every parameter of a copy, on replies of random tokens: what they say costs nothing."""
    size = config.batch_size
    check_trainable(model, (_LR,), config.epochs, size)
    token_ids = model.tokenize(prompts.texts, room=reply_tokens)
    shape, draw = (len(token_ids), reply_tokens), torch.Generator("cpu").manual_seed(0)
    replies = torch.randint(int(model.hf.config.vocab_size), shape, generator=draw, device="cpu")
    examples = [
        ReplyExample(prompt.label, tuple(ids), tuple(reply))
        for prompt, ids, reply in zip(prompts, token_ids, replies.tolist(), strict=True)
    ]
    with cost_of(model) as cost:
        trainee = full_trainee(model)
        step = adamw_stepper(trainee, _LR)
        for _ in range(config.epochs):
            for start in range(0, len(examples), size):
                step(partial(trainee.loss, collate(model, examples[start : start + size])))
    return {**vars(cost), "collect": 0.0}


def _sweep(model: ChatModel, prompts: PromptSet, config: FinetuneConfig) -> Measured:
    """Every layer trained once, on one collection of block inputs; outcomes are not scored."""
    with cost_of(model) as cost:
        outcomes = sweep_layers(model, prompts, settings=config, store=False)
    return {**vars(cost), "collect": outcomes.seconds["collect"]}


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


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _median(values: Iterable[float]) -> float:
    """The median; NaN of nothing."""
    numbers = list(values)
    return statistics.median(numbers) if numbers else float("nan")
