"""What all methods that train on replies have in common: their settings and the way to a result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from torch import Tensor

from actor_lens.judges.judges import Judge
from actor_lens.methods.support.reply_data import reply_data
from actor_lens.methods.support.reply_training import (
    Trainee,
    Trial,
    best_trial,
    check_trainable,
    reply_trials,
)
from actor_lens.methods.support.selection import Selection
from actor_lens.methods.support.trained_weights import FittedWeights
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.weights import overwritten
from actor_lens.prompts.sets import PromptSet

Change = Callable[[Mapping[str, Tensor]], AbstractContextManager[Any]]
CHOSEN = ("lr", "epochs")
"""What validation prompts choose for every method that trains on replies."""


@dataclass(frozen=True)
class ReplyMethod:
    """Settings of training on replies.

    Attributes:
        name: In tables.
        replies: ``"auto"``, ``"file"`` or ``"model"``: where replies come from; see
            ``reply_data``.
        lrs: Learning rates that are tried; validation prompts choose.
        epochs: Most passes over the examples; validation prompts choose how many.
        batch_size: Examples in a step.
        new_tokens: Longest reply, where the model itself is asked for it.
        seed: Of the order of the examples and of random weights at the start.
        judge: Says which replies are trained on; see ``reply_data``. A comparison gives its own
            where this is None; what it takes to ask it counts as part of the fit.
    """

    name: str
    replies: str = "auto"
    lrs: tuple[float, ...] = (1e-3,)
    epochs: int = 2
    batch_size: int = 16
    new_tokens: int = 64
    seed: int = 0
    judge: Judge | None = None

    def train(
        self,
        model: ChatModel,
        prompts: PromptSet,
        selection: Selection,
        make_trainee: Callable[[], Trainee],
        change: Change,
    ) -> tuple[Trial, dict[str, Any]]:
        """The best trial, and the settings that it was reached with.

        Args:
            model: The untouched model.
            prompts: Training prompts.
            selection: Validation prompts. The model may learn new openings of refusals: those of
                the training replies count as well.
            make_trainee: Makes what is trained.
            change: Puts a state to work in the model.

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
        told = selection.told_by(data.opening_tokens(model, selection.tokens))
        choice = best_trial(trials, told, lambda state: told.effect_of(model, change(state)))
        best = choice.candidate
        tried = {"tried_lrs": " ".join(f"{lr:g}" for lr in self.lrs), "most_epochs": self.epochs}
        names = [one.name for one in fields(self) if one.name not in ("name", "lrs", "judge")]
        own = {name: getattr(self, name) for name in names}
        found = {"lr": best.lr, "epochs": best.epochs, **choice.settings}
        return best, {**own, **tried, **found, **data.settings()}

    def fit_weights(
        self,
        model: ChatModel,
        train: PromptSet,
        selection: Selection,
        make_trainee: Callable[[], Trainee],
    ) -> FittedWeights:
        """Train what ends in other weights of the model; they are judged in their place."""
        change = partial(overwritten, model.hf)
        best, settings = self.train(model, train, selection, make_trainee, change)
        return FittedWeights(
            settings=settings,
            chosen=CHOSEN,
            trained_parameters=best.n_parameters,
            fingerprint=model.fingerprint,
            state=best.state,
        )
