"""ACTOR as a method among others, the paper's raw formula, and the uniform shift."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import Any, ClassVar

from actor_lens.directions.options import Origin, Shift
from actor_lens.errors import UserError
from actor_lens.methods.support.fitted import FittedIntervention
from actor_lens.methods.support.selection import Selection
from actor_lens.methods.support.target_layer import layers_to_try
from actor_lens.models.chat_model import ChatModel
from actor_lens.prompts.sets import PromptSet, require_labels
from actor_lens.training.config import (
    AUTO_ALPHAS,
    AUTO_LAYERS,
    AUTO_LRS,
    Anchor,
    FinetuneConfig,
    Refresh,
)
from actor_lens.training.finetuning import finetune_layer
from actor_lens.training.run import TrainingRun


@dataclass(frozen=True)
class Actor:
    """One block trained so that each prompt's activation moves just enough.

    ``loss = 1 - cos(a, a_tgt)`` with ``a``, ``[d_model]``, after block ``l`` at the last prompt
    token, ``a_tgt = a -/+ alpha (a.u - o) u`` (minus for pseudo-harmful and benign prompts, plus
    for harmful ones), ``u = R / |R|``, ``R = mean(harmful) - mean(benign)`` and ``o`` the
    projection of the mean benign prompt. Only the block's parameters are trained.

    Chosen on validation prompts: the layer, by ``score_layers(...).best()``; if layers tie, the
    first ``trials`` of them are trained and the one with the best trade-off is kept.

    Attributes:
        layer: Block to train; None chooses it.
        trials: Most tied layers to train.
        alpha: How much of the way to the origin a target goes.
        origin: Projection that counts as none; see ``Directions.origins``.
        anchor: Weights that targets are taken from; see ``FinetuneConfig``, as for what follows.
        shift: ``"projected"`` or ``"uniform"``.
        refresh: How often ``R`` is computed again.
        epochs: Passes over the training prompts.
        lr: Learning rate.
        batch_size: Prompts in a step.
        seed: Seed of the order of the prompts.
        anchors: Prompts that ``R`` and ``o`` are made of; None for the training prompts.

    Source: Dabas et al. 2025 (arXiv 2507.04250); the origin is this project's own.
    """

    name: str = "actor"
    layer: int | None = None
    trials: int = 3
    alpha: float = FinetuneConfig.alpha
    origin: Origin = FinetuneConfig.origin
    anchor: Anchor = FinetuneConfig.anchor
    shift: Shift = FinetuneConfig.shift
    refresh: Refresh = FinetuneConfig.refresh
    epochs: int = FinetuneConfig.epochs
    lr: float = FinetuneConfig.lr
    batch_size: int = FinetuneConfig.batch_size
    seed: int = FinetuneConfig.seed
    anchors: PromptSet | None = None

    # What is not a setting of the fine-tune.
    _own: ClassVar[tuple[str, ...]] = ("name", "layer", "trials", "anchors")

    def fit(self, model: ChatModel, train: PromptSet, validation: PromptSet) -> FittedRun:
        """Choose the layer on the validation prompts, train it on the training prompts.

        Raises:
            UserError: If a label has too few prompts, a setting is not allowed, or the model
                refuses no harmful prompt.
        """
        require_labels(train, 2)
        if self.layer is not None:
            return self._fitted(self.trained(model, train, self.layer), (self.layer,))
        selection = Selection.of(model, validation)
        layers = self._layers(model, train, selection)
        runs = (self.trained(model, train, layer) for layer in layers)
        return self._best(model, selection, runs, layers, ("layer",))

    def _layers(
        self, model: ChatModel, train: PromptSet, selection: Selection, *, beyond_ties: bool = False
    ) -> tuple[int, ...]:
        """The layers that are trained, as ``layers_to_try`` says, at most ``trials``."""
        ranking = layers_to_try(
            model,
            train,
            selection,
            alpha=self.alpha,
            origin=self.origin,
            anchors=self.anchors,
            beyond_ties=beyond_ties,
        )
        return ranking[: max(1, self.trials)]

    def _best(
        self,
        model: ChatModel,
        selection: Selection,
        runs: Iterable[TrainingRun],
        layers: tuple[int, ...],
        chosen: tuple[str, ...],
    ) -> FittedRun:
        """The run with the best effect; one at a time is in memory beside it."""
        tried = ((run, selection.effect_of(model, run.applied_to(model))) for run in runs)
        choice = selection.best(tried, max_kl=None)
        return self._fitted(choice.candidate, layers, choice.settings, chosen)

    def trained(self, model: ChatModel, train: PromptSet, layer: int) -> TrainingRun:
        """The fine-tune of one block."""
        config = self._config(layer)
        return finetune_layer(model, train, config, anchors=self.anchors, store=False)

    def _config(self, layer: int) -> FinetuneConfig:
        shared = {name: value for name, value in vars(self).items() if name not in self._own}
        return FinetuneConfig(layer=layer, **shared)

    def _fitted(
        self,
        run: TrainingRun,
        layers: tuple[int, ...],
        choice: Mapping[str, Any] | None = None,
        chosen: tuple[str, ...] = (),
    ) -> FittedRun:
        settings = {**asdict(run.config), "tried_layers": list(layers), "status": run.status}
        if run.anchors is not None:
            settings["anchors"] = run.anchors.name
        return FittedRun(
            settings={**settings, **(choice or {})},
            chosen=chosen,
            enter=run.applied_to,
            fingerprint=run.fingerprint,
            trained_parameters=run.trained_parameters,
            run=run,
        )


@dataclass(frozen=True)
class AutoActor(Actor):
    """ACTOR with alpha and learning rate found on validation prompts, as other methods find theirs.

    Every combination of ``alphas`` and ``lrs`` is trained for 12 epochs at the ``trials`` layers
    with the best causal scores, or at ``layer``; the best trade-off is kept. ``train --settings
    auto`` searches the same values, and lets whole replies decide among the best. All else is as
    in ``Actor``.

    Attributes:
        alphas: Values of ``alpha`` to try, in place of one.
        lrs: Learning rates to try with each, in place of one.
    """

    name: str = "actor-auto"
    trials: int = AUTO_LAYERS
    epochs: int = 12
    alphas: tuple[float, ...] = AUTO_ALPHAS
    lrs: tuple[float, ...] = AUTO_LRS

    _own: ClassVar[tuple[str, ...]] = (*Actor._own, "alphas", "lrs")

    def fit(self, model: ChatModel, train: PromptSet, validation: PromptSet) -> FittedRun:
        """Train every combination; the validation prompts choose.

        Raises:
            UserError: As for ``Actor``, or if one alpha or learning rate was given.
        """
        for name in ("alpha", "lr"):
            if getattr(self, name) != getattr(FinetuneConfig, name):
                raise UserError(
                    f"actor-auto finds {name} itself; give the values to try as {name}s"
                )
        require_labels(train, 2)
        selection = Selection.of(model, validation)
        layers: tuple[int, ...]
        if self.layer is not None:
            layers = (self.layer,)
        else:
            layers = self._layers(model, train, selection, beyond_ties=True)
        runs = (
            replace(self, alpha=alpha, lr=lr).trained(model, train, layer)
            for layer, alpha, lr in product(layers, self.alphas, self.lrs)
        )
        chosen = ("alpha", "lr") if self.layer is not None else ("layer", "alpha", "lr")
        return self._best(model, selection, runs, layers, chosen)


@dataclass(frozen=True)
class RawActor(Actor):
    """ACTOR with the paper's formula, but not its small alpha: ``a_tgt = a -/+ alpha (a.u) u``.

    The origin is 0, and ``a`` and ``R`` in the targets are those of the weights of the moment
    (``anchor="current"``), ``R`` anew in every epoch. All else is as in ``Actor``. The stream has a
    large mean, so that benign prompts may project negatively on ``R``, and then the formula moves
    them toward refusal; and a target that is taken anew recedes as the activation moves. ``alpha``
    is 1 here as in ``Actor``, hundreds of times the paper's; its own settings are those of
    ``actor_lens.experiments.presets``.
    """

    name: str = "actor-raw"
    origin: Origin = "zero"
    anchor: Anchor = "current"


@dataclass(frozen=True)
class UniformShift(Actor):
    """ACTOR with one shift for all prompts: ``a_tgt = a -/+ alpha R``; the collapse ablation.

    All else is as in ``Actor``; the layer too is chosen as there.
    """

    name: str = "uniform-shift"
    shift: Shift = "uniform"


@dataclass(frozen=True, eq=False, repr=False)
class FittedRun(FittedIntervention):
    """A trained block.

    Attributes:
        run: Fine-tune of the block, which can be saved and exported.
    """

    run: TrainingRun = field(kw_only=True)
