"""The command ``sweep``: train every layer and see what comes of each."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actor_lens.cli.arguments import (
    add_command,
    add_common,
    add_per_label,
    add_replies,
    add_settings,
    integer,
    number,
    seed_number,
    settings_of,
)
from actor_lens.cli.inputs import load_model_and_prompts, model_settings, open_judge, open_progress
from actor_lens.cli.printing import label_text, print_json, print_table, print_written, say
from actor_lens.cli.writing import prepare_out, write_csv, write_json
from actor_lens.errors import UserError
from actor_lens.prompts.rows import LABELS
from actor_lens.text import percent

if TYPE_CHECKING:
    from actor_lens.experiments.sweep.layer_sweep import LayerSweep
    from actor_lens.judges.base import Judge


def add_commands(commands: Any) -> None:
    """Register ``sweep``."""
    text = "train every layer on one collection of block inputs and compare outcomes"
    parser = add_command(commands, "sweep", sweep, text)
    add_common(parser)
    add_per_label(parser)
    add = parser.add_argument
    add("--models", metavar="A,B,..", help="several models, one after the other; not with --model")
    add(
        "--layers",
        type=layer_numbers,
        metavar="all|N,N-M",
        help="blocks to train, for instance 3,5-8; default: all",
    )
    add(
        "--alphas",
        type=numbers,
        default=[1.0],
        metavar="X,..",
        help="how much of the way to the origin targets go; default: 1",
    )
    add(
        "--seeds",
        type=seeds,
        default=[0],
        metavar="N,..",
        help="of the order of the prompts; default: 0",
    )
    add_settings(parser, "origin", "epochs", "lr")
    add(
        "--judge-best",
        type=integer,
        default=3,
        metavar="N",
        help="judge whole replies to the validation prompts for the N best; default: 3",
    )
    add_replies(parser)
    add(
        "--engine",
        default="local",
        metavar="local|ray",
        help="ray spreads the work over a Ray cluster ($RAY_ADDRESS, else this machine)",
    )


def sweep(arguments: argparse.Namespace) -> None:
    """Train every layer of every model."""
    if arguments.model and arguments.models:
        raise UserError("give --model or --models, not both")
    listed = (arguments.models or arguments.model or "toy").split(",")
    names = list(dict.fromkeys(name.strip() for name in listed))
    out = _prepare_out(arguments)
    records = []
    judge = open_judge(arguments) if arguments.judge_best else None
    with open_progress(arguments):
        for name in names:
            folder = out
            if out is not None and len(names) > 1:
                folder = out / re.sub(r"[^\w.-]+", "-", name).strip("-")
            result, settings = _sweep_one(arguments, name, folder, judge)
            records.append({**result.summary(), "model": name, "model_settings": settings})
            if folder is not None:
                _write(folder, result, records[-1])
            if not arguments.json:
                _print_sweep(result, name)
    if arguments.json:
        print_json(records[0] if len(names) == 1 else {"models": records})
    else:
        print_written(out, "sweep.html" if len(names) == 1 else "")


def _sweep_one(
    arguments: argparse.Namespace,
    name: str,
    folder: Path | None,
    judge: Judge | None,
) -> tuple[LayerSweep, dict[str, Any]]:
    from actor_lens.experiments.sweep.layer_sweep import sweep_layers
    from actor_lens.training.config import FinetuneConfig

    own = argparse.Namespace(**{**vars(arguments), "model": name})
    model, prompts, _ = load_model_and_prompts(own)
    train, validation, _ = prompts.by_split()
    if arguments.per_label is not None:
        train = train.sample(arguments.per_label, seed=arguments.seed)
    settings = FinetuneConfig(layer=0, **settings_of(arguments))
    result = sweep_layers(
        model,
        train,
        validation,
        layers=arguments.layers,
        alphas=arguments.alphas,
        seeds=arguments.seeds,
        settings=settings,
        judge_best=arguments.judge_best,
        judge=judge,
        new_tokens=arguments.new_tokens,
        folder=folder,
        engine=arguments.engine,
    )
    return result, model_settings(model)


def _prepare_out(arguments: argparse.Namespace) -> Path | None:
    """The output folder; one that holds a sweep is continued unless it is to be overwritten."""
    from actor_lens.experiments.sweep.tally import OUTCOMES_FILE

    if arguments.out is None:
        return None
    folder = Path(arguments.out).expanduser()
    found = list(folder.rglob(OUTCOMES_FILE)) if folder.is_dir() else []
    if arguments.overwrite:
        for path in found:
            path.unlink()
    elif found:
        arguments.overwrite = True  # of the results, which the continued sweep writes anew
    return prepare_out(arguments)


def _write(folder: Path, result: LayerSweep, record: dict[str, Any]) -> None:
    from actor_lens.report.layers_report import write_sweep

    write_csv(folder / "sweep.csv", result.frame())
    write_sweep(result, folder / "sweep.html")
    write_json(folder / "summary.json", record)


def _print_sweep(result: LayerSweep, name: str) -> None:
    frame = result.frame()
    best = result.best_outcome.cell
    rows = [
        ["before", "", "", *(percent(result.refused_before.get(one)) for one in LABELS), "", ""]
    ]
    for row in frame.to_dict("records"):
        is_best = (row["layer"], row["alpha"], row["seed"]) == (best.layer, best.alpha, best.seed)
        shares = (row[f"refused_{label}"] for label in LABELS)
        scores = (*shares, row["tradeoff_score"], row["reply_refused_pseudo_harmful"])
        cell = [f"{row['layer']}{' *' if is_best else ''}", f"{row['alpha']:g}", str(row["seed"])]
        rows.append([*cell, *map(percent, scores)])
    columns = ("layer", "alpha", "seed", *map(label_text, LABELS), "T.S.", "pseudo-h. (replies)")
    print_table(f"{name}: begins a refusal, of validation prompts", columns, rows, texts=0)
    for row in frame[frame["status"] != "completed"].to_dict("records"):
        say(f"Layer {row['layer']}: {row['status']}: {row['message']}")
    say(f"Layer {best.layer}: {result.reason}.")
    seconds = result.seconds
    say(
        f"Collected in {seconds['collect']:.1f} s, trained in {seconds['train']:.1f} s, scored in "
        f"{seconds['score']:.1f} s."
    )


# ---- Types ----


def layer_numbers(text: str) -> list[int] | None:
    """Numbers and ranges, or None for ``all``."""
    if text == "all":
        return None
    layers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        span = range(integer(first), integer(last) + 1) if dash else [integer(first)]
        if not span:
            raise argparse.ArgumentTypeError(f"'{part}' is an empty range")
        layers += span
    return layers


def numbers(text: str) -> list[float]:
    """Numbers with commas between them."""
    return [number(part) for part in text.split(",")]


def seeds(text: str) -> list[int]:
    """Whole numbers from 0 with commas between them."""
    return [seed_number(part) for part in text.split(",")]
