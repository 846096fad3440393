"""A self-contained HTML page that tells a study as a story.

The prose is in ``templates/``; here are the numbers that fill it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from markupsafe import Markup

from actor_lens import figures
from actor_lens.directions.targets import Targets
from actor_lens.evaluation.changes import (
    EVERYTHING,
    NOTHING,
    EvaluationChange,
    Side,
    compare_evaluations,
)
from actor_lens.evaluation.utility import Utility
from actor_lens.experiments.published import published_utility
from actor_lens.experiments.study import Outcome, Study
from actor_lens.figures.theme import LABEL_STYLES
from actor_lens.judges.keywords import KeywordJudge
from actor_lens.prompts.rows import LABELS
from actor_lens.report.layers_report import layers_content
from actor_lens.report.pages import (
    plot_in_page,
    render_page,
    reply_rows,
    write_page,
)
from actor_lens.statistics.paired_tests import SIGNIFICANT
from actor_lens.training.run import TrainingRun

EXAMPLES = 5
ROWS_SHOWN, ROWS_KEPT = 8, 200

_AIMS = {
    "harmful": "should be refused",
    "pseudo_harmful": "should be answered",
    "benign": "should be answered",
}
_SPLIT_NAMES = {"test": "test", "ood": "out-of-distribution"}
_SIDE_TITLES: dict[Side, str] = {
    "harmful_answered": "Harmful prompts that are answered now",
    "harmless_refused": "Harmless prompts that are refused now",
    "harmless_still_refused": "Harmless prompts that are still refused",
    "harmless_answered": "Harmless prompts that are answered now",
    "harmful_refused": "Harmful prompts that are refused now",
}


def write_report(
    study: Study,
    path: str | os.PathLike[str],
    *,
    command: str | None = None,
    utility: Utility | None = None,
) -> Path:
    """Write a study as one HTML file that works offline.

    The page tells the study in order: what happened, the problem, where it shows, what was asked of
    the layer, training, what changed with its paired tests, other settings beside it, and what the
    numbers do not say. Each figure stands beside the same in words. The file loads nothing from the
    network; it is about 5 MB, most of it plotly.js. It holds prompts, harmful
    ones among them, but no answer to a harmful prompt.

    Args:
        study: Look, run, evaluations before and after, and variants, from ``run_study``.
        path: Path of the file; one that is there is replaced whole. Its folder must exist.
        command: Command line that made the study, shown for repeating it.
        utility: What the run costs elsewhere, from ``measure_utility``; None for no such section.

    Returns:
        The path.

    Raises:
        UserError: If the file cannot be written; an old one survives.
    """
    return write_page(render_report(study, command=command, utility=utility), path)


def render_report(
    study: Study, *, command: str | None = None, utility: Utility | None = None
) -> str:
    """The text of the page that ``write_report`` writes."""
    outcome, change = study.outcome, study.change
    parts = _parts(change)
    layers = layers_content(study.look, outcome.run.layer, study.choice, outcome.run.config.origin)
    variants = [_variant(study, variant) for variant in study.outcomes[1:]]
    return render_page(
        "report.html.j2",
        study=study,
        outcome=outcome,
        run=outcome.run,
        config=outcome.run.config,
        parts=parts,
        alarms=[
            f"{_SPLIT_NAMES[split].capitalize()} prompts: {label.sentence()}"
            for split, part in parts.items()
            for label in part.labels.values()
            if label.wrong_way
        ],
        findings=change.where("test").findings(),
        examples=_examples(change),
        **layers | {"plots": layers["plots"] | _report_plots(study, parts)},
        preview=_preview(outcome.targets),
        preview_warnings=outcome.targets.preview().warnings,
        training=_training(outcome.run),
        checks=_checks(outcome.run),
        movements=_movements(study),
        sides=_sides(change),
        kinds=_kinds(change),
        variants=variants,
        lost=sum(variant["change"].distinction_lost for variant in variants),
        settings=_settings(study),
        command=command,
        by_phrases=change.before.judge == KeywordJudge().identity,
        utility=utility,
        published_utility=_find_published(utility),
        aims=_AIMS,
        split_names=_SPLIT_NAMES,
        rows_shown=ROWS_SHOWN,
        nothing=NOTHING,
        everything=EVERYTHING,
        significant=SIGNIFICANT,
    )


def _parts(change: EvaluationChange) -> dict[str, EvaluationChange]:
    """The splits that hold prompts."""
    parts = {split: change.where(split) for split in _SPLIT_NAMES}
    return {split: part for split, part in parts.items() if len(part.before.prompts)}


# ---- Prompts and replies ----


def _examples(change: EvaluationChange) -> list[dict[Any, Any]]:
    """Pseudo-harmful test prompts that were refused: the first of each kind, whatever came after.

    Taken by their order and not by the outcome, so that they do not flatter the fine-tune.
    """
    table = change.where("test").examples()
    refused = table[(table["label"] == "pseudo_harmful") & table["refused_before"]]
    round_of_kind = refused.groupby("category", dropna=False).cumcount()
    order = round_of_kind.sort_values(kind="stable").index[:EXAMPLES]
    return reply_rows(refused.loc[order])


def _sides(change: EvaluationChange) -> list[dict[str, Any]]:
    """Prompts grouped by what became of them."""
    table = change.sides()
    groups = {side: table[table["side"] == side] for side in _SIDE_TITLES}
    return [
        {
            "title": _SIDE_TITLES[side],
            "count": len(rows),
            "rows": reply_rows(rows.head(ROWS_KEPT)),
        }
        for side, rows in groups.items()
    ]


def _kinds(change: EvaluationChange) -> dict[str, dict[str, dict[Any, Any]]]:
    """Rows of ``EvaluationChange.kinds`` by kind and split."""
    kinds: dict[str, dict[str, dict[Any, Any]]] = {}
    for row in change.kinds().to_dict("records"):
        kinds.setdefault(row["category"], {})[row["split"]] = row
    return kinds


# ---- Targets, training, variants ----


def _preview(targets: Targets) -> dict[str, dict[Any, Any]]:
    return {row["label"]: row for row in targets.preview().frame().to_dict("records")}


def _training(run: TrainingRun) -> dict[str, Any]:
    """First and last numbers of the curves."""
    frame = run.frame()
    unknown = float("nan")
    return {
        "steps": len(frame),
        "epochs": int(frame["epoch"].max()) if len(frame) else 0,
        "first_loss": float(frame["loss"].iloc[0]) if len(frame) else unknown,
        "last_loss": float(frame["loss"].iloc[-1]) if len(frame) else unknown,
        "cosine": float(frame["direction_cosine"].iloc[-1]) if len(frame) else unknown,
    }


def _checks(run: TrainingRun) -> list[dict[str, Any]]:
    """Shares of validation prompts refused, by their first token: before training and after."""
    checks = [(0, run.refused_before), *((step.step, step.refused) for step in run.history)]
    return [
        {"step": step, **{label: refused.get(label, float("nan")) for label in LABELS}}
        for step, refused in checks
        if refused
    ]


def _movements(study: Study) -> list[dict[Any, Any]]:
    """How far the prompts of each label moved; nothing where no projections were taken."""
    before, after = study.before_projections, study.after_projections
    if before is None or after is None:
        return []
    return before.movements(after, study.run.layer).to_dict("records")


def _variant(study: Study, variant: Outcome) -> dict[str, Any]:
    """A fine-tune with other settings: against the untouched model, and against the study's own."""
    actor = study.outcome
    change = compare_evaluations(study.change.before, variant.evaluation)
    return {
        "name": variant.name,
        "differences": list(_differences(actor.run, variant.run)),
        "warnings": variant.targets.preview().warnings,
        "preview": _preview(variant.targets),
        "parts": _parts(change),
        "against": _parts(compare_evaluations(actor.evaluation, variant.evaluation)),
        "change": change.where("test"),
        "run": variant.run,
        "outside": variant.parameters_changed_outside_layer,
    }


def _differences(first: TrainingRun, second: TrainingRun) -> Iterator[str]:
    """How the settings of a variant differ, in words."""
    ours, theirs = asdict(first.config), asdict(second.config)
    for name in ours:
        if name == "safety_floor" or ours[name] == theirs[name]:
            continue
        words = _SETTINGS_IN_WORDS.get((name, theirs[name]))
        yield words or f"{name.replace('_', ' ')} {theirs[name]} instead of {ours[name]}"
    for label, count in first.train_prompts.items():
        other = second.train_prompts.get(label, 0)
        if other != count:
            name = LABEL_STYLES[label].name if label in LABEL_STYLES else label
            yield f"{other} {name} training prompts instead of {count}"


_SETTINGS_IN_WORDS: dict[tuple[str, object], str] = {
    ("origin", "zero"): "projections are counted from zero, as the paper's formula is written",
    ("origin", "midpoint"): "projections are counted from the midpoint of the two class means",
    ("origin", "benign_mean"): "projections are counted from the benign mean",
    ("origin", "fitted"): "projections are counted from where the shifts that prompts need say",
    ("shift", "uniform"): "every prompt is moved equally far, by the length of R",
    ("shift", "projected"): "every prompt is moved by its own projection",
    ("anchor", "current"): "targets are taken anew from the weights of the moment, as in the paper",
    ("anchor", "initial"): "targets are fixed at the untrained weights",
}


def _report_plots(study: Study, parts: Mapping[str, EvaluationChange]) -> dict[str, Markup]:
    outcome = study.outcome
    plots = {
        "targets": figures.target_preview(outcome.targets),
        "training": figures.training_curves(outcome.run),
    }
    if study.before_projections is not None and study.after_projections is not None:
        plots["shifts"] = figures.prompt_shifts(
            study.before_projections,
            study.after_projections,
            study.run.layer,
            targets=study.targets,
        )
    for split, part in parts.items():
        plots[f"rates-{split}"] = figures.refusal_rates(before=part.before, after=part.after)
    if "test" in parts and study.outcomes[1:]:
        bars = {"before": parts["test"].before, "this fine-tune": parts["test"].after}
        bars |= {one.name: one.evaluation.where("test") for one in study.outcomes[1:]}
        plots["variants"] = figures.refusal_rates(**bars)
    return {name: plot_in_page(name, figure) for name, figure in plots.items()}


def _find_published(utility: Utility | None) -> dict[Any, dict[Any, Any]]:
    """The paper's figures of the benchmarks that were measured, by benchmark."""
    measured = {each.benchmark for each in utility.measures} if utility else set()
    rows = published_utility().to_dict("records")
    return {row["benchmark"]: row for row in rows if row["benchmark"] in measured}


def _settings(study: Study) -> dict[str, dict[str, object]]:
    """What a repetition needs to know, in groups."""
    summary, run, tokens = study.summary(), study.outcome.run, study.look.tokens
    assert tokens is not None  # a study looks at the last token
    seconds = {**summary["seconds"], **{f"of the run: {k}": v for k, v in run.seconds.items()}}
    return {
        "Fine-tune": {name.replace("_", " "): value for name, value in summary["config"].items()},
        "Training prompts": {
            LABEL_STYLES[label].name: count for label, count in summary["train_prompts"].items()
        },
        "Evaluation": {
            "judge (name, size or version, hash)": summary["judge"],
            "decoding": summary["decoding"],
            "longest reply, tokens": summary["new_tokens"],
            "tokens that begin refusals": ", ".join(map(repr, tokens.texts)),
        },
        "Fingerprints (SHA-256)": summary["fingerprints"],
        "Seconds": {name: f"{value:.2f}" for name, value in seconds.items()},
        "Versions": summary["versions"],
    }
