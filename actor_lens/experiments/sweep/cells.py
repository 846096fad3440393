"""The cells of a sweep: a layer, an alpha and a seed, trained on cached inputs and scored.

What a cell needs is small and its own, so cells can run anywhere and in any order with the same
result. What they share is the model, the prompts, the settings, and block inputs layer by layer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from actor_lens.activations.filling import TooLargeForMemory
from actor_lens.activations.residuals import (
    BlockInputs,
    collect_activations,
    collect_block_inputs,
)
from actor_lens.activations.store import Store
from actor_lens.directions.just_enough_shift import fitted_place
from actor_lens.errors import UserError
from actor_lens.judges.first_token import RefusalTokens
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.memory import free_memory
from actor_lens.progress import stage
from actor_lens.prompts.sets import PromptSet
from actor_lens.statistics.paired_tests import (
    PairedDifference,
    half_sum,
    paired_changes,
    paired_difference,
)
from actor_lens.statistics.rates import ranking_score
from actor_lens.training.config import FinetuneConfig
from actor_lens.training.loop import train_block
from actor_lens.training.run import TrainingRun, TrainingStep
from actor_lens.training.safety_floor import Refusals, ValidationChecks, trained_block

CellStatus = Literal["completed", "diverged", "failed"]
# Share of the free memory for block inputs that no store holds.
_SHARE = 0.4


@dataclass(frozen=True)
class SweepCell:
    """What is tried: a layer with an alpha and a seed, and a learning rate where several are."""

    layer: int
    alpha: float
    seed: int
    lr: float | None = None

    def values(self) -> dict[str, Any]:
        """The settings that differ between cells."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def settings(self, shared: FinetuneConfig) -> FinetuneConfig:
        """The settings of this cell."""
        return replace(shared, **self.values())


@dataclass(frozen=True)
class CellOutcome:
    """What came of a cell.

    Attributes:
        cell: Layer, alpha, seed and learning rate.
        status: ``"completed"``, ``"diverged"``, or ``"failed"`` where it could not be trained.
        message: Note for the user, for instance why it failed.
        loss: Mean over the steps of the last epoch; NaN where there were none.
        refused: Share of validation prompts of each label that begins a refusal with the trained
            block in place; empty without validation prompts.
        reply_refused: The same by whole replies and the judge, where they were asked for.
        reply_judge: Identity of that judge.
        verdicts: Of each label, whether its validation prompts begin a refusal, in their order;
            empty where only shares were kept.
        seconds: ``train`` and ``score``.
    """

    cell: SweepCell
    status: CellStatus
    message: str = ""
    loss: float = float("nan")
    refused: Mapping[str, float] = field(default_factory=dict)
    reply_refused: Mapping[str, float] = field(default_factory=dict)
    reply_judge: str = ""
    verdicts: Mapping[str, Sequence[bool]] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def rank(self) -> float:
        """Sorts outcomes, the best highest: trade-off score, by whole replies where judged.

        A benign prompt that is refused counts as much as a pseudo-harmful one: a layer that trades
        the one for the other repairs nothing.
        Without validation prompts the loss has to do, lower being better, although losses of
        different layers say little about each other.
        """
        if self.status == "failed":
            return float("-inf")
        refused = self.reply_refused or self.refused
        if refused:
            beside = refused.get("benign", 0.0) / 2 if "pseudo_harmful" in refused else 0.0
            return ranking_score(refused) - beside
        return float("-inf") if self.loss != self.loss else -self.loss

    def lead(self, other: CellOutcome) -> PairedDifference | None:
        """By how much its rank is above another's, on the same prompts.

        Half the sum over the labels, as the rank is. None where replies decide, or verdicts were
        not kept.
        """
        if self.reply_refused or not self.verdicts or self.verdicts.keys() != other.verdicts.keys():
            return None

        def right(outcome: CellOutcome, label: str) -> list[list[bool]]:
            return [[refused == (label == "harmful")] for refused in outcome.verdicts[label]]

        changes = (paired_changes(right(self, one), right(other, one)) for one in self.verdicts)
        return half_sum(*map(paired_difference, changes))


def run_cell(
    model: ChatModel,
    cell: SweepCell,
    shared: FinetuneConfig,
    inputs: BlockInputs,
    checks: ValidationChecks | None,
    *,
    anchors: BlockInputs | None = None,
    on_step: Callable[[TrainingStep], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    store: Store | bool = True,
) -> tuple[CellOutcome, TrainingRun | None]:
    """Train a cell on cached inputs and score it on validation prompts; no run where it failed.

    With a safety floor the validation prompts are looked at after every epoch, else once at the
    end. The store keeps the shifts behind a fitted origin.

    Raises:
        KeyboardInterrupt: If training was interrupted: half a cell is no outcome.
    """
    settings = cell.settings(shared)
    started = time.perf_counter()
    try:
        place = fitted_place(settings.origin, model, inputs.prompts, cell.layer, store=store)
        run = train_block(
            model,
            inputs,
            settings,
            checks=checks if settings.safety_floor is not None else None,
            on_step=on_step,
            should_stop=should_stop,
            place=place,
            anchors=anchors,
        )
    except UserError as error:
        return CellOutcome(cell, "failed", str(error)), None
    if run.status == "stopped":
        raise KeyboardInterrupt
    trained = time.perf_counter()
    refusals = None if checks is None else checks.refusals(trained_block(model, run))
    outcome = CellOutcome(
        cell,
        "diverged" if run.status == "diverged" else "completed",
        run.message,
        loss=_last_loss(run),
        refused={} if refusals is None else refusals.shares(),
        verdicts={} if refusals is None else refusals.by_label(),
        seconds={"train": trained - started, "score": time.perf_counter() - trained},
    )
    return outcome, replace(run, seconds=outcome.seconds)


def _last_loss(run: TrainingRun) -> float:
    losses = [step.loss for step in run.history if step.epoch == run.history[-1].epoch]
    return sum(losses) / len(losses) if losses else float("nan")


@dataclass(eq=False)
class SweepWork:
    """What all cells of a sweep share; block inputs are collected when a layer's turn comes.

    Attributes:
        model: Left as it is.
        prompts: Training prompts.
        validation: Held-out prompts that cells are scored on; None for none.
        shared: Settings of every cell but for its layer, alpha and seed.
        tokens: Tokens that begin refusals; None without validation prompts.
        store: Store of block inputs: True is the default store, False none.
        anchors: Prompts that R is made of; None for the training prompts.
        refused_before: Share of validation prompts of each label that begins a refusal of the
            untrained model; empty until the first layer has been collected.
        seconds: ``collect``, ``train`` and ``score``, added up over the cells.
    """

    model: ChatModel
    prompts: PromptSet
    validation: PromptSet | None
    shared: FinetuneConfig
    tokens: RefusalTokens | None
    store: Store | bool
    anchors: PromptSet | None = None
    refused_before: Mapping[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(
        default_factory=lambda: {"collect": 0.0, "train": 0.0, "score": 0.0}
    )
    _untrained: Refusals | None = None

    def about(self) -> dict[str, Any]:
        """What outcomes depend on, beside the cell."""
        shared = self.shared.recorded()
        for name in ("layer", "alpha", "seed"):
            del shared[name]
        return {
            "model": self.model.identity,
            "prompts": self.prompts.fingerprint,
            "validation": None if self.validation is None else self.validation.fingerprint,
            "refusal_tokens": None if self.tokens is None else list(self.tokens.ids),
            "settings": shared,
            # Sweeps from before there were anchors go on.
            **({} if self.anchors is None else {"anchors": self.anchors.fingerprint}),
        }

    def run(
        self,
        cells: Sequence[SweepCell],
        on_step: Callable[[TrainingStep], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> Iterator[tuple[CellOutcome, TrainingRun | None]]:
        """Run cells here, layer by layer."""
        for layer, inputs, checks in self.layers(cell.layer for cell in cells):
            anchors = None
            if self.anchors is not None:
                anchors = collect_block_inputs(self.model, self.anchors, layer, store=self.store)
            for cell in (cell for cell in cells if cell.layer == layer):
                outcome, run = run_cell(
                    self.model,
                    cell,
                    self.shared,
                    inputs,
                    checks,
                    anchors=anchors,
                    on_step=on_step,
                    should_stop=should_stop,
                    store=self.store,
                )
                self.count_seconds(outcome)
                yield outcome, run

    def count_seconds(self, outcome: CellOutcome) -> None:
        """Add the seconds of a cell to those of all."""
        for name, seconds in outcome.seconds.items():
            self.seconds[name] += seconds

    def layers(
        self, layers: Iterable[int]
    ) -> Iterator[tuple[int, BlockInputs, ValidationChecks | None]]:
        """Each layer once with its inputs, in the order given."""
        left = list(dict.fromkeys(layers))
        while left:
            group, train, held_out = self._collect(left)
            for layer in group:
                checks = None
                if self.validation is not None and self.tokens is not None:
                    checks = ValidationChecks(self.model, held_out.pop(layer), self.tokens)
                    if self._untrained is None:
                        self._untrained = checks.refusals(self.model.blocks[layer])
                        self.refused_before = self._untrained.shares()
                    checks = replace(checks, untrained=self._untrained)
                yield layer, train.pop(layer), checks
            left = left[len(group) :]

    def _collect(
        self, layers: Sequence[int]
    ) -> tuple[Sequence[int], dict[int, BlockInputs], dict[int, BlockInputs]]:
        """Inputs of as many layers as can be held, from one pass over each set of prompts."""
        started = time.perf_counter()
        group = list(layers)
        if self.store is False:
            group = group[: self._layers_that_fit()]
        try:
            train, held_out = self._inputs(group, self.store)
        except TooLargeForMemory:  # the store refused them
            group = group[: self._layers_that_fit()]
            train, held_out = self._inputs(group, False)
        self.seconds["collect"] += time.perf_counter() - started
        return group, train, held_out

    def _inputs(
        self, layers: Sequence[int], store: Store | bool
    ) -> tuple[dict[int, BlockInputs], dict[int, BlockInputs]]:
        collected = []
        for name, prompts in (("train", self.prompts), ("validation", self.validation)):
            inputs: dict[int, BlockInputs] = {}
            if prompts is not None:
                with stage(f"block inputs ({name})"):
                    activations = collect_activations(
                        self.model, prompts, residuals=False, block_inputs=layers, store=store
                    )
                inputs = dict(activations.block_inputs)
            collected.append(inputs)
        return collected[0], collected[1]

    def _layers_that_fit(self) -> int:
        texts = [*self.prompts.texts, *(self.validation.texts if self.validation else ())]
        tokens = sum(map(len, self.model.tokenize(texts)))
        per_layer = tokens * self.model.d_model * self.model.hf.dtype.itemsize
        return max(1, int(_SHARE * free_memory(torch.device("cpu")) / per_layer))
