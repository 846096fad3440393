"""What all sections of a dashboard share: the model, what is known of it, and one selection."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import traitlets

from actor_lens.directions.just_enough_shift import JustEnoughShift
from actor_lens.directions.layer_scores import LayerChoice
from actor_lens.directions.options import FIXED_ORIGINS, Origin, Shift
from actor_lens.directions.predicted_refusals import (
    PredictedRefusals,
    current_refusals,
    predict_refusals,
)
from actor_lens.directions.projections import Projections, TokenProjections
from actor_lens.directions.targets import Targets
from actor_lens.errors import UserError
from actor_lens.evaluation.changes import compare_evaluations
from actor_lens.evaluation.evaluate import Evaluation
from actor_lens.experiments.look import Look, targets_of
from actor_lens.experiments.sweep.layer_sweep import LayerOutcomes, LayerSweep
from actor_lens.judges.openings import refusal_tokens
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.prefix_cache import KeptPrefixes, keep_prefixes
from actor_lens.prompts.sets import PromptSet
from actor_lens.training.config import FinetuneConfig
from actor_lens.training.run import TrainingRun
from actor_lens.widgets.jobs import weights_held

if TYPE_CHECKING:
    from actor_lens.report.linked_page import Lens

TargetSettings = tuple[int, float, Origin, Shift]


@dataclass(frozen=True, eq=False)
class RunComparison:
    """The test prompts under a run, beside what they were before.

    Attributes:
        before: Evaluation of the untouched model.
        after: Evaluation of the same prompts with the run applied.
        divergence: Mean KL divergence from the untouched model at benign prompts, in nats; None
            where there are none.
    """

    before: Evaluation
    after: Evaluation
    divergence: float | None


@dataclass(eq=False)
class ProbeResult:
    """A prompt of the user's own, token by token, and what the model replied to it.

    Attributes:
        before: Projections of its tokens by the untouched model.
        after: The same with the run applied; None where there was no run.
        rendered: The prompt as the model reads it, in its chat template.
        replies: Replies by time (``"before"``, ``"after"``), without those that a model should
            not have given.
    """

    before: TokenProjections
    after: TokenProjections | None
    rendered: str
    replies: dict[str, str] = field(default_factory=dict)


class Exploration(traitlets.HasTraits):
    """One model under the looking glass: sections read this state and set its traits.

    The dashboard redraws whenever a trait changes. Traits that hold a dict or a tuple are replaced
    and never changed in place, because a change in place is not noticed.

    Attributes:
        layer: The chosen layer, from 0.
        selection: Positions of the chosen prompts among the drawn ones.
        origin: What is taken off projections in every panel.
        view: How prompts are drawn: ``"projection"`` or ``"pca"``.
        settings: Settings of the next fine-tune; ``config`` puts the chosen layer in.
        run: The last fine-tune, or None.
        runs: All fine-tunes of this session, the latest last; numbers below are positions in it.
        history: Steps of the run in progress, or of the last one.
        outcomes: Outcomes of the layers that were tried so far.
        sweep: All outcomes, once every layer was tried.
        sweep_config: Settings that the layers were tried with.
        predictions: Refusals with every drawn prompt at its target, by ``target_settings``.
        shifts: Shifts that over-refused drawn prompts need, by layer.
        probe: The last prompt that the user wrote, or None.
        comparisons: Test prompts before and after, by number of the run.
        projections_after: Projections of the drawn prompts with a run, by its number.
        scores_after: Refusal scores of the drawn prompts with the last run, or None.
        replies: Replies by time (``"before"``, ``"after"``) and position of the prompt.
        model: The model, never changed.
        prompts: All prompts.
        train: The training prompts that are used.
        look: What was measured before training.
        tokens: Tokens that begin refusals.
        baseline: Refusals of the drawn prompts before training, by the first token.
        before_by_judge: The untouched model on the test prompts, by the identity of the judge.
    """

    layer = traitlets.Int()
    selection = traitlets.Tuple()
    origin: Any = traitlets.Enum(FIXED_ORIGINS, FinetuneConfig.origin)
    view = traitlets.Unicode("projection")
    settings = traitlets.Instance(FinetuneConfig)
    run = traitlets.Instance(TrainingRun, allow_none=True)
    runs = traitlets.Tuple()
    history = traitlets.Tuple()
    outcomes = traitlets.Tuple()
    sweep = traitlets.Instance(LayerSweep, allow_none=True)
    predictions: traitlets.Dict[TargetSettings, PredictedRefusals] = traitlets.Dict()
    shifts: traitlets.Dict[int, JustEnoughShift] = traitlets.Dict()
    probe = traitlets.Instance(ProbeResult, allow_none=True)
    comparisons: traitlets.Dict[int, RunComparison] = traitlets.Dict()
    projections_after: traitlets.Dict[int, Projections] = traitlets.Dict()
    scores_after = traitlets.Any(None)
    replies: traitlets.Dict[str, dict[int, str]] = traitlets.Dict()

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
            model: The model; it is left as it is.
            prompts: All prompts.
            train: The training prompts that are used.
            look: Result of ``look_at_layers`` with these.
            layer: Layer to begin with; the recommended one unless given.
            seed: Seed of fine-tunes, with which the training prompts were drawn.

        Raises:
            UserError: If the model has no such layer.
        """
        choice = recommend(look)
        layer = choice.layer if layer is None else model.check_layer(layer)
        super().__init__(layer=layer, settings=FinetuneConfig(layer=layer, seed=seed))
        self.model, self.prompts, self.train, self.look = model, prompts, train, look
        self._scored = choice
        self.tokens = look.tokens or refusal_tokens(model, self.shown)
        self.baseline = current_refusals(model, self.shown, self.tokens)
        self.sweep_config: FinetuneConfig | None = None
        self.before_by_judge: dict[str, Evaluation] = {}
        self._frames: dict[str, pd.DataFrame] = {}
        self._prefixes: KeptPrefixes | None = None

    @traitlets.validate("layer")
    def _check_layer(self, proposal: dict[str, Any]) -> int:
        layer = int(proposal["value"])
        if hasattr(self, "model"):
            return self.model.check_layer(layer)
        return layer

    @traitlets.validate("selection")
    def _check_selection(self, proposal: dict[str, Any]) -> tuple[int, ...]:
        return self.checked_selection(proposal["value"])

    def checked_selection(self, selection: Iterable[int]) -> tuple[int, ...]:
        """Positions of drawn prompts as plain numbers.

        Args:
            selection: Positions of any whole number type.

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
        """Table of the drawn prompts at all layers, made once for each origin.

        Args:
            origin: What is taken off the projections; the trait ``origin`` unless given.
        """
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
    def layer_outcomes(self) -> LayerOutcomes:
        """What came of the layers that were tried so far."""
        return LayerOutcomes(self.outcomes, self.shown.counts(), self.refused_before)

    @property
    def choice(self) -> LayerChoice:
        """The recommended layer and why: by the outcomes, once every layer was tried."""
        return self._scored if self.sweep is None else self.sweep.choice(self._scored)

    def add_run(self, run: TrainingRun) -> None:
        """Make a run that of the session.

        Sets ``run``, adds to ``runs``, and empties ``scores_after`` and ``replies``, which were
        those of the run before.

        Args:
            run: A fine-tune of this model.
        """
        # What continuing needs is several times the block: only the last run keeps it.
        earlier = (replace(before, resume_state=None) for before in self.runs)
        self.runs = (*earlier, run)
        self.scores_after, self.replies = None, {}
        self.run = run

    def page(self) -> str:
        """All that is known as the text of one page that stays linked without Python."""
        from actor_lens.report.linked_page import render_lenses

        return render_lenses([self.lens()])

    def lens(self) -> Lens:
        """What a linked page holds of this session.

        That is the chosen layer, the last run with what it changed where it was evaluated, and
        token by token the user's own prompt and the selected ones.
        """
        from actor_lens.report.linked_page import lens_of, token_pulls

        last = len(self.runs) - 1
        compared = self.comparisons.get(last)
        with weights_held(self.model):
            tokens = token_pulls(self.model, self.look, self.choice.layer, self.selection)
        return lens_of(
            self.look,
            choice=self.choice,
            layer=self.layer,
            origin=self.origin,
            outcomes=self.layer_outcomes,
            run=self.run,
            after=self.projections_after.get(last),
            change=None
            if compared is None
            else compare_evaluations(compared.before, compared.after),
            tokens=tokens if self.probe is None else [self.probe.before, *tokens],
        )

    def heights(self, layer: int) -> np.ndarray:
        """Projections of the drawn prompts at a layer, in the order of the prompts."""
        origin = float(self.look.directions.origins(self.origin)[layer])
        values = self.look.projections.values[layer].numpy() - np.float32(origin)
        return values.astype(float)

    def config(self) -> FinetuneConfig:
        """The settings of a fine-tune of the chosen layer."""
        return replace(self.settings, layer=self.layer)

    def targets(self, *, config: FinetuneConfig | None = None, of_shown: bool = False) -> Targets:
        """Where prompts should move.

        Args:
            config: Settings of the targets; those of the traits unless given.
            of_shown: Whether the drawn prompts are moved; the training prompts unless asked.
        """
        look, config = self.look, config or self.config()
        residuals = look.projections.residuals if of_shown else look.train_residuals
        return targets_of(residuals, look.directions, config)

    @property
    def predicts_at_once(self) -> bool:
        """Whether a prediction costs one token a prompt: after the first, where memory allows."""
        return self._prefixes is not None

    def predict(self, config: FinetuneConfig) -> None:
        """Ask the drawn prompts, each at its target by a hook; nothing is trained.

        Adds to ``predictions``, so a prediction is never shown beside other settings. The first
        call runs the model over the prompts and keeps what those that follow need.

        Args:
            config: Settings of the targets.
        """
        targets = self.targets(config=config, of_shown=True)
        if self._prefixes is None:
            self._prefixes = keep_prefixes(self.model, self.shown.texts)
        rates = predict_refusals(self.model, targets, self.tokens, prefixes=self._prefixes)
        self.predictions = {**self.predictions, target_settings(config): rates}


def target_settings(config: FinetuneConfig) -> TargetSettings:
    """All that targets depend on: layer, alpha, origin and shift."""
    return (config.layer, config.alpha, config.origin, config.shift)


def recommend(look: Look) -> LayerChoice:
    """The layer that the scores recommend; the middle one where no score says anything."""
    try:
        return look.scores.best()
    except UserError as error:
        middle = look.scores.n_layers // 2
        return LayerChoice(middle, "middle", f"no score recommends a layer ({error})", (middle,))
