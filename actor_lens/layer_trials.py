"""Settling a tie between layers: train each of them and look at held-out prompts.

A layer is cheap to train, so where scores cannot tell layers apart, outcomes can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from actor_lens.errors import UserError
from actor_lens.finetuning import finetune_layer
from actor_lens.judges import RefusalTokens
from actor_lens.models import ChatModel
from actor_lens.prompts import LABELS, PromptSet
from actor_lens.safety_floor import tradeoff
from actor_lens.training_run import FinetuneConfig, TrainingRun, TrainingStep

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class LayerTrials:
    """Several layers, each trained in the same way.

    Attributes:
        refused: For each layer in the order tried, the share of validation prompts of each label
            that begins a refusal with the trained block in place.
        best: The run of the layer with the highest trade-off score; the first tried wins ties.
            Only this one is kept, so that memory does not grow with the number of layers.
    """

    refused: Mapping[int, Mapping[str, float]]
    best: TrainingRun

    @property
    def tradeoff_scores(self) -> dict[int, float]:
        """First-token trade-off score of each layer on the validation prompts."""
        return {layer: tradeoff(refused) for layer, refused in self.refused.items()}

    @property
    def reason(self) -> str:
        """Why the best layer is the best, in words."""
        scores = {layer: f"{score:.3f}" for layer, score in self.tradeoff_scores.items()}
        if len(scores) == 1:
            return f"only layer {self.best.layer} was tried"
        others = ", ".join(
            f"{score} at layer {layer}"
            for layer, score in sorted(scores.items())
            if layer != self.best.layer
        )
        return (
            f"each was trained, and layer {self.best.layer} had the best first-token trade-off "
            f"score on validation prompts ({scores[self.best.layer]}; {others})"
        )

    def frame(self) -> pd.DataFrame:
        """One row a layer: ``layer``, ``tradeoff_score``, ``refused_<label>``."""
        import pandas as pd

        scores = self.tradeoff_scores
        return pd.DataFrame(
            {
                "layer": layer,
                "tradeoff_score": scores[layer],
                **{f"refused_{label}": refused.get(label, float("nan")) for label in LABELS},
            }
            for layer, refused in self.refused.items()
        )


def try_layers(
    model: ChatModel,
    prompts: PromptSet,
    validation: PromptSet,
    layers: Sequence[int],
    *,
    settings: FinetuneConfig | None = None,
    tokens: RefusalTokens | None = None,
    on_step: Callable[[TrainingStep], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> LayerTrials:
    """Train some layers, each from the untrained model, and compare them on validation prompts.

    A trial that is stopped (Ctrl-C) ends the trials, and its run is the one returned.

    Args:
        model: Left as it is.
        prompts: Training prompts.
        validation: Held-out prompts that decide; the test prompts are left for the final rates.
        layers: At least one; the first of equals wins.
        settings: Of every fine-tune; the layer in it is replaced.
        tokens: How the model begins refusals; found from the validation prompts unless given.
        on_step: Told of every training step.
        on_progress: Told the number of layers tried and of all.

    Raises:
        UserError: If there are no layers or no validation prompts, and as ``finetune_layer``.
    """
    if not layers or not len(validation):
        raise UserError("trying layers needs at least one layer and some validation prompts")
    settings = settings or FinetuneConfig(layer=layers[0])
    refused: dict[int, Mapping[str, float]] = {}
    best: TrainingRun | None = None
    for layer in layers:
        run = finetune_layer(
            model,
            prompts,
            **asdict(replace(settings, layer=layer)),
            validation=validation,
            tokens=tokens,
            on_step=on_step,
        )
        refused[layer] = _refused_by(run)
        if run.status == "stopped":
            return LayerTrials(refused, run)
        if best is None or tradeoff(refused[layer]) > tradeoff(refused[best.layer]):
            best = run
        if on_progress is not None:
            on_progress(len(refused), len(layers))
    assert best is not None
    return LayerTrials(refused, best)


def _refused_by(run: TrainingRun) -> Mapping[str, float]:
    """Refusals on validation with the weights that the run kept."""
    checks = {step.step: step.refused for step in run.history if step.refused}
    return {0: run.refused_before, **checks}.get(run.best_step, run.refused_before)
