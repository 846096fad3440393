"""The safety floor: refusals of validation prompts during training, and which weights to keep."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from statistics import fmean

import torch
from jaxtyping import Float
from torch import Tensor, nn

from actor_lens.activations.residuals import BlockInputs, collect_block_inputs
from actor_lens.activations.store import Store
from actor_lens.judges.first_token import RefusalTokens
from actor_lens.judges.opening_scores import log_odds
from actor_lens.judges.openings import refusal_tokens
from actor_lens.models.blocks import graft_from_cache
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.finite import check_finite
from actor_lens.prompts.rows import LABELS
from actor_lens.prompts.sets import PromptSet
from actor_lens.statistics.rates import ranking_score
from actor_lens.training.block_trainer import BlockTrainer, in_batches, last_activations
from actor_lens.training.run import TrainingRun

_BATCH_SIZE = 64
_UNCHANGED = (
    "No weights within the safety floor did better than the untrained ones: the block is unchanged."
)


@dataclass(frozen=True)
class Refusals:
    """Which validation prompts begin a refusal.

    Attributes:
        prompts: The prompts.
        refused: Whether each of them does.
    """

    prompts: PromptSet
    refused: tuple[bool, ...]

    def by_label(self) -> dict[str, list[bool]]:
        """Verdicts of each label that is there, in the order of its prompts."""
        verdicts: dict[str, list[bool]] = {label: [] for label in self.prompts.labels}
        for label, refused in zip(self.prompts.labels, self.refused, strict=True):
            verdicts[label].append(refused)
        return verdicts

    def shares(self) -> dict[str, float]:
        """Share of each label that is there."""
        return {label: fmean(verdicts) for label, verdicts in self.by_label().items()}

    def share(self, label: str, sources: Collection[str] | None = None) -> float:
        """Share of the prompts of a label, where sources are given of those from them."""
        return fmean(
            refused
            for prompt, refused in zip(self.prompts, self.refused, strict=True)
            if prompt.label == label and (sources is None or prompt.source in sources)
        )


@dataclass(frozen=True, eq=False)
class ValidationChecks:
    """Refusals and projections of validation prompts, continued from cached block inputs."""

    model: ChatModel
    inputs: BlockInputs
    tokens: RefusalTokens
    untrained: Refusals | None = None
    """What ``refusals`` gives for the untrained block, where that is known already."""

    @classmethod
    def of(
        cls,
        model: ChatModel,
        layer: int,
        validation: PromptSet | None,
        tokens: RefusalTokens | None,
        *,
        store: Store | bool = True,
    ) -> ValidationChecks | None:
        """Prepare the checks on validation prompts, or None where there are none."""
        if validation is None:
            return None
        tokens = tokens or refusal_tokens(model, validation, store=store)
        return cls(model, collect_block_inputs(model, validation, layer, store=store), tokens)

    def refusals(self, block: nn.Module) -> Refusals:
        """Which prompts begin a refusal with ``block`` in place."""
        dtype = self.model.hf.dtype
        block = copy.deepcopy(block).to(dtype)
        ids = torch.tensor(self.tokens.ids, device="cpu")
        lengths = [len(states) for states in self.inputs.hidden_states]
        by_length = sorted(range(len(lengths)), key=lengths.__getitem__)
        refused = [False] * len(lengths)
        for start in range(0, len(lengths), _BATCH_SIZE):
            rows = by_length[start : start + _BATCH_SIZE]
            scores = log_odds(self._logits(block, rows), ids).tolist()
            for row, score in zip(rows, scores, strict=True):
                refused[row] = score > 0
        return Refusals(self.inputs.prompts, tuple(refused))

    def projections(self, block: nn.Module, unit: Float[Tensor, " d_model"]) -> dict[str, float]:
        """Mean projection of each label on a direction, at the last token after the block.

        Args:
            block: The block in float32, as it is trained.
            unit: The direction, of length one.
        """
        labels = self.inputs.prompts.labels
        forward = partial(last_activations, self.model, block, self.inputs)
        along = (in_batches(forward, len(labels)) @ unit).tolist()
        groups = {
            label: [value for value, one in zip(along, labels, strict=True) if one == label]
            for label in LABELS
        }
        return {label: sum(group) / len(group) for label, group in groups.items() if group}

    def _logits(self, block: nn.Module, rows: list[int]) -> Float[Tensor, "prompt vocabulary"]:
        hidden, mask, positions = self.inputs.batch(rows, self.model.device)
        grafted = graft_from_cache(self.model, self.inputs.layer, hidden, block)
        with torch.no_grad():
            output = grafted(
                inputs_embeds=hidden,
                attention_mask=mask,
                position_ids=positions,
                use_cache=False,
                logits_to_keep=1,
            )
        last: Tensor = output.logits[:, -1].float()
        check_finite(self.model, last, "logits")
        return last


class KeptWeights:
    """Which weights a run will end with: the last sound ones, or the best admissible ones.

    The floor holds for the harmful prompts taken together and, where sources are known, for those
    from sources that training lacks, taken together: one source has too few for a floor of its own.
    """

    def __init__(
        self,
        trainer: BlockTrainer,
        checks: ValidationChecks | None,
        floor: float | None,
        trained_sources: Collection[str | None] = (),
    ) -> None:
        """Measure the untrained weights.

        Args:
            trainer: The block before its first step.
            checks: Checks on validation prompts.
            floor: Most by which a share of refused harmful prompts may fall; None for no limit.
            trained_sources: Sources of the harmful training prompts.
        """
        self._floor = floor
        self._last_sound = (0, _weights(trainer.block))
        self._best: tuple[float, int, dict[str, Tensor]] | None = None
        self._at: dict[int, Refusals] = {}
        self._unseen: set[str] = set()
        if checks is None:
            return
        self._at[0] = checks.untrained or checks.refusals(trainer.block)
        self._unseen = {*_harmful_sources(self._at[0].prompts)} - {*trained_sources}
        self._weigh(0, self._last_sound[1], self._at[0])

    @property
    def refused_before(self) -> dict[str, float]:
        """Share of validation prompts of each label that the untrained weights refuse."""
        return self._at[0].shares() if self._at else {}

    def sources(self, step: int) -> dict[str, dict[str, float]]:
        """Of the harmful prompts of each source: their number, and shares refused at 0 and then.

        Args:
            step: A step whose weights were checked; of others nothing is known.
        """
        if step not in self._at:
            return {}
        before, after = self._at[0], self._at[step]
        return {
            source: {
                "n": len(before.prompts.where(label="harmful", source=source)),
                "before": before.share("harmful", {source}),
                "after": after.share("harmful", {source}),
                "trained_on": source not in self._unseen,
            }
            for source in _harmful_sources(before.prompts)
        }

    def take_over(
        self, trainer: BlockTrainer, checks: ValidationChecks | None, resume: TrainingRun
    ) -> None:
        """Go on from an earlier part of the run, whose state the trainer has already."""
        self._last_sound = (trainer.step, _weights(trainer.block))
        if checks is None or self._floor is None:
            return
        block = trained_block(checks.model, resume).float()
        self._weigh(resume.best_step, _weights(block), checks.refusals(block))

    def consider(self, step: int, block: nn.Module, refusals: Refusals | None) -> None:
        """Weigh sound weights after an epoch; ties go to the later ones."""
        self._last_sound = (step, _weights(block))
        if refusals is not None:
            self._weigh(*self._last_sound, refusals)

    def result(self, trainer: BlockTrainer) -> tuple[nn.Module, int, str]:
        """The block to keep, its step, and what to tell the user about it."""
        block = copy.deepcopy(trainer.block)
        if self._best is None:
            return block, trainer.step, ""
        _, step, weights = self._best
        block.load_state_dict(weights)
        return block, step, "" if step > 0 else _UNCHANGED

    def fall_back(self, trainer: BlockTrainer) -> None:
        """Put the last sound weights back."""
        trainer.step, weights = self._last_sound
        trainer.block.load_state_dict(weights)

    def _weigh(self, step: int, weights: dict[str, Tensor], refusals: Refusals) -> None:
        self._at[step] = refusals
        if self._floor is None or self._falls(refusals) > self._floor + 1e-9:
            # Shares are counts over n: the allowance must not fail by a rounding error.
            return
        score = ranking_score(refusals.shares())
        if self._best is None or score >= self._best[0]:
            self._best = (score, step, weights)

    def _falls(self, refusals: Refusals) -> float:
        """By how much refusals of harmful prompts fell, of all or of sources not trained on."""
        groups = [None, self._unseen] if self._unseen else [None]
        before = self._at[0]
        return max(before.share("harmful", g) - refusals.share("harmful", g) for g in groups)


def trained_block(model: ChatModel, run: TrainingRun) -> nn.Module:
    """A copy of the model's block with the weights of a run."""
    block = copy.deepcopy(model.blocks[run.layer])
    prefix = model.block_prefix(run.layer)
    block.load_state_dict({name.removeprefix(prefix): run.state[name] for name in run.state})
    return block


def _harmful_sources(prompts: PromptSet) -> list[str]:
    """Known sources of the harmful prompts, each once."""
    named = (prompt.source for prompt in prompts if prompt.label == "harmful")
    return list(dict.fromkeys(source for source in named if source))


def _weights(block: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in block.state_dict().items()}
