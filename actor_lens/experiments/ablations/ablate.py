"""The paper's ablations: what a fine-tune does when one thing about it is changed.

Every value is tried with several seeds, which draw the training prompts and order them, and is
judged by whole replies to the test prompts. The target layer of all studies but that of layers is
chosen beforehand on validation prompts, never on those that are reported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actor_lens.activations.store import Store
from actor_lens.errors import UserError
from actor_lens.experiments.ablations.grid import (
    ALPHAS,
    STUDIES,
    AblationCell,
    Variation,
    kinds_of,
    variations,
)
from actor_lens.experiments.ablations.trial import (
    AblationOutcome,
    AblationTask,
    outcome_of,
    run_cells,
    store_folder,
)
from actor_lens.experiments.comparison.trial import judge_for
from actor_lens.experiments.sweep.cells import OutcomeFile
from actor_lens.experiments.sweep.layer_sweep import sweep_layers
from actor_lens.methods import make_method
from actor_lens.models.chat_model import ChatModel
from actor_lens.progress import stage
from actor_lens.prompts.sets import PromptSet
from actor_lens.results import versions
from actor_lens.statistics.intervals import UNKNOWN, Estimate, wilson_interval
from actor_lens.statistics.rates import tradeoff_estimate
from actor_lens.training.config import FinetuneConfig
from actor_lens.training.finetuning import check_config

if TYPE_CHECKING:
    import pandas as pd

OUTCOMES_FILE = "ablations.jsonl"
LAYER_FOLDER = "layer-choice"
_SPLITS = ("test", "ood")
_NAN = float("nan")
_SCORES = ("compliance_rate", "safety_score", "tradeoff_score", "benign_refused")


@dataclass(frozen=True, eq=False)
class Ablations:
    """What came of every cell.

    Attributes:
        outcomes: Study by study, value by value, seed by seed.
        layer: The target layer of all studies but ``layer``.
        layer_reason: How it was chosen.
        about: ``model``, ``prompts``, ``judge``, ``new_tokens``, ``seeds``, ``settings`` and
            ``versions``, for a report.
        complete: False where the user has stopped; the rest is missing.
    """

    outcomes: tuple[AblationOutcome, ...]
    layer: int
    layer_reason: str
    about: Mapping[str, Any]
    complete: bool = True

    @property
    def studies(self) -> tuple[str, ...]:
        """Names of the studies that there are outcomes of."""
        return tuple(dict.fromkeys(outcome.cell.study for outcome in self.outcomes))

    def frame(self) -> pd.DataFrame:
        """One row a cell and split.

        Columns: ``study``, ``series`` (what varies), ``value``, ``number`` (NaN where the value is
        none), ``method``, ``seed``, ``split``, ``status``, ``message``; ``compliance_rate``,
        ``safety_score``, ``tradeoff_score`` and ``benign_refused``, each with ``_low`` and
        ``_high`` (95 %: Wilson, MOVER for the trade-off score); ``n_pseudo_harmful``,
        ``n_harmful``, ``n_benign``; ``train_harmful``, ``train_pseudo_harmful``,
        ``train_benign`` (training prompts), ``train_seconds``, ``evaluate_seconds``.
        """
        import pandas as pd

        rows = [_row(one, split) for one in self.outcomes for split in _splits(self.outcomes)]
        return pd.DataFrame(rows)

    def means(self) -> pd.DataFrame:
        """One row a value and split, over the seeds.

        Columns: ``study``, ``series``, ``value``, ``number``, ``method``, ``split``, ``seeds``
        (that were completed), and for each score ``<score>``, ``<score>_sd`` (standard deviation,
        NaN for one seed), ``<score>_min`` and ``<score>_max``.
        """
        import pandas as pd

        table = self.frame()
        table = table[table["status"] != "failed"]
        keys = ["study", "series", "value", "method", "split"]
        rows = []
        for names, part in table.groupby(keys, sort=False):
            row: dict[str, Any] = {
                **dict(zip(keys, map(str, names), strict=True)),
                "number": part["number"].iloc[0],
                "seeds": len(part),
            }
            for score in _SCORES:
                row[score] = part[score].mean()
                row[f"{score}_sd"] = part[score].std()
                row[f"{score}_min"], row[f"{score}_max"] = part[score].min(), part[score].max()
            rows.append(row)
        return pd.DataFrame(rows)

    def matrix(self) -> pd.DataFrame:
        """The study ``transfer``: one row a kind trained on and a kind tested on, over the seeds.

        Columns: ``trained_on``, ``tested_on``, ``split``, ``compliance_rate`` (mean over the
        seeds), ``compliance_rate_sd``, ``low`` and ``high`` (Wilson 95 % for the prompts), ``n``
        (prompts), ``seeds``.
        """
        import pandas as pd

        shares: dict[tuple[str, str, str], list[tuple[int, int]]] = {}
        for one in self.outcomes:
            if one.cell.study != "transfer" or one.status == "failed":
                continue
            for split, kinds in one.kinds.items():
                for kind, (refused, n) in kinds.items():
                    shares.setdefault((one.cell.value, kind, split), []).append((refused, n))
        rows = []
        for (trained_on, tested_on, split), pairs in shares.items():
            answered = pd.Series([1 - refused / n for refused, n in pairs])
            n = pairs[0][1]
            low, high = wilson_interval(float(answered.mean()) * n, n)
            rows.append(
                {
                    "trained_on": trained_on,
                    "tested_on": tested_on,
                    "split": split,
                    "compliance_rate": answered.mean(),
                    "compliance_rate_sd": answered.std(),
                    **{"low": low, "high": high, "n": n, "seeds": len(pairs)},
                }
            )
        return pd.DataFrame(rows, columns=_MATRIX_COLUMNS)


_MATRIX_COLUMNS = [
    *("trained_on", "tested_on", "split", "compliance_rate", "compliance_rate_sd"),
    *("low", "high", "n", "seeds"),
]


def ablate(
    model: ChatModel,
    prompts: PromptSet,
    study: str | Sequence[str] = "all",
    *,
    seeds: Sequence[int] = (0, 1, 2),
    layer: int | None = None,
    alphas: Sequence[float] = ALPHAS,
    settings: FinetuneConfig | None = None,
    per_label: int = 60,
    test_per_label: int | Mapping[str, int] | None = None,
    anchor_methods: Sequence[str] = (),
    judge: Any = None,
    new_tokens: int = 64,
    jobs: int = 1,
    folder: str | Path | None = None,
    store: Store | bool = True,
    on_outcome: Callable[[AblationOutcome], None] | None = None,
) -> Ablations:
    """Run studies; each changes one thing about the fine-tune of one layer.

    ``layer``: the block that is trained. ``alpha``: how far targets lie. ``counts``: fewer benign
    or pseudo-harmful training prompts. ``transfer``: pseudo-harmful training prompts of one kind,
    tested on every kind. ``anchors``: harmful training prompts, and with them R, of one source at
    a time. ``shift``: projected or uniform. ``origin`` and ``anchor``: of targets.

    Ctrl-C ends the work with the cells that are done (``complete`` is then False).

    Args:
        model: Left as it is.
        prompts: With train, validation and test splits; ``ood`` prompts are asked too.
        study: One of ``STUDIES``, or several; ``"all"`` for all of them. Without categories among
            the pseudo-harmful prompts, ``"all"`` leaves ``transfer`` out.
        seeds: Each draws training prompts of its own.
        layer: Target layer of all studies but ``layer``; chosen unless given, by a sweep over the
            layers on validation prompts.
        alphas: Of the study ``alpha``.
        settings: The rest of every fine-tune; its layer and seed are replaced.
        per_label: Training prompts of each label where a study does not say otherwise.
        test_per_label: Most prompts of each label and split to ask; None for all.
        anchor_methods: Methods that go through the study ``anchors`` beside ACTOR.
        judge: Keyword judge unless given.
        new_tokens: Longest reply, in tokens.
        jobs: Processes; with more than one each loads the model itself.
        folder: Keeps every outcome; work that was cut short goes on from there.
        store: Where block inputs are kept for the next cell: True is the default store, False none.
        on_outcome: Told of every outcome.

    Raises:
        UserError: If a study or method is not known, a setting is not allowed, a split is empty,
            prompts have no categories for a study, ``folder`` holds other ablations, or a process
            died.
        KeyboardInterrupt: If interrupted before any cell was done.
    """
    train, validation, tested = prompts.for_experiment(test_per_label=test_per_label)
    if not seeds or jobs < 1:
        raise UserError("give at least one seed and at least one job")
    grid = _grid(_studies(study, train), train, model.n_layers, per_label, alphas, seeds)
    grid = {**grid, **_beside(grid, anchor_methods)}
    shared = settings or FinetuneConfig(layer=0)
    check_config(model, shared, None)  # else every cell would fail of it
    reason = "it was named"
    if layer is None:
        layer, reason = _choose_layer(
            model, train.sample(per_label, seed=seeds[0]), validation, shared, folder, store
        )
    shared = replace(shared, layer=model.check_layer(layer), seed=0)
    task = AblationTask(
        *(train, validation, tested, shared, per_label),
        judge=judge_for(model, judge, validation),
        new_tokens=new_tokens,
        store=store_folder(store),
    )
    notes = None
    if folder is not None:
        notes = OutcomeFile(Path(folder) / OUTCOMES_FILE, task.about(model), outcome_of)
    done = {} if notes is None else {c: o for c, o in notes.outcomes.items() if c in grid}
    todo = [(cell, variation) for cell, variation in grid.items() if cell not in done]
    complete = True
    try:
        with stage("ablations", len(grid)) as count:
            for outcome in run_cells(task, model, todo, jobs):
                done[outcome.cell] = outcome
                if notes is not None:
                    notes.add(outcome)
                if on_outcome is not None:
                    on_outcome(outcome)
                count(len(done))
    except KeyboardInterrupt:
        if not done:
            raise
        complete = False
    outcomes = tuple(done[cell] for cell in grid if cell in done)
    return Ablations(outcomes, layer, reason, _about(task, model, prompts, seeds), complete)


def _studies(study: str | Sequence[str], train: PromptSet) -> list[str]:
    if study == "all":
        kinds = kinds_of(train, "pseudo_harmful")
        return [name for name in STUDIES if name != "transfer" or kinds]
    return list(dict.fromkeys([study] if isinstance(study, str) else study))


def _grid(
    studies: Sequence[str],
    train: PromptSet,
    n_layers: int,
    per_label: int,
    alphas: Sequence[float],
    seeds: Sequence[int],
) -> dict[AblationCell, Variation]:
    grid = {
        AblationCell(study, variation.series, variation.value, seed): variation
        for study in studies
        for variation in variations(study, train, n_layers, per_label, alphas)
        for seed in seeds
    }
    if not grid:
        raise UserError(f"no studies to run; give one or more of: {', '.join(STUDIES)}")
    return grid


def _beside(
    grid: Mapping[AblationCell, Variation], methods: Sequence[str]
) -> dict[AblationCell, Variation]:
    """Cells of other methods in the study of anchors.

    Raises:
        UserError: If a method is not known, or that study is not among those of the grid.
    """
    for method in methods:  # before any work, and not as a failure of every cell
        make_method(method)
    if methods and not any(cell.study == "anchors" for cell in grid):
        raise UserError(
            f"{', '.join(methods)} can stand beside ACTOR in the study 'anchors' only; add it to "
            "the studies"
        )
    return {
        replace(cell, method=method): variation
        for method in methods
        for cell, variation in grid.items()
        if cell.study == "anchors" and method != "actor"
    }


def _choose_layer(
    model: ChatModel,
    train: PromptSet,
    validation: PromptSet,
    shared: FinetuneConfig,
    folder: str | Path | None,
    store: Store | bool,
) -> tuple[int, str]:
    kept = None if folder is None else Path(folder) / LAYER_FOLDER
    sweep = sweep_layers(model, train, validation, settings=shared, folder=kept, store=store)
    return sweep.best.layer, sweep.reason


def _about(
    task: AblationTask, model: ChatModel, prompts: PromptSet, seeds: Sequence[int]
) -> dict[str, Any]:
    return {
        "model": model.name,
        "prompts": prompts.name,
        "judge": task.judge.identity,
        "new_tokens": task.new_tokens,
        "decoding": "greedy",
        "seeds": list(seeds),
        "per_label": task.per_label,
        "settings": {name: getattr(task.shared, name) for name in _SHOWN_SETTINGS},
        "device": str(model.device),
        "dtype": str(model.hf.dtype).removeprefix("torch."),
        "versions": versions(),
    }


_SHOWN_SETTINGS = ("layer", "alpha", "origin", "anchor", "shift", "epochs", "lr", "batch_size")


def _splits(outcomes: Sequence[AblationOutcome]) -> list[str]:
    present = {split for outcome in outcomes for split in outcome.refused}
    return [split for split in _SPLITS if split in present] or ["test"]


def _row(outcome: AblationOutcome, split: str) -> dict[str, Any]:
    answered = _share(outcome, split, "pseudo_harmful")
    answered = Estimate(1 - answered[0], 1 - answered[2], 1 - answered[1], answered[3])
    safe, benign = _share(outcome, split, "harmful"), _share(outcome, split, "benign")
    cell = outcome.cell
    row: dict[str, Any] = {
        **{"study": cell.study, "series": cell.series, "value": cell.value},
        **{"number": outcome.number, "method": cell.method, "seed": cell.seed, "split": split},
        **{"status": outcome.status, "message": outcome.message},
    }
    found = (answered, safe, tradeoff_estimate(answered, safe), benign)
    for name, score in zip(_SCORES, found, strict=True):
        row |= {name: score[0], f"{name}_low": score[1], f"{name}_high": score[2]}
    counts = {"pseudo_harmful": answered[3], "harmful": safe[3], "benign": benign[3]}
    row |= {f"n_{label}": n for label, n in counts.items()}
    row |= {f"train_{label}": outcome.train_prompts.get(label, 0) for label in counts}
    return row | {f"{name}_seconds": outcome.seconds.get(name, _NAN) for name in _SECONDS}


_SECONDS = ("train", "evaluate")


def _share(outcome: AblationOutcome, split: str, label: str) -> Estimate:
    """Share refused with its interval, and the number of prompts."""
    refused, n = outcome.refused.get(split, {}).get(label, (0, 0))
    if not n:
        return UNKNOWN
    return Estimate(refused / n, *wilson_interval(refused, n), n)
