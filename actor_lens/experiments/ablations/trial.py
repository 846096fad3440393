"""One cell of an ablation: trained, put into the model, asked the test prompts.

Cells share the activation store, depend on nothing but themselves, and so can run in any order and
in other processes with the same result.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch

from actor_lens.activations.store import Store, default_store
from actor_lens.errors import UserError
from actor_lens.evaluation.evaluate import Evaluation, evaluate
from actor_lens.experiments.ablations.grid import AblationCell, Variation
from actor_lens.experiments.sweep.cells import CellStatus
from actor_lens.judges.base import Judge
from actor_lens.judges.first_token import FirstTokenJudge
from actor_lens.judges.keywords import KeywordJudge
from actor_lens.models.chat_model import ChatModel, load_model
from actor_lens.prompts.sets import PromptSet
from actor_lens.training.config import FinetuneConfig
from actor_lens.training.finetuning import finetune_layer
from actor_lens.training.run import TrainingRun

Counts = Mapping[str, Mapping[str, Sequence[int]]]


@dataclass(frozen=True)
class AblationOutcome:
    """What came of a cell.

    Attributes:
        cell: Factor, value and seed.
        number: Value of the factor where that is a number, else NaN.
        status: ``"completed"``, ``"diverged"`` or ``"failed"``.
        message: Note for the user, for instance why it failed.
        train_prompts: Number of training prompts of each label.
        refused: For each split and label the number of refused prompts and of all.
        kinds: For each split and category of pseudo-harmful prompt the same.
        seconds: ``train`` and ``evaluate``.
        moved: How far the block's weights went, as a share of their own length.
    """

    cell: AblationCell
    number: float
    status: CellStatus
    message: str
    train_prompts: Mapping[str, int] = field(default_factory=dict)
    refused: Counts = field(default_factory=dict)
    kinds: Counts = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    moved: float = math.nan


@dataclass(frozen=True, eq=False)
class AblationTask:
    """What all cells share beside the model; it travels to other processes.

    Attributes:
        train: All training prompts.
        validation: Validation prompts, on which the layer was chosen.
        tested: Test prompts and those out of distribution.
        shared: Settings that a variation does not change.
        per_label: Training prompts of each label where nothing else is said.
        judge: Judge of the replies.
        new_tokens: Longest reply.
        store: Folder of the activation store; None for no store.
        anchors: Prompts that R is made of; None for the training prompts.
    """

    train: PromptSet
    validation: PromptSet
    tested: PromptSet
    shared: FinetuneConfig
    per_label: int
    judge: Judge = field(default_factory=KeywordJudge)
    new_tokens: int = 64
    store: str | None = None
    anchors: PromptSet | None = None

    def about(self, model: ChatModel) -> dict[str, Any]:
        """What outcomes depend on, beside the cell."""
        return {
            "model": model.identity,
            "train_prompts": self.train.fingerprint,
            "validation_prompts": self.validation.fingerprint,
            "test_prompts": self.tested.fingerprint,
            "settings": self.shared.recorded(),
            "per_label": self.per_label,
            "judge": self.judge.identity,
            "new_tokens": self.new_tokens,
            # Ablations from before there were anchors go on.
            **({} if self.anchors is None else {"anchors": self.anchors.fingerprint}),
        }

    def run(self, model: ChatModel, cell: AblationCell, variation: Variation) -> AblationOutcome:
        """Run a cell; one that cannot be trained is an outcome too."""
        started = time.perf_counter()
        train = variation.train(self.train, self.per_label, cell.seed)
        try:
            status, message, applied, moved = self._fit(model, cell, variation, train)
        except UserError as error:
            return AblationOutcome(cell, variation.number, "failed", str(error), train.counts())
        trained = time.perf_counter()
        # Replies are not kept, and this judge reads none.
        length = 1 if isinstance(self.judge, FirstTokenJudge) else self.new_tokens
        with applied as changed:
            evaluation = evaluate(changed, self.tested, judge=self.judge, new_tokens=length)
        return AblationOutcome(
            cell,
            variation.number,
            status,
            message,
            train_prompts=train.counts(),
            refused=_counts(evaluation, by_kind=False),
            kinds=_counts(evaluation, by_kind=True),
            seconds={"train": trained - started, "evaluate": time.perf_counter() - trained},
            moved=moved,
        )

    def _fit(
        self, model: ChatModel, cell: AblationCell, variation: Variation, train: PromptSet
    ) -> tuple[CellStatus, str, AbstractContextManager[ChatModel], float]:
        anchors = variation.anchors(self.train, self.anchors, self.per_label, cell.seed)
        settings = variation.settings(self.shared, cell.seed)
        store = False if self.store is None else Store(self.store)
        run = finetune_layer(model, train, settings, anchors=anchors, store=store)
        if run.status == "stopped":
            raise KeyboardInterrupt
        status: CellStatus = "diverged" if run.status == "diverged" else "completed"
        return status, run.message, run.applied_to(model), _measure_move(model, run)


def _measure_move(model: ChatModel, run: TrainingRun) -> float:
    """Length of the change of the trained weights over their length before."""
    before = model.hf.state_dict()
    pairs = [(before[name].detach().cpu().double(), run.state[name]) for name in run.state]
    change = sum(float((after.double() - old).square().sum()) for old, after in pairs)
    return math.sqrt(change / sum(float(old.square().sum()) for old, _ in pairs))


def _counts(evaluation: Evaluation, *, by_kind: bool) -> dict[str, dict[str, list[int]]]:
    """Refused and all: by split and label, or by split and kind of pseudo-harmful prompt."""
    counts: dict[str, dict[str, list[int]]] = {}
    for prompt, refused in zip(evaluation.prompts, evaluation.refused, strict=True):
        name: str | None = prompt.label
        if by_kind:
            name = prompt.category if prompt.label == "pseudo_harmful" else None
        if name is None or refused is None:  # None: the judge's verdict could not be read
            continue
        pair = counts.setdefault(str(prompt.split), {}).setdefault(name, [0, 0])
        pair[0] += int(refused)
        pair[1] += 1
    return counts


def store_folder(store: Store | bool) -> str | None:
    """The folder of a store, or of the default one; None for no store."""
    chosen = default_store() if store is True else store
    return str(chosen.folder) if isinstance(chosen, Store) else None


# ---- Here, or in other processes ----


def run_cells(
    task: AblationTask,
    model: ChatModel,
    todo: Sequence[tuple[AblationCell, Variation]],
    jobs: int,
) -> Iterator[AblationOutcome]:
    """Outcomes as they come, in no fixed order with more than one process.

    Raises:
        UserError: If several processes are asked for and the model was not loaded by name or
            folder, or one of them died.
    """
    if jobs == 1 or len(todo) < 2:
        for cell, variation in todo:
            yield task.run(model, cell, variation)
        return
    if model.source is None:
        raise UserError(
            f"jobs is {jobs}: every process loads the model itself, so load it by name or folder "
            "(load_model), or use one job"
        )
    source = {**model.source, "batch_size": model.batch_size}
    begin = (task, json.dumps(source), model.identity, jobs)
    pool = ProcessPoolExecutor(
        min(jobs, len(todo)),
        mp_context=multiprocessing.get_context("spawn"),  # a fork has none of torch's threads
        initializer=_begin,
        initargs=begin,
    )
    try:
        futures = [pool.submit(_run, cell, variation) for cell, variation in todo]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a process of the ablation died, maybe for want of memory; use fewer jobs and the same "
            "folder: what was finished is kept"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_HERE: dict[str, Any] = {}


def _begin(task: AblationTask, source: str, identity: str, jobs: int) -> None:
    """Load the model once for all cells of this process."""
    torch.set_num_threads(max(1, torch.get_num_threads() // jobs))
    model = load_model(**json.loads(source))
    if model.identity != identity:
        raise UserError(f"a process found other weights under the name '{model.name}'")
    _HERE.update(task=task, model=model)


def _run(cell: AblationCell, variation: Variation) -> AblationOutcome:
    task: AblationTask = _HERE["task"]
    return task.run(_HERE["model"], cell, variation)
