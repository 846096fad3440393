"""What all methods that train on replies share: their settings, and how they are fitted."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from torch import Tensor

from actor_lens.judges.base import Judge
from actor_lens.methods.support.fitted import FittedIntervention
from actor_lens.methods.support.reply_data import Source, reply_data
from actor_lens.methods.support.reply_training import (
    Step,
    Trainee,
    adamw_stepper,
    best_trial,
    check_trainable,
    reply_trials,
)
from actor_lens.methods.support.selection import Selection
from actor_lens.methods.support.target_layer import target_layer
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.weights import overwritten
from actor_lens.prompts.sets import PromptSet


@dataclass(frozen=True)
class ReplyMethod:
    """A method that trains on replies; a subclass says what is trained, by ``trainee``.

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

    _every: ClassVar[int] = 1  # epochs between two trials

    def fit(self, model: ChatModel, train: PromptSet, validation: PromptSet) -> FittedIntervention:
        """Train at every learning rate; validation prompts choose the rate and the epoch.

        The model itself stays as it is. A method with a setting ``layer`` trains that block, or the
        one that ``target_layer`` chooses where it is None. The model may learn new openings of
        refusals: those of the training replies count as well.

        Raises:
            UserError: If there are too few usable replies, a setting is not allowed, the named
                layer does not exist, the weights cannot be trained, or training diverges.
        """
        self.check(model)
        selection, own = Selection.of(model, validation), vars(self)
        one_layer = "layer" in own
        layer = target_layer(model, train, selection, own["layer"]) if one_layer else None
        data = reply_data(
            model, train, source=self.replies, new_tokens=self.new_tokens, judge=self.judge
        )
        trials = reply_trials(
            model,
            data.examples,
            partial(self.trainee, model, layer),
            lrs=self.lrs,
            epochs=self.epochs,
            batch_size=self.batch_size,
            seed=self.seed,
            stepper=self.stepper,
            every=self._every,
        )
        selection = selection.with_tokens(data.opening_tokens(model, selection.tokens))
        choice = best_trial(
            trials,
            selection,
            lambda state: selection.effect_of(model, self.change(model, layer, state)),
        )
        best = choice.candidate
        settings = {
            **{name: own[name] for name in own if name not in ("name", "lrs", "judge")},
            "tried_lrs": " ".join(f"{lr:g}" for lr in self.lrs),
            "most_epochs": self.epochs,
            "lr": best.lr,
            "epochs": best.epochs,
            **choice.settings,
            **data.settings(),
            **({"layer": layer} if one_layer else {}),
        }
        chosen = ("lr", "epochs")
        return FittedIntervention(
            settings=settings,
            chosen=("layer", *chosen) if one_layer and own["layer"] is None else chosen,
            enter=lambda changed: self.change(changed, layer, best.state),
            fingerprint=model.fingerprint,
            trained_parameters=best.n_parameters,
        )

    def check(self, model: ChatModel) -> None:
        """Check the settings and the weights before any work is done.

        Raises:
            UserError: If a setting is not allowed, or the weights cannot be trained.
        """
        check_trainable(model, self.lrs, self.epochs, self.batch_size)

    def trainee(self, model: ChatModel, layer: Any) -> Trainee:
        """What is trained, from the untouched model.

        Args:
            model: The untouched model.
            layer: Block to train; None where the method is not one of a single layer.
        """
        raise NotImplementedError

    def stepper(self, trainee: Trainee, lr: float) -> Step:
        """What takes a step of training: AdamW, unless a method says otherwise."""
        return adamw_stepper(trainee, lr)

    def change(
        self, model: ChatModel, layer: Any, state: Mapping[str, Tensor]
    ) -> AbstractContextManager[None]:
        """The context in which a trained state works in the model: other weights, as a rule."""
        del layer
        return overwritten(model.hf, state)
