"""Every layer at once: each trained on its own cached input, and what came of it.

Everything below a block is frozen, so one pass over the prompts gives every block its input, and
each layer, alpha and seed is then trained on that alone, for a few times the price of one layer.
Outcomes on validation prompts go on from cached inputs too. So a layer can be chosen by what
training it does instead of by a score that stands for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actor_lens.activations.store import Store
from actor_lens.errors import UserError
from actor_lens.evaluation.evaluate import Evaluation, evaluate
from actor_lens.experiments.sweep.cells import CellOutcome, OutcomeFile, SweepCell
from actor_lens.experiments.sweep.work import SweepWork
from actor_lens.judges.base import Judge
from actor_lens.judges.first_token import RefusalTokens, refusal_scores, refusal_tokens, with_tokens
from actor_lens.judges.keywords import KeywordJudge
from actor_lens.models.chat_model import ChatModel
from actor_lens.progress import stage
from actor_lens.prompts.rows import LABELS
from actor_lens.prompts.sets import PromptSet, require_labels
from actor_lens.statistics.intervals import wilson_interval
from actor_lens.statistics.rates import tradeoff_score
from actor_lens.training.config import FinetuneConfig
from actor_lens.training.finetuning import check_config
from actor_lens.training.run import TrainingRun, TrainingStep

if TYPE_CHECKING:
    import pandas as pd

ENGINES = ("local", "ray")
OUTCOMES_FILE = "sweep.jsonl"
BEST_FOLDER = "best"
_MIN_PROMPTS = 2
_NAN = float("nan")


@dataclass(frozen=True, eq=False)
class LayerSweep:
    """Layers, alphas and seeds that were tried, and what came of each.

    Attributes:
        outcomes: In the order of the grid.
        best: The run of the best cell: highest trade-off score on the validation prompts (by whole
            replies where they were judged); the first of equals.
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

    @property
    def best_outcome(self) -> CellOutcome:
        """What came of the best cell."""
        return _best(self.outcomes)

    @property
    def reason(self) -> str:
        """Why the best layer is the best, in words."""
        best = self.best_outcome
        alike = [one for one in self.outcomes if one.reply_refused] or self.outcomes
        by_layer: dict[int, CellOutcome] = {}
        for outcome in sorted(alike, key=lambda outcome: outcome.rank):
            by_layer[outcome.cell.layer] = outcome
        if len({outcome.cell.layer for outcome in self.outcomes}) == 1:
            return f"only layer {best.cell.layer} was tried"
        if not best.refused:
            return f"each was trained, and layer {best.cell.layer} had the lowest loss"
        others = ", ".join(
            f"{outcome.rank:.3f} at layer {layer}"
            for layer, outcome in sorted(by_layer.items())
            if layer != best.cell.layer and outcome.status != "failed"
        )
        judged = "" if best.reply_refused else "first-token "
        scores = "; ".join(filter(None, [f"{best.rank:.3f}", others]))
        return (
            f"each was trained, and layer {best.cell.layer} had the best {judged}trade-off "
            f"score on validation prompts ({scores})"
        )

    def frame(self) -> pd.DataFrame:
        """One row a cell.

        Columns: ``layer``, ``alpha``, ``seed``, ``status``, ``loss``, ``compliance_rate``,
        ``safety_score`` and ``tradeoff_score`` (first token), for each label ``refused_<label>``
        with ``_low`` and ``_high`` (Wilson 95 %) and ``reply_refused_<label>``, ``train_seconds``,
        ``message``; NaN where nothing was measured.
        """
        return outcome_table(self.outcomes, self.validation)


def sweep_layers(
    model: ChatModel,
    prompts: PromptSet,
    validation: PromptSet | None = None,
    *,
    layers: Iterable[int] | None = None,
    alphas: Sequence[float] = (1.0,),
    seeds: Sequence[int] = (0,),
    settings: FinetuneConfig | None = None,
    tokens: RefusalTokens | None = None,
    judge_best: int = 0,
    judge: Judge | None = None,
    new_tokens: int = 64,
    folder: str | Path | None = None,
    engine: str = "local",
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
        layers: In the order to try them, the first of equals wins; all of them unless given.
        alphas: Tried at each layer.
        seeds: Tried with each alpha.
        settings: The rest of every fine-tune; layer, alpha and seed in it are replaced.
        tokens: How the model begins refusals; found from the validation prompts unless given.
        judge_best: For how many of the best cells whole replies to the validation prompts are
            judged too. Replies need the keys and values of the blocks below, so these begin from
            the tokens.
        judge: Of these replies; the keyword judge unless given.
        new_tokens: Longest of these replies.
        folder: Where outcomes and the best run are kept as they come; a sweep that was cut short
            goes on from there.
        engine: ``"local"``, or ``"ray"`` to spread the cells over a Ray cluster.
        store: Where block inputs are kept: True is the default store, False none. What no store
            holds and memory does not either is collected for some layers at a time.
        on_step: Told of every training step (local engine).
        on_outcome: Told of every cell.
        should_stop: Asked before every training step (local engine).

    Raises:
        UserError: If a setting is not allowed, prompts are missing, every cell failed, or the
            folder holds another sweep.
        KeyboardInterrupt: If interrupted; outcomes so far are in the folder.
    """
    cells = _grid(model, layers, alphas, seeds)
    shared = replace(settings or FinetuneConfig(layer=0), layer=cells[0].layer)
    for cell in cells:
        check_config(model, cell.settings(shared), validation)
    require_labels(prompts, _MIN_PROMPTS)
    if engine not in ENGINES:
        raise UserError(f"engine '{engine}' is not known; use one of {', '.join(ENGINES)}")
    if validation is not None and not len(validation):
        raise UserError("the validation prompts are empty; leave them out to rank by loss")
    if validation is not None:
        tokens = tokens or refusal_tokens(model, validation)
    work = SweepWork(model, prompts, validation, shared, tokens, store)
    notes = None
    if folder is not None:
        notes = OutcomeFile(Path(folder) / OUTCOMES_FILE, work.about())
    tally = _Tally(cells, notes, on_outcome, work)
    todo = [cell for cell in cells if cell not in tally.outcomes]
    if engine == "ray":
        from actor_lens.experiments.sweep.workers import ray_outcomes

        results: Iterator[tuple[CellOutcome, TrainingRun | None]]
        results = ((outcome, None) for outcome in ray_outcomes(work, todo))
    else:
        results = work.run(todo, on_step, should_stop)
    with stage("layers tried", len(cells)) as done:
        for outcome, run in results:
            tally.add(outcome, run, None if folder is None else Path(folder))
            done(len(tally.outcomes))
    if all(outcome.status == "failed" for outcome in tally.outcomes.values()):
        first = tally.outcomes[cells[0]]
        raise UserError(f"no layer could be trained; the first: {first.message}")
    if judge_best and validation is not None:
        tally.judge(judge_best, judge, new_tokens)
    best = tally.best_run(None if folder is None else Path(folder))
    if validation is not None and not work.refused_before:  # every cell was noted before
        work.refused_before = _untrained_shares(model, validation, tokens)
    return LayerSweep(
        outcomes=tuple(tally.outcomes[cell] for cell in cells),
        best=best,
        refused_before=work.refused_before,
        validation={} if validation is None else validation.counts(),
        model_name=model.name,
        seconds=work.seconds,
    )


@dataclass(eq=False)
class _Tally:
    """Outcomes so far, and the weights of the best one."""

    cells: Sequence[SweepCell]
    notes: OutcomeFile | None
    on_outcome: Callable[[CellOutcome], None] | None
    work: SweepWork

    def __post_init__(self) -> None:
        noted = {} if self.notes is None else self.notes.outcomes
        self.outcomes = {cell: noted[cell] for cell in self.cells if cell in noted}
        self._kept: TrainingRun | None = None

    def add(self, outcome: CellOutcome, run: TrainingRun | None, folder: Path | None) -> None:
        """Take in what came of a cell; the best run is saved before its outcome is noted."""
        self.outcomes[outcome.cell] = outcome
        if run is not None and _best(self._in_order()).cell == outcome.cell:
            self._kept = run
            if folder is not None:
                run.save(folder / BEST_FOLDER)
        self._note(outcome)

    def judge(self, count: int, judge: Judge | None, new_tokens: int) -> None:
        """Judge whole replies for the best cells that were not judged yet."""
        assert self.work.validation is not None
        judge = with_tokens(judge or KeywordJudge(), self.work.tokens)
        for cell, outcome in self.outcomes.items():
            if outcome.reply_judge != judge.identity:  # noted by another judge: not comparable
                self.outcomes[cell] = replace(outcome, reply_refused={}, reply_judge="")
        ranked = sorted(self._in_order(), key=lambda outcome: outcome.rank, reverse=True)
        chosen = [outcome for outcome in ranked[:count] if outcome.status != "failed"]
        with stage("replies of the best", len(chosen)) as done:
            for number, outcome in enumerate(chosen):
                if not outcome.reply_refused:
                    with self._run_of(outcome.cell).applied_to(self.work.model):
                        evaluation = evaluate(
                            self.work.model,
                            self.work.validation,
                            judge=judge,
                            tokens=self.work.tokens,
                            new_tokens=new_tokens,
                        )
                    shares = _shares(evaluation)
                    outcome = replace(outcome, reply_refused=shares, reply_judge=evaluation.judge)
                    self.outcomes[outcome.cell] = outcome
                    self._note(outcome)
                done(number + 1)

    def best_run(self, folder: Path | None) -> TrainingRun:
        """The run of the best cell, trained again where its weights were not kept."""
        cell = _best(self._in_order()).cell
        run = self._run_of(cell, None if folder is None else folder / BEST_FOLDER)
        if folder is not None and run is not self._kept:
            run.save(folder / BEST_FOLDER)
        return run

    def _in_order(self) -> list[CellOutcome]:
        return [self.outcomes[cell] for cell in self.cells if cell in self.outcomes]

    def _run_of(self, cell: SweepCell, saved: Path | None = None) -> TrainingRun:
        settings = cell.settings(self.work.shared)
        if self._kept is not None and self._kept.config == settings:
            return self._kept
        if saved is not None and saved.is_dir():
            try:
                run = TrainingRun.load(saved)
                run.check_belongs_to(self.work.model)
                if run.config == settings and run.state:
                    return run
            except UserError:  # cut short while it was saved: trained again below
                pass
        ((_, trained),) = self.work.run([cell])
        assert trained is not None
        self._kept = trained
        return trained

    def _note(self, outcome: CellOutcome) -> None:
        if self.notes is not None:
            self.notes.add(outcome)
        if self.on_outcome is not None:
            self.on_outcome(outcome)


def _grid(
    model: ChatModel,
    layers: Iterable[int] | None,
    alphas: Sequence[float],
    seeds: Sequence[int],
) -> list[SweepCell]:
    chosen = range(model.n_layers) if layers is None else [model.check_layer(x) for x in layers]
    cells = [
        SweepCell(layer, float(alpha), int(seed))
        for layer in chosen
        for alpha in alphas
        for seed in seeds
    ]
    if not cells:
        raise UserError("a sweep needs at least one layer, one alpha and one seed")
    return list(dict.fromkeys(cells))


def _best(outcomes: Sequence[CellOutcome]) -> CellOutcome:
    """The first of the best; cells whose replies were judged go before others."""
    judged = [outcome for outcome in outcomes if outcome.reply_refused]
    return max(judged or outcomes, key=lambda outcome: outcome.rank)


def _untrained_shares(
    model: ChatModel, validation: PromptSet, tokens: RefusalTokens | None
) -> dict[str, float]:
    scores = refusal_scores(model, validation.texts, tokens or refusal_tokens(model, validation))
    refused = [bool(score > 0) for score in scores]
    groups: dict[str, list[bool]] = {}
    for label, hit in zip(validation.labels, refused, strict=True):
        groups.setdefault(label, []).append(hit)
    return {label: sum(hits) / len(hits) for label, hits in groups.items()}


def _shares(evaluation: Evaluation) -> dict[str, float]:
    present = [label for label in LABELS if label in evaluation.prompts.labels]
    return {label: rate.refused for label in present if (rate := evaluation.rate(label)).n}


def outcome_table(outcomes: Sequence[CellOutcome], validation: Mapping[str, int]) -> pd.DataFrame:
    """One row a cell, as in ``LayerSweep.frame``, also while a sweep runs.

    Args:
        outcomes: So far.
        validation: Number of validation prompts of each label.
    """
    import pandas as pd

    return pd.DataFrame([_row(outcome, validation) for outcome in outcomes])


def _row(outcome: CellOutcome, counts: Mapping[str, int]) -> dict[str, Any]:
    refused = outcome.refused
    compliance = 1 - refused.get("pseudo_harmful", _NAN)
    safety = refused.get("harmful", _NAN)
    row: dict[str, Any] = {
        **asdict(outcome.cell),
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
