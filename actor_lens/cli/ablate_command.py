"""The command ``ablate``: what each part of the fine-tune does."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actor_lens.cli.arguments import (
    add_command,
    add_common,
    add_replies,
    add_settings,
    integer,
    per_label,
    settings_of,
)
from actor_lens.cli.inputs import load_model_and_prompts, open_judge, open_progress
from actor_lens.cli.printing import print_json, print_table, print_written, say, score_cells
from actor_lens.cli.sweep_command import numbers, seeds
from actor_lens.cli.writing import StoppedError, prepare_to_go_on, write_csv, write_json
from actor_lens.results import records

if TYPE_CHECKING:
    from actor_lens.experiments.ablations.results import Ablations

_LARGEST_ALPHAS = "0.25,0.5,0.75,1,1.5,2"


def add_commands(commands: Any) -> None:
    """Register ``ablate``."""
    text = "change one thing about the fine-tune at a time, with several seeds"
    parser = add_command(commands, "ablate", ablate, text)
    add_common(parser)
    add = parser.add_argument
    add(
        "--factors",
        "--studies",
        default="all",
        metavar="all|A,..",
        help="layer, alpha, counts, transfer, harmful-prompts, shift, origin, anchor; default: all",
    )
    add(
        "--seeds",
        type=seeds,
        default=[0, 1, 2],
        metavar="N,..",
        help="each draws training prompts of its own; default: 0,1,2",
    )
    add("--layer", type=integer, metavar="N", help="target layer; default: chosen by a sweep")
    add(
        "--alphas",
        type=numbers,
        default=numbers(_LARGEST_ALPHAS),
        metavar="X,..",
        help=f"values of the factor alpha; default: {_LARGEST_ALPHAS}",
    )
    add_settings(parser, "epochs", "lr")
    add(
        "--per-label",
        type=integer,
        default=60,
        metavar="N",
        help="most training prompts of each label; default: 60",
    )
    add(
        "--test-per-label",
        type=per_label,
        metavar="N|all",
        help="most prompts of each label and split to ask; default: all",
    )
    add(
        "--anchor-methods",
        default="",
        metavar="A,B,..",
        help="methods beside ACTOR with the factor harmful-prompts; default: none",
    )
    add("--jobs", type=integer, default=1, metavar="N", help="processes; default: 1")
    add_replies(parser)


def ablate(arguments: argparse.Namespace) -> None:
    """Run the ablations; a folder that holds some of them is continued."""
    from actor_lens.experiments.ablations.ablate import LAYER_FOLDER, OUTCOMES_FILE
    from actor_lens.experiments.ablations.ablate import ablate as run_ablations
    from actor_lens.training.config import FinetuneConfig

    judge, out = open_judge(arguments), prepare_to_go_on(arguments, OUTCOMES_FILE, LAYER_FOLDER)
    model, prompts, _ = load_model_and_prompts(arguments)
    with open_progress(arguments):
        result = run_ablations(
            model,
            prompts,
            "all" if arguments.factors == "all" else _names(arguments.factors),
            seeds=arguments.seeds,
            layer=arguments.layer,
            alphas=arguments.alphas,
            settings=FinetuneConfig(layer=0, **settings_of(arguments)),
            per_label=arguments.per_label,
            test_per_label=arguments.test_per_label,
            anchor_methods=_names(arguments.anchor_methods),
            judge=judge,
            new_tokens=arguments.new_tokens,
            jobs=arguments.jobs,
            folder=out,
        )
    record = result.summary()
    if out is not None:
        _write(arguments, result, record, out)
    if arguments.json:
        print_json(record)
    else:
        _print(result)
        print_written(out, "ablations.html")
    if not result.complete:
        kept = "the same command goes on" if out is not None else "nothing was kept without --out"
        raise StoppedError(f"stopped; what was done is shown, and {kept}")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _write(
    arguments: argparse.Namespace, result: Ablations, record: dict[str, Any], out: Path
) -> None:
    from actor_lens.report.ablation_report import write_ablations

    write_json(out / "summary.json", record)
    write_csv(out / "ablations.csv", result.frame())
    write_csv(out / "means.csv", result.means())
    write_csv(out / "matrix.csv", result.matrix())
    write_ablations(result, out / "ablations.html", command=arguments.command_line)


def _print(result: Ablations) -> None:
    means = [row for row in records(result.means()) if row["split"] == "test"]
    for series in dict.fromkeys(row["series"] for row in means):
        print_table(
            f"{series}: %, means (lowest-highest seed), test prompts",
            (series, "C.R.", "S.S.", "T.S.", "benign", "seeds"),
            (_cells(row) for row in means if row["series"] == series),
        )
    say(f"Target layer {result.layer}: {result.layer_reason}.")
    for outcome in result.outcomes:
        if outcome.status != "completed":
            cell = outcome.cell
            say(
                f"{cell.series} {cell.value}, seed {cell.seed}: {outcome.status}: {outcome.message}"
            )


def _cells(row: dict[str, Any]) -> list[str]:
    name = row["value"] if row["method"] == "actor" else f"{row['value']} {row['method']}"
    return [name, *score_cells(row, "_min", "_max"), str(row["seeds"])]
