"""The command ``ablate``: what each part of the fine-tune does.

One thing about the fine-tune is changed at a time (the layer, alpha, the number and the sources of
training prompts, shift, origin, anchor), each with several seeds, and the test prompts are asked.
Tables on the screen give means over the seeds with the lowest and the highest.

Files in ``--out``:
    ablations.jsonl: Every finished cell; the same command goes on from there, with the same
        settings. ``--overwrite`` starts anew.
    layer-choice: The sweep that chose the layer, where ``--layer`` did not name one.
    ablations.csv, means.csv, matrix.csv: Every cell; means over seeds; which kind of training
        prompt helps on which kind of test prompt.
    ablations.html: The figures, offline.
    summary.json: The record that ``--json`` prints.

Ctrl-C ends the work after the cells that are done: they are shown and written, and the exit code is
130. Answers of the model are written nowhere.

Examples:
    actor-lens ablate --out ablations
    actor-lens ablate --factors alpha,shift --seeds 0,1,2 --out ablations
    actor-lens ablate --factors small-alpha --layer 4 --out small-alpha
    actor-lens ablate --layer 4 --per-label 30 --jobs 2 --json
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING, Any

from actor_lens.cli.arguments import (
    add_command,
    add_common,
    add_count,
    add_flags,
    add_settings,
    settings_of,
)
from actor_lens.cli.inputs import load_anchors, load_model_and_prompts, open_judge, open_progress
from actor_lens.cli.printing import (
    give_results,
    print_published,
    print_table,
    say,
    score_cells,
    score_heads,
)
from actor_lens.cli.values import names
from actor_lens.cli.writing import check_complete, prepare_to_go_on
from actor_lens.experiments.ablations.grid import ALPHAS, FACTORS, WHOLE_STUDIES
from actor_lens.results import records

if TYPE_CHECKING:
    from actor_lens.experiments.ablations.results import Ablations


def add_commands(commands: Any) -> None:
    """Register ``ablate``."""
    text = "change one thing about the fine-tune at a time, with several seeds"
    parser = add_command(commands, "ablate", ablate, text)
    add_common(parser)
    parser.add_argument(
        "--factors",
        "--studies",
        default="all",
        metavar="all|A,..",
        help=f"{', '.join(FACTORS)}; default: all but {', '.join(WHOLE_STUDIES)}",
    )
    text = "each draws training prompts of its own"
    add_flags(parser, "--seeds", default="0,1,2", help=text)
    add_flags(parser, "--layer", help="target layer; default: auto, chosen by a sweep")
    alphas = ",".join(f"{alpha:g}" for alpha in ALPHAS)
    add_flags(parser, "--alphas", default=alphas, help="values of the factor alpha")
    add_settings(parser, "alpha", "epochs", "lr")
    add_count(parser, "--per-label", 60, "most training prompts of each label")
    add_flags(parser, "--test-per-label", "--anchors")
    add_count(parser, "--jobs", 1, "processes")
    add_flags(parser, "--judge", "--new-tokens")


def ablate(arguments: argparse.Namespace) -> None:
    """Run the ablations; a folder that holds some of them is continued.

    Raises:
        UserError: If a factor or setting is not known, or ``--out`` holds other ablations.
        StoppedError: If Ctrl-C left cells undone.
    """
    from actor_lens.experiments.ablations.ablate import LAYER_FOLDER, OUTCOMES_FILE
    from actor_lens.experiments.ablations.ablate import ablate as run_ablations
    from actor_lens.training.config import FinetuneConfig

    judge, out = open_judge(arguments), prepare_to_go_on(arguments, OUTCOMES_FILE, LAYER_FOLDER)
    anchors = load_anchors(arguments)
    with open_progress(arguments):
        model, prompts, _ = load_model_and_prompts(arguments)
        result = run_ablations(
            model,
            prompts,
            "all" if arguments.factors == "all" else names(arguments.factors),
            seeds=arguments.seeds,
            layer=arguments.layer,
            alphas=arguments.alphas,
            settings=FinetuneConfig(layer=0, **settings_of(arguments)),
            per_label=arguments.per_label,
            test_per_label=arguments.test_per_label,
            anchors=anchors,
            judge=judge,
            new_tokens=arguments.new_tokens,
            jobs=arguments.jobs,
            folder=out,
        )
    if out is not None:
        from actor_lens.report.ablation_report import write_ablations

        write_ablations(result, out / "ablations.html", command=arguments.command_line)
    tables = {
        "ablations.csv": result.frame,
        "means.csv": result.means,
        "matrix.csv": result.matrix,
        "published.csv": result.published,
    }
    show = partial(_print, result)
    give_results(arguments, out, result.summary(), tables, show, "ablations.html")
    check_complete(result.complete, out)


def _print(result: Ablations) -> None:
    """Print one table a series of cells, then the layer and the cells that did not work out."""
    means = [row for row in records(result.means()) if row["split"] == "test"]
    for series in dict.fromkeys(row["series"] for row in means):
        print_table(
            f"{series}: %, means (lowest-highest seed), test prompts",
            (series, *score_heads(result.safety_means), "benign", "seeds"),
            (_cells(row) for row in means if row["series"] == series),
        )
    print_published(result.published(), ("series", "value"), result.safety_means)
    say(f"Target layer {result.layer}: {result.layer_reason}.")
    for outcome in result.outcomes:
        if outcome.status != "completed":
            cell = outcome.cell
            say(
                f"{cell.series} {cell.value}, seed {cell.seed}: {outcome.status}: {outcome.message}"
            )


def _cells(row: dict[str, Any]) -> list[str]:
    """A row of means: the value with the scores."""
    return [row["value"], *score_cells(row, "_min", "_max"), str(row["seeds"])]
