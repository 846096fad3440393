"""The paper's ablations: what a fine-tune does when one thing about it is changed.

Every value is tried with several seeds, which draw the training prompts and order them, and is
judged by whole replies to the test prompts. The target layer of all ablations but that of layers is
chosen beforehand on validation prompts, never on those that are reported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from actor_lens.activations.store import Store
from actor_lens.errors import UserError
from actor_lens.experiments.ablations.grid import (
    ALPHAS,
    FACTORS,
    WHOLE_STUDIES,
    AblationCell,
    kinds_of,
    variations,
)
from actor_lens.experiments.ablations.results import Ablations
from actor_lens.experiments.ablations.trial import (
    AblationOutcome,
    AblationTask,
    run_cells,
    store_folder,
)
from actor_lens.experiments.comparison.trial import judge_for, provenance
from actor_lens.experiments.ledger import Ledger
from actor_lens.experiments.older_files import ablation_outcome, factor_of
from actor_lens.experiments.sweep.layer_sweep import sweep_layers
from actor_lens.files.paths import user_path
from actor_lens.judges.base import Judge
from actor_lens.models.chat_model import ChatModel
from actor_lens.progress import stage
from actor_lens.prompts.sets import PromptSet, check_anchors
from actor_lens.training.config import FinetuneConfig
from actor_lens.training.finetuning import check_config

OUTCOMES_FILE = "ablations.jsonl"
LAYER_FOLDER = "layer-choice"
_SHOWN_SETTINGS = ("layer", "alpha", "origin", "anchor", "shift", "epochs", "lr", "batch_size")


def ablate(
    model: ChatModel,
    prompts: PromptSet,
    factors: str | Sequence[str] = "all",
    *,
    seeds: Sequence[int] = (0, 1, 2),
    layer: int | None = None,
    alphas: Sequence[float] = ALPHAS,
    settings: FinetuneConfig | None = None,
    per_label: int = 60,
    test_per_label: int | Mapping[str, int] | None = None,
    anchors: PromptSet | None = None,
    judge: Judge | str | None = None,
    new_tokens: int = 64,
    jobs: int = 1,
    folder: str | Path | None = None,
    store: Store | bool = True,
    on_outcome: Callable[[AblationOutcome], None] | None = None,
) -> Ablations:
    """Run ablations; each changes one thing about the fine-tune of one layer.

    ``layer``: the block that is trained. ``alpha``: how far targets lie. ``counts``: fewer benign
    or pseudo-harmful training prompts. ``transfer``: pseudo-harmful training prompts of one kind,
    tested on every kind. ``harmful-prompts``: harmful training prompts, and with them R, of one
    source at a time. ``direction``: R alone, of one kind of harmful anchor at a time; training
    prompts stay the same. ``shift``: projected or uniform. ``origin`` and ``anchor``: of targets.
    ``small-alpha``: alpha from 1e-5 to 3 with moving targets, against learning rate, AdamW's
    epsilon, optimiser and number format, all at values of its own.

    Ctrl-C ends the work with the cells that are done (``complete`` is then False).

    Args:
        model: Left as it is.
        prompts: Prompts with train, validation and test splits; ``ood`` prompts are asked too.
        factors: Factors to vary: one of ``FACTORS``, or several; ``"all"`` for all of them but
            ``small-alpha``, and without categories among the pseudo-harmful prompts ``transfer``.
        seeds: Seeds, each of which draws training prompts of its own.
        layer: Target layer of all ablations but that of the layer; chosen unless given, by a sweep
            over the layers on validation prompts.
        alphas: Values of the factor ``alpha``.
        settings: All other settings of the fine-tunes; their layer and seed are replaced.
        per_label: Training prompts of each label where a factor does not say otherwise.
        test_per_label: Most prompts of each label and split to ask; None for all.
        anchors: Prompts that R is made of in every cell; None for the training prompts. The layer
            is chosen with them too.
        judge: Judge of the replies; the keyword judge unless given.
        new_tokens: Longest reply, in tokens.
        jobs: Processes; with more than one each loads the model itself.
        folder: Folder that keeps every outcome; work that was cut short goes on from there.
        store: Store of block inputs for the next cell: True is the default store, False none.
        on_outcome: Function called with every outcome.

    Raises:
        UserError: If a factor is not known, a setting is not allowed, a split is empty, anchors
            lack a label or are test prompts, prompts have no categories for a factor, ``folder``
            holds other ablations, or a process died.
        KeyboardInterrupt: If interrupted before any cell was done.
    """
    train, validation, tested = prompts.for_experiment(test_per_label=test_per_label)
    check_anchors(anchors, tested)
    if not seeds or jobs < 1:
        raise UserError("give at least one seed and at least one job")
    grid = {
        AblationCell(factor, variation.series, variation.value, seed): variation
        for factor in _names(factors, train)
        for variation in variations(factor, train, model.n_layers, per_label, alphas, anchors)
        for seed in seeds
    }
    if not grid:
        raise UserError(f"no ablations to run; give one or more of: {', '.join(FACTORS)}")
    shared = settings or FinetuneConfig(layer=0)
    check_config(model, shared, None)  # else every cell would fail of it
    reason = "it was named"
    if layer is None:
        sweep = sweep_layers(
            model,
            train.sample(per_label, seed=seeds[0]),
            validation,
            settings=shared,
            anchors=anchors,
            folder=None if folder is None else user_path(folder) / LAYER_FOLDER,
            store=store,
        )
        layer, reason = sweep.best.layer, sweep.reason
    task = AblationTask(
        train=train,
        validation=validation,
        tested=tested,
        shared=replace(shared, layer=model.check_layer(layer), seed=0),
        per_label=per_label,
        judge=judge_for(model, judge, validation),
        new_tokens=new_tokens,
        store=store_folder(store),
        anchors=anchors,
    )
    ledger = Ledger(
        None if folder is None else user_path(folder) / OUTCOMES_FILE,
        task.about(model),
        AblationOutcome,
        lambda outcome: outcome.cell,
        work="ablation",
        upgrade=ablation_outcome,
    )
    done = {cell: ledger.entries[cell] for cell in grid if cell in ledger.entries}
    todo = [(cell, variation) for cell, variation in grid.items() if cell not in done]
    complete = True
    try:
        with stage("ablations", len(grid)) as count:
            for outcome in run_cells(task, model, todo, jobs):
                done[outcome.cell] = outcome
                ledger.add(outcome)
                if on_outcome is not None:
                    on_outcome(outcome)
                count(len(done))
    except KeyboardInterrupt:
        if not done:
            raise
        complete = False
    return Ablations(
        outcomes=tuple(done[cell] for cell in grid if cell in done),
        layer=layer,
        layer_reason=reason,
        about={
            **provenance(model, task.judge, new_tokens, seeds),
            "prompts": prompts.name,
            **({} if anchors is None else {"anchors": anchors.name}),
            "per_label": per_label,
            "settings": {name: getattr(task.shared, name) for name in _SHOWN_SETTINGS},
        },
        complete=complete,
    )


def _names(factors: str | Sequence[str], train: PromptSet) -> list[str]:
    if factors == "all":
        kinds = kinds_of(train, "pseudo_harmful")
        left_out = WHOLE_STUDIES if kinds else (*WHOLE_STUDIES, "transfer")
        return [name for name in FACTORS if name not in left_out]
    names = [factors] if isinstance(factors, str) else factors
    return list(dict.fromkeys(map(factor_of, names)))
