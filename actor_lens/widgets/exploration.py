"""What all sections of a dashboard share: the model, what was seen of it, and one selection."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import traitlets

from actor_lens.directions.layer_scores import LayerChoice
from actor_lens.directions.options import ORIGINS, Origin
from actor_lens.directions.predicted_refusals import PredictedRefusals, current_refusals
from actor_lens.directions.projections import Projections, TokenProjections
from actor_lens.directions.targets import Targets
from actor_lens.errors import UserError
from actor_lens.evaluation.evaluate import Evaluation
from actor_lens.experiments.look import Look, targets_of
from actor_lens.experiments.sweep.layer_sweep import LayerSweep
from actor_lens.models.chat_model import ChatModel
from actor_lens.prompts.sets import PromptSet
from actor_lens.training.config import FinetuneConfig
from actor_lens.training.run import TrainingRun

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Compared:
    """The test prompts under a run, beside what they were before.

    Attributes:
        before: The untouched model.
        after: With the run applied.
        divergence: Mean KL divergence from the untouched model at benign prompts, in nats; None
            where there are none.
    """

    before: Evaluation
    after: Evaluation
    divergence: float | None


@dataclass(eq=False)
class TokenLook:
    """A prompt of the user's own, token by token, and what the model said to it."""

    before: TokenProjections
    after: TokenProjections | None
    rendered: str
    replies: dict[str, str] = field(default_factory=dict)


class Exploration(traitlets.HasTraits):
    """One model under the looking glass; sections read it and watch its traits."""

    layer = traitlets.Int(help="The chosen layer.")
    selection = traitlets.Tuple(help="Positions of chosen prompts among the validation prompts.")
    origin: Any = traitlets.Enum(ORIGINS, FinetuneConfig.origin)
    view = traitlets.Unicode("projection", help="How prompts are drawn: projection or pca.")
    settings = traitlets.Instance(FinetuneConfig)
    run = traitlets.Instance(TrainingRun, allow_none=True)
    runs = traitlets.Tuple(help="Runs of this session, the latest last.")
    history = traitlets.Tuple(help="Steps of the run in progress, or of the last one.")
    outcomes = traitlets.Tuple(help="What training each layer came to, as far as it was tried.")
    predictions: traitlets.Dict[int, PredictedRefusals] = traitlets.Dict(
        help="By layer, refusals with every prompt at its target."
    )
    sweep = traitlets.Instance(LayerSweep, allow_none=True)
    tokens_seen = traitlets.Instance(TokenLook, allow_none=True)
    predicted = traitlets.Instance(PredictedRefusals, allow_none=True)
    compared: traitlets.Dict[int, Compared] = traitlets.Dict(
        help="By position of the run among the runs."
    )
    replies: traitlets.Dict[str, dict[int, str]] = traitlets.Dict(
        help="By time (before, after), replies by position of the prompt."
    )

    projections_after: traitlets.Dict[int, Projections] = traitlets.Dict(
        help="By position of the run, of the drawn prompts."
    )
    scores_after = traitlets.Any(None, help="Refusal scores of the drawn prompts with the run.")

    def __init__(
        self,
        model: ChatModel,
        prompts: PromptSet,
        train: PromptSet,
        look: Look,
        *,
        layer: int | None = None,
        seed: int = 0,
    ) -> None:
        """Begin at the recommended layer, unless another is given.

        Args:
            model: Left as it is.
            prompts: All of them.
            train: Training prompts.
            look: What ``look_at_layers`` saw of the model with these.
            layer: Where to begin.
            seed: With which the training prompts were drawn.
        """
        choice = recommended(look)
        layer = choice.layer if layer is None else model.check_layer(layer)
        super().__init__(layer=layer, settings=FinetuneConfig(layer=layer, seed=seed))
        self.model, self.prompts, self.train, self.look = model, prompts, train, look
        self.choice = choice
        self.baseline = current_refusals(model, self.shown, look.tokens)
        self.predicted_for: tuple[Any, ...] = ()
        self.swept: FinetuneConfig | None = None
        self._frames: dict[str, pd.DataFrame] = {}
        # The untouched model on the test prompts, by the identity of the judge.
        self.evaluated: dict[str, Evaluation] = {}

    @traitlets.validate("layer")
    def _existing(self, proposal: dict[str, Any]) -> int:
        layer = int(proposal["value"])
        if hasattr(self, "model"):
            return self.model.check_layer(layer)
        return layer

    @traitlets.validate("selection")
    def _drawn(self, proposal: dict[str, Any]) -> tuple[int, ...]:
        return self.checked_selection(proposal["value"])

    def checked_selection(self, selection: Iterable[int]) -> tuple[int, ...]:
        """Positions of drawn prompts as plain numbers.

        Raises:
            UserError: If there is no prompt at one of them.
        """
        places = tuple(int(place) for place in selection)
        if any(not 0 <= place < len(self.shown) for place in places):
            raise UserError(
                f"selection holds positions outside 0 to {len(self.shown) - 1}; give positions of "
                "validation prompts"
            )
        return places

    @property
    def shown(self) -> PromptSet:
        """The prompts that are drawn: the validation prompts, to which nothing was fitted."""
        return self.look.projections.prompts

    def projections(self, origin: Origin | None = None) -> pd.DataFrame:
        """Table of the drawn prompts at all layers, made once for each origin."""
        name = origin or self.origin
        if name not in self._frames:
            self._frames[name] = self.look.projections.frame(origin=name)
        return self._frames[name]

    @property
    def refused_before(self) -> dict[str, float]:
        """Share of the drawn prompts of each label that begin a refusal before training."""
        rates = self.baseline.rates()
        return dict(zip(rates["label"], rates["refused"], strict=True))

    @property
    def target_settings(self) -> tuple[Any, ...]:
        """All that targets depend on."""
        config = self.config()
        return (config.layer, config.alpha, config.origin, config.shift)

    def add_run(self, run: TrainingRun) -> None:
        """Make a run that of the session; what was known of the one before it does not hold."""
        # What continuing needs is several times the block: only the last run keeps it.
        earlier = (replace(one, resume_state=None) for one in self.runs)
        self.runs = (*earlier, run)
        self.scores_after, self.replies = None, {}
        self.run = run

    def heights(self, layer: int) -> dict[str, np.ndarray]:
        """Projections of the drawn prompts at a layer, by label, in the order of the prompts."""
        origin = float(self.look.directions.origins(self.origin)[layer])
        values = self.look.projections.values[layer].numpy() - np.float32(origin)
        labels = np.array(self.shown.labels)
        return {
            label: values[labels == label].astype(float)
            for label in dict.fromkeys(self.shown.labels)
        }

    def config(self, layer: int | None = None) -> FinetuneConfig:
        """The settings of a fine-tune of the chosen layer."""
        return replace(self.settings, layer=self.layer if layer is None else layer)

    def targets(self, *, config: FinetuneConfig | None = None, of_shown: bool = False) -> Targets:
        """Where prompts should move by the settings; of training prompts unless asked."""
        look, config = self.look, config or self.config()
        residuals = look.projections.residuals if of_shown else look.train_residuals
        return targets_of(residuals, look.directions, config)


def recommended(look: Look) -> LayerChoice:
    """The layer that the scores recommend; the middle one where no score says anything."""
    try:
        return look.scores.best()
    except UserError as error:
        middle = look.scores.n_layers // 2
        return LayerChoice(middle, "middle", f"no score recommends a layer ({error})", (middle,))
