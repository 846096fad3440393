"""The cells of a sweep on a Ray cluster: the same cells, the same results, on other machines.

The driver collects the block inputs once and hands each worker those of one layer through Ray's
object store; a worker loads the model by name, trains and scores cells, and sends back outcomes.
A cell whose worker dies is run again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from actor_lens.activations.residuals import BlockInputs
from actor_lens.errors import UserError, require
from actor_lens.experiments.sweep.cells import CellOutcome, SweepCell, SweepWork, run_cell
from actor_lens.judges.first_token import RefusalTokens
from actor_lens.models.chat_model import ChatModel, load_model
from actor_lens.models.threads import Threads
from actor_lens.prompts.sets import PromptSet
from actor_lens.training.config import FinetuneConfig
from actor_lens.training.safety_floor import Refusals, ValidationChecks

# How often a cell is run again after its worker died.
_RETRIES = 3


@dataclass(frozen=True, eq=False)
class _PackedInputs:
    """Block inputs as one array of bytes, which workers on one machine share without a copy."""

    layer: int
    data: np.ndarray
    lengths: tuple[int, ...]
    prompts: PromptSet

    @classmethod
    def of(cls, inputs: BlockInputs) -> _PackedInputs:
        states = torch.cat(inputs.hidden_states).contiguous()
        lengths = tuple(len(states) for states in inputs.hidden_states)
        return cls(inputs.layer, states.view(torch.uint8).numpy(), lengths, inputs.prompts)

    def unpacked(self, dtype: torch.dtype) -> BlockInputs:
        # Ray's arrays are read only, of which torch warns: nothing here writes to them.
        states = torch.from_numpy(self.data.copy()).view(dtype)
        return BlockInputs(self.layer, torch.split(states, list(self.lengths)), self.prompts)


@dataclass(frozen=True, eq=False)
class _Task:
    """All that a worker needs for the cells of one layer, beside the inputs."""

    source: str
    identity: str
    shared: FinetuneConfig
    tokens: RefusalTokens | None
    untrained: Refusals | None
    threads: Threads
    keeps: bool


def ray_outcomes(work: SweepWork, cells: Sequence[SweepCell]) -> Iterator[CellOutcome]:
    """Run cells on a cluster, outcomes in the order in which they are done.

    The cluster is the one that ``RAY_ADDRESS`` names or that is already joined, else one on this
    machine.

    Raises:
        UserError: If Ray is not installed, or the model was not loaded by name or folder.
    """
    ray = require("ray", "cluster", "the ray engine", "or use engine 'local'")
    if work.model.source is None:
        raise UserError(
            "the ray engine loads the model on every worker: load it by name or folder "
            "(load_model), or use engine 'local'"
        )
    if not cells:
        return
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
    devices = len({p.device for p in work.model.hf.parameters() if p.device.type == "cuda"})
    remote = ray.remote(max_retries=_RETRIES, num_cpus=1, num_gpus=devices)(_on_worker)
    pending: dict[Any, SweepCell] = {}
    try:
        for layer, inputs, checks in work.layers([cell.layer for cell in cells]):
            task = _Task(
                source=json.dumps({**work.model.source, "batch_size": work.model.batch_size}),
                identity=work.model.identity,
                shared=work.shared,
                tokens=None if checks is None else checks.tokens,
                untrained=None if checks is None else checks.untrained,
                threads=Threads.now(),
                keeps=work.store is not False,
            )
            train = ray.put(_PackedInputs.of(inputs))
            held_out = None if checks is None else ray.put(_PackedInputs.of(checks.inputs))
            for cell in (cell for cell in cells if cell.layer == layer):
                pending[remote.remote(task, cell, train, held_out)] = cell
            yield from _take_finished(ray, pending, work, wait=False)
        while pending:
            yield from _take_finished(ray, pending, work, wait=True)
    finally:
        for reference in pending:
            ray.cancel(reference, force=True)


def _take_finished(
    ray: Any, pending: dict[Any, SweepCell], work: SweepWork, *, wait: bool
) -> Iterator[CellOutcome]:
    done, _ = ray.wait(list(pending), num_returns=1, timeout=None if wait else 0)
    for reference in done:
        cell = pending.pop(reference)
        try:
            outcome: CellOutcome = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, UserError) else error
            message = " ".join(str(cause).split())[-300:]
            outcome = CellOutcome(cell, "failed", message)
        except ray.exceptions.RayError as error:
            message = f"its worker died {_RETRIES + 1} times ({type(error).__name__})"
            outcome = CellOutcome(cell, "failed", message)
        work.count_seconds(outcome)
        yield outcome


def _on_worker(
    task: _Task, cell: SweepCell, train: _PackedInputs, held_out: _PackedInputs | None
) -> CellOutcome:
    """Run one cell; the model stays loaded for the next."""
    # Sums are split over threads: with as many as the driver has, results are the same to the bit.
    task.threads.adopt()
    model = _model(task.source)
    if model.identity != task.identity:
        raise UserError(f"a worker found other weights under the name '{model.name}'")
    checks = None
    if held_out is not None and task.tokens is not None:
        inputs = held_out.unpacked(model.hf.dtype)
        checks = ValidationChecks(model, inputs, task.tokens, task.untrained)
    inputs = train.unpacked(model.hf.dtype)
    return run_cell(model, cell, task.shared, inputs, checks, store=task.keeps)[0]


@cache
def _model(source: str) -> ChatModel:
    return load_model(**json.loads(source))
