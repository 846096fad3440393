"""A study: the look at a model, the layer that was trained, and what that changed.

``run_study`` makes one; a session that holds the parts puts it together itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from actor_lens.directions.layer_scores import LayerChoice
from actor_lens.directions.projections import Projections
from actor_lens.directions.targets import Targets
from actor_lens.errors import UserError
from actor_lens.evaluation.changes import EvaluationChange, compare_evaluations
from actor_lens.evaluation.evaluate import Evaluation
from actor_lens.evaluation.summary import before_after, rates_and_scores
from actor_lens.experiments.clock import round_seconds
from actor_lens.experiments.harmfulness import Harmfulness
from actor_lens.experiments.look import Look
from actor_lens.experiments.sweep.layer_sweep import LayerSweep
from actor_lens.prompts.sets import PromptSet
from actor_lens.results import Result, versions
from actor_lens.text import percent
from actor_lens.training.run import TrainingRun


@dataclass(frozen=True, eq=False, repr=False)
class Outcome:
    """One fine-tune and what it did to the test prompts.

    Attributes:
        name: ``"actor"``, or the name of a variant.
        run: The fine-tuned block.
        targets: Targets of the training prompts, as previewed before training.
        evaluation: The test and out-of-distribution prompts, with the block in place.
        projections: Projections with the block in place; None where they were not taken.
        parameters_changed_outside_layer: Bit-for-bit comparison with the model before; None where
            it was not made.
    """

    name: str
    run: TrainingRun
    targets: Targets
    evaluation: Evaluation
    projections: Projections | None = None
    parameters_changed_outside_layer: int | None = None

    def __repr__(self) -> str:
        """Name, layer and scores on one line."""
        return f"Outcome '{self.name}' of layer {self.run.layer}: {self.evaluation!r}"


@dataclass(frozen=True, eq=False, repr=False)
class Study(Result):
    """Everything about one model, one set of prompts and one layer.

    What a session has at hand is enough: ``Study(look, run, before, after)``.

    Attributes:
        look: The look before training.
        run: The fine-tuned block.
        before: The untouched model on the test and out-of-distribution prompts; None before the
            evaluation.
        after: The same prompts with the run applied.
        before_projections: Projections of any prompts by the untouched model.
        after_projections: Projections of the same prompts with the run applied.
        variants: Further fine-tunes at the same layer.
        parameters_changed_outside_layer: Bit-for-bit comparison with the model before; None where
            it was not made.
        known_harm: How well the model tells harmful test prompts from others, before and with the
            run applied; None where it was not measured.
        model_parameters: Number of parameters of the whole model; 0 where it is not known.
        seconds: Time of each part.
        trials: Layers and settings that were tried before; None where nothing was.
    """

    look: Look
    run: TrainingRun
    before: Evaluation | None = None
    after: Evaluation | None = None
    before_projections: Projections | None = None
    after_projections: Projections | None = None
    variants: tuple[Outcome, ...] = ()
    parameters_changed_outside_layer: int | None = None
    known_harm: tuple[Harmfulness, Harmfulness] | None = None
    model_parameters: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    trials: LayerSweep | None = None

    _hint = "report: al.write_report(study, path)"

    def __post_init__(self) -> None:
        """Check that what came before and after belongs together.

        Raises:
            UserError: If one of two evaluations or projections is missing, or their prompts differ.
        """
        pairs = {
            "evaluation": (self.before, self.after),
            "projections": (self.before_projections, self.after_projections),
        }
        for name, (before, after) in pairs.items():
            if (before is None) != (after is None):
                raise UserError(f"a study has the {name} of before or after alone; give both")
            if before is not None and after is not None and before.prompts != after.prompts:
                raise UserError(
                    f"the {name} before and after are of different prompts; give those of the same"
                )

    @property
    def model_name(self) -> str:
        """The model."""
        return self.look.model_name

    @property
    def prompts(self) -> PromptSet:
        """All prompts."""
        return self.look.prompts

    @property
    def choice(self) -> LayerChoice | None:
        """Why this layer; None where the user named it."""
        return choice_of(self.run)

    @cached_property
    def targets(self) -> Targets:
        """Targets of the training prompts, as previewed before training."""
        return self.look.targets(self.run.config, self.run.origin_place)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user was warned of before training."""
        return (*self.look.scores.warnings, *self.targets.preview().warnings)

    @cached_property
    def outcome(self) -> Outcome:
        """The fine-tune that the study is about.

        Raises:
            UserError: If it was not evaluated.
        """
        return Outcome(
            name="actor",
            run=self.run,
            targets=self.targets,
            evaluation=self.change.after,
            projections=self.after_projections,
            parameters_changed_outside_layer=self.parameters_changed_outside_layer,
        )

    @property
    def change(self) -> EvaluationChange:
        """What the run changed on the tested prompts.

        Raises:
            UserError: If the run was not evaluated.
        """
        if self.before is None or self.after is None:
            raise UserError("this study has no evaluation; give before= and after= (evaluate)")
        return compare_evaluations(self.before, self.after)

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """The fine-tune, then the variants."""
        return (self.outcome, *self.variants)

    def frame(self) -> pd.DataFrame:
        """One row a test prompt, before and after (``EvaluationChange.examples``).

        Raises:
            UserError: If the run was not evaluated.
        """
        return self.change.examples()

    def summary(self) -> dict[str, Any]:
        """The record that ``summary.json`` holds; without an evaluation it has no rates."""
        run, config, choice = self.run, self.run.config, self.choice
        record = {
            "model": self.model_name,
            "prompts": self.prompts.name,
            "layer": run.layer,
            "layer_reason": choice.reason if choice else "named by the user",
            "layer_ties": list(choice.ties) if choice else [run.layer],
            **{name: getattr(config, name) for name in ("alpha", "origin", "anchor", "shift")},
            "train_prompts": dict(run.train_prompts),
            "warnings": list(self.warnings),
            "trained_parameters": run.trained_parameters,
            "status": run.status,
            "message": run.message,
            "best_step": run.best_step,
            "seed": config.seed,
            "config": asdict(config),
            "fingerprints": {
                "model": run.fingerprint,
                "prompts": self.prompts.fingerprint,
                "train_prompts": run.prompts_fingerprint,
            },
            "seconds": round_seconds(self.seconds),
            "versions": versions(),
        }
        if self.before is None:
            return record
        return {
            **record,
            **before_after(self.before, self.after),
            "known_harm": None
            if self.known_harm is None
            else {
                when: one.summary()
                for when, one in zip(("before", "after"), self.known_harm, strict=True)
            },
            "parameters_changed_outside_layer": self.parameters_changed_outside_layer,
            "model_parameters": self.model_parameters,
            "variants": {
                variant.name: {
                    "warnings": list(variant.targets.preview().warnings),
                    "config": asdict(variant.run.config),
                    "train_prompts": dict(variant.run.train_prompts),
                    "status": variant.run.status,
                    **rates_and_scores(variant.evaluation),
                }
                for variant in self.variants
            },
        }

    def _headline(self) -> str:
        head = f"Study of {self.model_name}: layer {self.run.layer}, {self.run.status}"
        if self.before is None or self.after is None:
            return f"{head}; not evaluated"
        before, after = self.before.where("test"), self.after.where("test")
        return (
            f"{head}; compliance rate {percent(before.compliance_rate)} before, "
            f"{percent(after.compliance_rate)} after; safety score "
            f"({after.safety_means}) {percent(before.safety_score)}, {percent(after.safety_score)}"
        )

    def _table(self) -> pd.DataFrame:
        if self.before is None or self.after is None:
            return self.look.frame().head()
        return self.change.where("test").frame()


def choice_of(run: TrainingRun | None) -> LayerChoice | None:
    """How the layer of a run was chosen when it was trained."""
    if run is None or run.chosen is None:
        return None
    return LayerChoice(**{**run.chosen, "ties": tuple(run.chosen["ties"])})
