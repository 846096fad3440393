"""What a model is about to refuse, as it is and with every prompt moved to its target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from actor_lens.activations.store import Store
from actor_lens.directions.targets import Targets
from actor_lens.errors import UserError
from actor_lens.judges.first_token import (
    RefusalOpenings,
    RefusalTokens,
    refusal_scores_after_shifts,
)
from actor_lens.judges.opening_scores import opening_scores
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.prefix_cache import KeptPrefixes, TokenShift
from actor_lens.prompts.columns import prompt_columns
from actor_lens.prompts.sets import PromptSet
from actor_lens.results import Result
from actor_lens.statistics.rates import Rate, RefusalRates, rate_of
from actor_lens.text import percent, plural

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class PredictedRefusals(RefusalRates, Result):
    """Which prompts a model is about to refuse, by the first token of its reply.

    A reply that begins as an answer can still turn into a refusal, or the other way round: judged
    replies (``Evaluation``) have the last word.

    Attributes:
        refusal_scores: First-token refusal scores (log-odds); above 0 a refusal is likelier.
        prompts: The prompts.
        layer: Layer at which every prompt was moved to its target, or None where none was moved.
    """

    refusal_scores: Float[Tensor, " prompt"]
    prompts: PromptSet
    layer: int | None = None

    _hint = "figure: al.figures.refusal_rates(predicted=...)"

    @property
    def refused(self) -> tuple[bool, ...]:
        """Whether each prompt's reply is likelier than not to begin as a refusal."""
        return tuple((self.refusal_scores > 0).tolist())

    def rate(self, label: str) -> Rate:
        """Refusal rate of a label; with n = 0 the share is NaN."""
        return rate_of(label, self.refused, self.prompts.labels)

    def frame(self) -> pd.DataFrame:
        """One row a prompt: those of ``prompt_columns``, ``refusal_score``, ``refused``."""
        import pandas as pd

        return pd.DataFrame(
            {
                **prompt_columns(self.prompts),
                "refusal_score": self.refusal_scores.double().numpy(),
                "refused": np.array(self.refused, dtype=bool),
            }
        )

    def summary(self) -> dict[str, Any]:
        """``layer``, ``prompts`` (their number) and the three scores."""
        return {
            "layer": self.layer,
            "prompts": len(self.prompts),
            "compliance_rate": self.compliance_rate,
            "safety_score": self.safety_score,
            "tradeoff_score": self.tradeoff_score,
        }

    def _headline(self) -> str:
        rates = self.rates()
        shares = ", ".join(
            f"{percent(share)} of {str(label).replace('_', '-')}"
            for label, share in zip(rates["label"], rates["refused"], strict=True)
        )
        where = "as the model is" if self.layer is None else f"at their targets, layer {self.layer}"
        return (
            f"PredictedRefusals: {plural(len(self.prompts), 'prompt')} {where}; refused: {shares}"
        )

    def _table(self) -> pd.DataFrame:
        return self.rates()


def predict_refusals(
    model: ChatModel,
    targets: Targets,
    tokens: RefusalTokens,
    *,
    prefixes: KeptPrefixes | None = None,
) -> PredictedRefusals:
    """Move every prompt to its target by a hook, without training, and see what it refuses.

    It is what a perfect fine-tune of that layer would do to these prompts, their labels known to
    it: an upper bound, and quick enough to look at before training.

    Args:
        model: The untouched model.
        targets: Targets of the prompts; best of prompts that the directions were not fitted to.
        tokens: How the model begins refusals.
        prefixes: Result of ``keep_prefixes`` for this model and these prompts: then it takes one
            token instead of a whole pass.

    Raises:
        UserError: If there are no prompts, or the targets or the prefixes belong to others.
    """
    return predict_refusals_by_layer(model, [targets], tokens, prefixes=prefixes)[0]


def predict_refusals_by_layer(
    model: ChatModel,
    targets: Iterable[Targets],
    tokens: RefusalTokens,
    *,
    prefixes: KeptPrefixes | None = None,
    store: Store | bool = False,
) -> list[PredictedRefusals]:
    """``predict_refusals`` at several layers, for about two passes over the prompts in all.

    Args:
        model: The untouched model.
        targets: Targets of the same prompts, each at another layer; taken one at a time.
        tokens: How the model begins refusals.
        prefixes: Result of ``keep_prefixes`` for this model and these prompts, where it is kept.
        store: Store that keeps the scores for the next time: True is the default store, False none.

    Raises:
        UserError: If there are no prompts, or the targets or the prefixes belong to others.
    """
    shifts: dict[int, TokenShift] = {}
    prompts = PromptSet(())
    for at_layer in targets:
        at_layer.directions.check_model(model)
        shifts[at_layer.layer] = (at_layer.shifts, at_layer.unit)
        prompts = at_layer.prompts
    _check_any(prompts)
    if prefixes is not None and prefixes.prompts != tuple(prompts.texts):
        raise UserError("the prefixes are of other prompts than the targets; keep theirs")
    scores = refusal_scores_after_shifts(
        model, prompts.texts, tokens, shifts, prefixes=prefixes, store=store
    )
    return [PredictedRefusals(scores[layer], prompts, layer) for layer in shifts]


def current_refusals(
    model: ChatModel, prompts: PromptSet, tokens: RefusalTokens | RefusalOpenings
) -> PredictedRefusals:
    """What a model refuses by the first tokens of its replies, as it is now.

    Args:
        model: The model as it is now, for instance inside ``run.applied_to(model)``.
        prompts: At least one prompt.
        tokens: How the untouched model begins refusals.

    Raises:
        UserError: If there are no prompts, or one is longer than the model takes.
    """
    _check_any(prompts)
    return PredictedRefusals(opening_scores(model, prompts.texts, tokens), prompts)


def _check_any(prompts: PromptSet) -> None:
    if len(prompts) == 0:
        raise UserError("no prompts were given; check the label, split or file they come from")
