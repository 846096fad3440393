"""ACTOR as a method among others, the paper's raw formula, and the uniform shift."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import ClassVar

from actor_lens.directions.options import Origin, Shift
from actor_lens.methods.support.fitted import FittedIntervention
from actor_lens.methods.support.selection import Choice, Selection
from actor_lens.methods.support.target_layer import layers_to_try
from actor_lens.models.chat_model import ChatModel
from actor_lens.prompts.sets import PromptSet, require_labels
from actor_lens.training.config import AUTO_ALPHAS, AUTO_LRS, Anchor, FinetuneConfig, Refresh
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
    _own: ClassVar[tuple[str, ...]] = ("name", "layer", "trials", "anchors", "alphas", "lrs")
    # Settings that are chosen too, of those in the field of the plural name.
    _searched: ClassVar[tuple[str, ...]] = ()

    def fit(self, model: ChatModel, train: PromptSet, validation: PromptSet) -> FittedRun:
        """Choose the layer on the validation prompts, train it on the training prompts.

        Raises:
            UserError: If a label has too few prompts, a setting is not allowed, or the model
                refuses no harmful prompt.
        """
        require_labels(train, 2)
        if self.layer is not None and not self._searched:
            return self._fitted(self.trained(model, train, self.layer), (self.layer,))
        selection = Selection.of(model, validation)
        layers: tuple[int, ...]
        if self.layer is not None:
            layers = (self.layer,)
        else:
            layers = layers_to_try(
                model,
                train,
                selection,
                alpha=self.alpha,
                origin=self.origin,
                anchors=self.anchors,
                beyond_ties=bool(self._searched),
            )[: max(1, self.trials)]
        runs = (each.trained(model, train, layer) for layer in layers for each in self._grid())
        tried = ((run, selection.effect_of(model, run.applied_to(model))) for run in runs)
        choice = selection.best(tried, max_kl=None)
        return self._fitted(choice.candidate, layers, choice)

    def _grid(self) -> Iterator[Actor]:
        """This method with each combination of the settings that are searched."""
        values = product(*(getattr(self, f"{name}s") for name in self._searched))
        for combination in values:
            yield replace(self, **dict(zip(self._searched, combination, strict=True)))

    def trained(self, model: ChatModel, train: PromptSet, layer: int) -> TrainingRun:
        """The fine-tune of one block."""
        config = self._config(layer)
        return finetune_layer(model, train, config, anchors=self.anchors, store=False)

    def _config(self, layer: int) -> FinetuneConfig:
        shared = {name: value for name, value in vars(self).items() if name not in self._own}
        return FinetuneConfig(layer=layer, **shared)

    def _fitted(
        self, run: TrainingRun, layers: tuple[int, ...], choice: Choice[TrainingRun] | None = None
    ) -> FittedRun:
        settings = {**asdict(run.config), "tried_layers": list(layers), "status": run.status}
        if run.anchors is not None:
            settings["anchors"] = run.anchors.name
        return FittedRun(
            settings=settings | (choice.settings if choice else {}),
            chosen=("layer", *self._searched) if choice else (),
            enter=run.applied_to,
            fingerprint=run.fingerprint,
            trained_parameters=run.trained_parameters,
            run=run,
        )


@dataclass(frozen=True)
class AutoActor(Actor):
    """ACTOR with alpha and learning rate found on validation prompts, as other methods find theirs.

    Every combination of ``alphas`` and ``lrs`` is trained at the ``trials`` layers with the best
    causal scores; the best trade-off is kept. It is the search of ``train --settings auto`` by
    first tokens alone. All else is as in ``Actor``.

    Attributes:
        alphas: Values of ``alpha`` to try.
        lrs: Learning rates to try with each.
    """

    name: str = "actor-auto"
    trials: int = 4
    epochs: int = 12
    alphas: tuple[float, ...] = AUTO_ALPHAS
    lrs: tuple[float, ...] = AUTO_LRS

    _searched: ClassVar[tuple[str, ...]] = ("alpha", "lr")


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
