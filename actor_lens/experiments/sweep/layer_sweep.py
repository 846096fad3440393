"""Every layer at once: each trained on its own cached input, and what came of it.

Everything below a block is frozen, so one pass over the prompts gives every block its input, and
each layer, alpha and seed is then trained on that alone, for a few times the price of one layer.
Outcomes on validation prompts go on from cached inputs too. So a layer can be chosen by what
training it does instead of by a score that stands for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd

from actor_lens.activations.store import Store
from actor_lens.directions.layer_scores import LayerChoice
from actor_lens.errors import UserError, check_choice
from actor_lens.experiments.clock import round_seconds
from actor_lens.experiments.sweep.cells import CellOutcome, SweepCell, SweepWork
from actor_lens.experiments.sweep.tally import Tally, best_of
from actor_lens.files.paths import user_path
from actor_lens.judges.base import Judge
from actor_lens.judges.by_name import as_judge
from actor_lens.judges.first_token import RefusalTokens, refusal_scores
from actor_lens.judges.openings import refusal_tokens
from actor_lens.models.chat_model import ChatModel
from actor_lens.progress import stage
from actor_lens.prompts.rows import LABELS
from actor_lens.prompts.sets import PromptSet, require_labels
from actor_lens.results import Result, versions
from actor_lens.statistics.intervals import wilson_interval
from actor_lens.statistics.paired_tests import PairedDifference
from actor_lens.statistics.rates import tradeoff_score
from actor_lens.text import plural
from actor_lens.training.config import FinetuneConfig
from actor_lens.training.finetuning import check_anchored, check_config
from actor_lens.training.run import TrainingRun, TrainingStep

Engine = Literal["local", "ray"]
ENGINES: tuple[Engine, ...] = get_args(Engine)
_MIN_PROMPTS = 2
_NAN = float("nan")


@dataclass(frozen=True, eq=False)
class LayerOutcomes:
    """Outcomes of layers, also while a sweep runs, as the figure and the linked page read them.

    Attributes:
        outcomes: Outcomes so far.
        validation: Number of validation prompts of each label.
        refused_before: Share of them that began a refusal before.
    """

    outcomes: tuple[CellOutcome, ...]
    validation: Mapping[str, int]
    refused_before: Mapping[str, float]

    def frame(self) -> pd.DataFrame:
        """One row a cell, as in ``LayerSweep.frame``."""
        return outcome_table(self.outcomes, self.validation)


@dataclass(frozen=True, eq=False, repr=False)
class LayerSweep(Result):
    """Layers, alphas and seeds that were tried, and what came of each.

    Attributes:
        outcomes: In the order of the grid.
        best: The run of the best cell: highest trade-off score on the validation prompts (by whole
            replies where they were judged); ties go to the first.
        refused_before: Share of validation prompts of each label that began a refusal before.
        validation: Number of validation prompts of each label.
        model_name: The model.
        seconds: ``collect``, ``train`` and ``score``, added up over the cells that were run now.
    """

    outcomes: tuple[CellOutcome, ...]
    best: TrainingRun
    refused_before: Mapping[str, float]
    validation: Mapping[str, int]
    model_name: str
    seconds: Mapping[str, float]

    _figure = "layer_outcomes"
    _hint = "the best run: .best"

    @property
    def best_outcome(self) -> CellOutcome:
        """What came of the best cell."""
        return best_of(self.outcomes)

    @property
    def reason(self) -> str:
        """Why the best layer is the best, in words."""
        return self.choice().reason

    def choice(self, before: LayerChoice | None = None) -> LayerChoice:
        """The layer that the outcomes recommend, and by how much it is ahead of others.

        Layers tie with it while the 95 % interval of their difference, on the same validation
        prompts, reaches 0.

        Args:
            before: The choice before any layer was trained; the reason names that layer too.
        """
        best = self.best_outcome
        rivals = self._rivals()
        ties = (best.cell.layer, *(layer for layer, one in rivals.items() if _ties(best, one)))
        if len({outcome.cell.layer for outcome in self.outcomes}) == 1:
            reason = f"only layer {best.cell.layer} was tried"
        elif not best.refused:
            reason = f"each was trained, and layer {best.cell.layer} had the lowest loss"
        else:
            notes = dict.fromkeys(list(rivals)[:1], "")
            if before is not None and before.layer in rivals:
                notes[before.layer] = f", recommended before by the {before.by} score,"
            judged = "" if best.reply_refused else "first-token "
            reason = (
                f"each was trained, and layer {best.cell.layer} had the best {judged}trade-off "
                f"score on validation prompts, less half the benign ones refused: {best.rank:.3f}"
            )
            for layer, note in notes.items():
                reason += f"; layer {layer}{note} had {rivals[layer].rank:.3f}"
                if (lead := best.lead(rivals[layer])) is not None:
                    reason += f" (difference {lead.value:.3f}, 95 % interval {_span(lead)})"
        return LayerChoice(best.cell.layer, "outcomes", reason, tuple(sorted(ties)))

    def _rivals(self) -> dict[int, CellOutcome]:
        """The best outcome of each other layer, the best first; of judged ones where any were."""
        alike = [one for one in self.outcomes if one.reply_refused] or self.outcomes
        rivals: dict[int, CellOutcome] = {}
        for outcome in sorted(alike, key=lambda outcome: -outcome.rank):
            if outcome.status != "failed" and outcome.cell.layer != self.best_outcome.cell.layer:
                rivals.setdefault(outcome.cell.layer, outcome)
        return rivals

    def frame(self) -> pd.DataFrame:
        """One row a cell.

        Columns: ``layer``, ``alpha``, ``seed``, ``lr`` where several were tried, ``status``,
        ``loss``, ``compliance_rate``, ``safety_score`` and ``tradeoff_score`` (first token), for
        each label ``refused_<label>`` with ``_low`` and ``_high`` (Wilson 95 %) and
        ``reply_refused_<label>``, ``train_seconds``, ``message``; NaN where nothing was measured.
        """
        return outcome_table(self.outcomes, self.validation)

    def summary(self) -> dict[str, Any]:
        """The record that ``summary.json`` holds."""
        best = self.best_outcome.cell
        return {
            "model": self.model_name,
            **best.values(),
            "layer_reason": self.reason,
            "judge": next((one.reply_judge for one in self.outcomes if one.reply_judge), None),
            "refused_before": dict(self.refused_before),
            "validation_prompts": dict(self.validation),
            "train_prompts": dict(self.best.train_prompts),
            "outcomes": json.loads(self.frame().to_json(orient="records")),
            "seconds": round_seconds(self.seconds),
            "versions": versions(),
        }

    def _headline(self) -> str:
        best = self.best_outcome
        return (
            f"LayerSweep: {plural(len(self.outcomes), 'cell')} on {self.model_name}; best: layer "
            f"{best.cell.layer}, alpha {best.cell.alpha:g}"
        )


def sweep_layers(
    model: ChatModel,
    prompts: PromptSet,
    validation: PromptSet | None = None,
    *,
    layers: Iterable[int] | None = None,
    alphas: Sequence[float] = (1.0,),
    seeds: Sequence[int] = (0,),
    lrs: Sequence[float] | None = None,
    settings: FinetuneConfig | None = None,
    anchors: PromptSet | None = None,
    tokens: RefusalTokens | None = None,
    judge_best: int = 0,
    judge: Judge | str | None = None,
    new_tokens: int = 64,
    folder: str | Path | None = None,
    engine: Engine = "local",
    store: Store | bool = True,
    on_step: Callable[[TrainingStep], None] | None = None,
    on_outcome: Callable[[CellOutcome], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> LayerSweep:
    """Train every layer (or some) with every alpha and seed, each from the untrained model.

    Each cell gets the weights that ``finetune_layer`` with the same settings would find. Without
    validation prompts cells are ranked by their loss, which says nothing about refusals.

    Args:
        model: Left as it is.
        prompts: Training prompts, at least two of each label.
        validation: Held-out prompts that decide; the test prompts are left for the final rates.
        layers: Layers in the order to try them, ties go to the first; all of them unless given.
        alphas: Alphas to try at each layer.
        seeds: Seeds to try with each alpha.
        lrs: Learning rates to try with each; None for that of the settings alone.
        settings: All other settings; their layer, alpha and seed are replaced.
        anchors: Prompts that R is made of (local engine); None for the training prompts.
        tokens: Tokens that begin refusals; found from the validation prompts unless given.
        judge_best: Number of the best cells whose whole replies to the validation prompts are
            judged too. Replies need the keys and values of the blocks below, so these begin from
            the tokens.
        judge: Judge of these replies; the keyword judge unless given.
        new_tokens: Longest of these replies, in tokens.
        folder: Folder that keeps outcomes and the best run as they come; a sweep that was cut
            short goes on from there.
        engine: ``"local"``, or ``"ray"`` to spread the cells over a Ray cluster.
        store: Store of block inputs: True is the default store, False none. What no store
            holds and memory does not either is collected for some layers at a time.
        on_step: Function called after every training step (local engine).
        on_outcome: Function called with the outcome of every cell.
        should_stop: Function asked before every training step whether to stop (local engine).

    Raises:
        UserError: If a setting is not allowed, prompts are missing, every cell failed, or the
            folder holds another sweep.
        KeyboardInterrupt: If interrupted; outcomes so far are in the folder.
    """
    judge = as_judge(judge)
    chosen = range(model.n_layers) if layers is None else map(model.check_layer, layers)
    rates = [None] if lrs is None else [float(lr) for lr in lrs]
    grid = product(chosen, map(float, alphas), map(int, seeds), rates)
    cells = list(dict.fromkeys(SweepCell(*values) for values in grid))
    if not cells:
        raise UserError("a sweep needs at least one layer, alpha, seed and learning rate")
    shared = replace(settings or FinetuneConfig(layer=0), layer=cells[0].layer)
    for cell in cells:
        check_config(model, cell.settings(shared), validation)
    require_labels(prompts, _MIN_PROMPTS)
    check_choice("engine", engine, ENGINES)
    check_anchored(anchors, shared)
    if anchors is not None and engine != "local":
        raise UserError("anchors are taken by the engine 'local' only; use it, or leave them out")
    if validation is not None and not len(validation):
        raise UserError("the validation prompts are empty; leave them out to rank by loss")
    if validation is not None:
        tokens = tokens or refusal_tokens(model, validation, store=store)
    work = SweepWork(model, prompts, validation, shared, tokens, store, anchors)
    tally = Tally(cells, work, None if folder is None else user_path(folder), on_outcome)
    todo = [cell for cell in cells if cell not in tally.outcomes]
    if engine == "ray":
        from actor_lens.experiments.sweep.workers import ray_outcomes

        results: Iterator[tuple[CellOutcome, TrainingRun | None]]
        results = ((outcome, None) for outcome in ray_outcomes(work, todo))
    else:
        results = work.run(todo, on_step, should_stop)
    with stage("layers tried", len(cells)) as done:
        for outcome, run in results:
            tally.add(outcome, run)
            done(len(tally.outcomes))
    if all(outcome.status == "failed" for outcome in tally.outcomes.values()):
        first = tally.outcomes[cells[0]]
        raise UserError(f"no layer could be trained; the first: {first.message}")
    if judge_best and validation is not None:
        tally.judge(judge_best, judge, new_tokens)
    best = tally.best_run()
    if validation is not None and tokens is not None and not work.refused_before:
        # Every cell was kept before.
        work.refused_before = _untrained_shares(model, validation, tokens)
    return LayerSweep(
        outcomes=tuple(tally.outcomes[cell] for cell in cells),
        best=best,
        refused_before=work.refused_before,
        validation={} if validation is None else validation.counts(),
        model_name=model.name,
        seconds=work.seconds,
    )


def _ties(best: CellOutcome, other: CellOutcome) -> bool:
    lead = best.lead(other)
    return best.rank == other.rank if lead is None else lead.low <= 0


def _span(lead: PairedDifference) -> str:
    return f"{lead.low:.3f} to {lead.high:.3f}".replace("-", "\u2212")


def _untrained_shares(
    model: ChatModel, validation: PromptSet, tokens: RefusalTokens
) -> dict[str, float]:
    scores = refusal_scores(model, validation.texts, tokens)
    refused = pd.Series((scores > 0).tolist(), index=list(validation.labels))
    shares = refused.groupby(level=0, sort=False).mean()
    return {str(label): float(share) for label, share in shares.items()}


def outcome_table(outcomes: Sequence[CellOutcome], validation: Mapping[str, int]) -> pd.DataFrame:
    """One row a cell, as in ``LayerSweep.frame``, also while a sweep runs.

    Args:
        outcomes: So far.
        validation: Number of validation prompts of each label.
    """
    return pd.DataFrame([_row(outcome, validation) for outcome in outcomes])


def _row(outcome: CellOutcome, counts: Mapping[str, int]) -> dict[str, Any]:
    refused = outcome.refused
    compliance = 1 - refused.get("pseudo_harmful", _NAN)
    safety = refused.get("harmful", _NAN)
    row: dict[str, Any] = {
        **outcome.cell.values(),
        "status": outcome.status,
        "loss": outcome.loss,
        "compliance_rate": compliance,
        "safety_score": safety,
        "tradeoff_score": tradeoff_score(compliance, safety),
    }
    for label in LABELS:
        share, n = refused.get(label, _NAN), counts.get(label, 0)
        known = label in refused and n > 0
        low, high = wilson_interval(round(share * n), n) if known else (_NAN, _NAN)
        row |= {
            f"refused_{label}": share,
            f"refused_{label}_low": low,
            f"refused_{label}_high": high,
            f"reply_refused_{label}": outcome.reply_refused.get(label, _NAN),
        }
    return {
        **row,
        "train_seconds": outcome.seconds.get("train", _NAN),
        "message": outcome.message,
    }
