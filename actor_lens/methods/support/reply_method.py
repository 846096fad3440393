"""Settings of all methods that train on replies, and the way from them to a result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace

from torch import Tensor

from actor_lens.judges.base import Judge
from actor_lens.methods.support.fitted import FittedIntervention
from actor_lens.methods.support.reply_data import Source, reply_data
from actor_lens.methods.support.reply_training import (
    Trainee,
    best_trial,
    check_trainable,
    reply_trials,
)
from actor_lens.methods.support.selection import Selection
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.weights import overwritten
from actor_lens.prompts.sets import PromptSet

Change = Callable[[ChatModel, Mapping[str, Tensor]], AbstractContextManager[None]]
"""Makes the context in which a trained state works in a model."""


@dataclass(frozen=True)
class ReplyMethod:
    """Settings of training on replies.

    Attributes:
        name: Name in tables.
        replies: Where replies come from; see ``reply_data``.
        lrs: Learning rates to try; validation prompts choose.
        epochs: Most passes over the examples; validation prompts choose how many.
        batch_size: Examples in a step.
        new_tokens: Longest reply, where the model itself is asked for it.
        seed: Seed of the order of the examples and of random weights at the start.
        judge: Judge of which replies are trained on; see ``reply_data``. A comparison gives its own
            where this is None; asking it counts as part of the fit.
    """

    name: str
    replies: Source = "auto"
    lrs: tuple[float, ...] = (1e-3,)
    epochs: int = 2
    batch_size: int = 16
    new_tokens: int = 64
    seed: int = 0
    judge: Judge | None = None

    def fit_trainee(
        self,
        model: ChatModel,
        prompts: PromptSet,
        selection: Selection,
        make_trainee: Callable[[], Trainee],
        change: Change = lambda model, state: overwritten(model.hf, state),
    ) -> FittedIntervention:
        """Train at every learning rate; validation prompts choose the rate and the epoch.

        Args:
            model: The untouched model.
            prompts: Training prompts.
            selection: Validation prompts. The model may learn new openings of refusals: those of
                the training replies count as well.
            make_trainee: Makes what is trained.
            change: Makes the context in which a trained state works in the model; by default a
                state is other weights of the model.

        Raises:
            UserError: If there are too few usable replies, the weights cannot be trained, or
                training diverges.
        """
        check_trainable(model, self.lrs, self.epochs, self.batch_size)
        data = reply_data(
            model, prompts, source=self.replies, new_tokens=self.new_tokens, judge=self.judge
        )
        trials = reply_trials(
            model,
            data.examples,
            make_trainee,
            lrs=self.lrs,
            epochs=self.epochs,
            batch_size=self.batch_size,
            seed=self.seed,
        )
        selection = selection.with_tokens(data.opening_tokens(model, selection.tokens))
        choice = best_trial(
            trials, selection, lambda state: selection.effect_of(model, change(model, state))
        )
        best = choice.candidate
        names = [field.name for field in fields(self)]
        settings = {
            **{name: getattr(self, name) for name in names if name not in ("name", "lrs", "judge")},
            "tried_lrs": " ".join(f"{lr:g}" for lr in self.lrs),
            "most_epochs": self.epochs,
            "lr": best.lr,
            "epochs": best.epochs,
            **choice.settings,
            **data.settings(),
        }
        return FittedIntervention(
            settings=settings,
            chosen=("lr", "epochs"),
            enter=lambda changed: change(changed, best.state),
            fingerprint=model.fingerprint,
            trained_parameters=best.n_parameters,
        )


def with_layer(fitted: FittedIntervention, layer: int, *, named: bool) -> FittedIntervention:
    """The same with the layer among its settings, as chosen unless the user named it."""
    return replace(
        fitted,
        settings={**fitted.settings, "layer": layer},
        chosen=fitted.chosen if named else ("layer", *fitted.chosen),
    )
