"""What the cells of a sweep share: model, prompts, settings, and block inputs layer by layer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from actor_lens.activations.filling import TooLargeForMemory
from actor_lens.activations.residuals import BlockInputs, collect_activations
from actor_lens.activations.store import Store
from actor_lens.experiments.sweep.cells import CellOutcome, SweepCell, run_cell
from actor_lens.judges.first_token import RefusalTokens
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.memory import free_memory
from actor_lens.progress import stage
from actor_lens.prompts.sets import PromptSet
from actor_lens.training.config import FinetuneConfig
from actor_lens.training.run import TrainingRun, TrainingStep
from actor_lens.training.safety_floor import ValidationChecks

# Share of the free memory for block inputs that no store holds.
_SHARE = 0.4


@dataclass(eq=False)
class SweepWork:
    """What all cells of a sweep share; block inputs are collected when a layer's turn comes."""

    model: ChatModel
    prompts: PromptSet
    validation: PromptSet | None
    shared: FinetuneConfig
    tokens: RefusalTokens | None
    store: Store | bool
    refused_before: Mapping[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(
        default_factory=lambda: {"collect": 0.0, "train": 0.0, "score": 0.0}
    )

    def about(self) -> dict[str, Any]:
        """What outcomes depend on, beside the cell."""
        shared = asdict(self.shared)
        for name in ("layer", "alpha", "seed"):
            del shared[name]
        return {
            "model": self.model.identity,
            "prompts": self.prompts.fingerprint,
            "validation": None if self.validation is None else self.validation.fingerprint,
            "refusal_tokens": None if self.tokens is None else list(self.tokens.ids),
            "settings": shared,
        }

    def run(
        self,
        cells: Sequence[SweepCell],
        on_step: Callable[[TrainingStep], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> Iterator[tuple[CellOutcome, TrainingRun | None]]:
        """Run cells here, layer by layer."""
        for layer, inputs, checks in self.layers([cell.layer for cell in cells]):
            for cell in (cell for cell in cells if cell.layer == layer):
                outcome, run = run_cell(
                    self.model,
                    cell,
                    self.shared,
                    inputs,
                    checks,
                    on_step=on_step,
                    should_stop=should_stop,
                )
                for name, seconds in outcome.seconds.items():
                    self.seconds[name] += seconds
                yield outcome, run

    def layers(
        self, layers: Iterable[int]
    ) -> Iterator[tuple[int, BlockInputs, ValidationChecks | None]]:
        """Each layer once with its inputs, in the order given."""
        wanted = list(dict.fromkeys(layers))
        while wanted:
            group, train, held_out = self._collected(wanted)
            for layer in group:
                checks = None
                if self.validation is not None and self.tokens is not None:
                    checks = ValidationChecks(self.model, held_out.pop(layer), self.tokens)
                    if not self.refused_before:
                        untrained = self.model.blocks[layer]
                        self.refused_before = checks.refused(untrained)
                    checks = replace(checks, refused_untrained=self.refused_before)
                yield layer, train.pop(layer), checks
            wanted = wanted[len(group) :]

    def _collected(
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
                    found = collect_activations(
                        self.model, prompts, residuals=False, block_inputs=layers, store=store
                    )
                inputs = dict(found.block_inputs)
            collected.append(inputs)
        return collected[0], collected[1]

    def _layers_that_fit(self) -> int:
        texts = [*self.prompts.texts, *(self.validation.texts if self.validation else ())]
        tokens = sum(map(len, self.model.tokenize(texts)))
        per_layer = tokens * self.model.d_model * self.model.hf.dtype.itemsize
        return max(1, int(_SHARE * free_memory(torch.device("cpu")) / per_layer))
