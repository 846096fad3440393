"""The command ``sweep``: train every layer and see what comes of each.

Every layer is trained with every alpha and seed on one collection of block inputs, and scored on
the validation prompts: by the first token everywhere, and by whole replies for the best few
(``--judge-best``). Test prompts are not asked.

Files in ``--out``; with several models, a folder for each of them:
    sweep.jsonl: Every finished cell; the same command goes on from there, with the same settings.
        ``--overwrite`` starts anew.
    best: The run of the best cell, as ``train`` writes one: give it to ``evaluate --run``.
    sweep.csv: One row a cell.
    sweep.html: The outcomes of the layers as figures, offline.
    summary.json: The record that ``--json`` prints about this model.

Ctrl-C ends with exit code 130; cells that are done are kept in ``--out``.

Examples:
    actor-lens sweep --out sweep
    actor-lens sweep --out sweep --overwrite --origin zero
    actor-lens sweep --layers 3,5-8 --alphas 0.5,1,2 --seeds 0,1,2 --out sweep
    actor-lens sweep --models toy,./checkpoint --judge-best 0 --engine ray
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actor_lens.cli.arguments import (
    add_command,
    add_common,
    add_count,
    add_flags,
    add_settings,
    settings_of,
)
from actor_lens.cli.inputs import (
    load_anchors,
    load_model_and_prompts,
    model_settings,
    open_judge,
    open_progress,
)
from actor_lens.cli.printing import label_text, print_json, print_table, print_written, say
from actor_lens.cli.values import integer, names
from actor_lens.cli.writing import prepare_to_go_on, write_results
from actor_lens.errors import UserError
from actor_lens.files.paths import user_path
from actor_lens.prompts.rows import LABELS
from actor_lens.text import percent
from actor_lens.training.config import FinetuneConfig

if TYPE_CHECKING:
    from actor_lens.experiments.sweep.layer_sweep import LayerSweep
    from actor_lens.judges.base import Judge


def add_commands(commands: Any) -> None:
    """Register ``sweep``."""
    text = "train every layer on one collection of block inputs and compare outcomes"
    parser = add_command(commands, "sweep", sweep, text)
    add_common(parser)
    add_flags(parser, "--per-label", "--anchors")
    add = parser.add_argument
    add("--models", metavar="A,B,..", help="several models, one after the other; not with --model")
    add(
        "--layers",
        type=layer_numbers,
        metavar="all|N,N-M",
        help="blocks to train, for instance 3,5-8; default: all",
    )
    text = "how much of the way to the origin targets go"
    add_flags(parser, "--alphas", default="1", help=text)
    add_flags(parser, "--seeds", default="0", help="seeds of the order of the prompts")
    add_settings(parser, "origin", "epochs", "lr")
    add_count(
        parser, "--judge-best", 3, "judge whole replies to the validation prompts for the N best"
    )
    add_flags(parser, "--judge", "--new-tokens")
    add(
        "--engine",
        default="local",
        metavar="local|ray",
        help="ray spreads the work over a Ray cluster ($RAY_ADDRESS, else this machine)",
    )


def sweep(arguments: argparse.Namespace) -> None:
    """Train every layer of every model; results of a model are written as soon as it is done.

    Raises:
        UserError: If ``--model`` and ``--models`` were both given, a layer or setting is not
            allowed, or ``--out`` holds another sweep.
    """
    if arguments.model and arguments.models:
        raise UserError("give --model or --models, not both")
    models = list(dict.fromkeys(names(arguments.models or arguments.model or "toy"))) or ["toy"]
    out = _prepare_out(arguments)
    records = []
    judge = open_judge(arguments) if arguments.judge_best else None
    with open_progress(arguments):
        for name in models:
            arguments.model, folder = name, out
            if out is not None and len(models) > 1:
                folder = out / re.sub(r"[^\w.-]+", "-", name).strip("-")
            records.append(_sweep_one(arguments, folder, judge))
    if arguments.json:
        print_json(records[0] if len(models) == 1 else {"models": records})
    else:
        print_written(out, "sweep.html" if len(models) == 1 else "")


def _sweep_one(
    arguments: argparse.Namespace, folder: Path | None, judge: Judge | None
) -> dict[str, Any]:
    """Sweep one model, write and print what came of it.

    Args:
        arguments: Values of the flags; ``model`` is the one to sweep.
        folder: Folder that keeps finished cells.
        judge: Judge of whole replies; None where none are judged.

    Returns:
        What ``summary.json`` holds.
    """
    from actor_lens.experiments.sweep.layer_sweep import sweep_layers

    anchors = load_anchors(arguments)
    model, prompts, _ = load_model_and_prompts(arguments)
    train, validation, _ = prompts.by_split()
    result = sweep_layers(
        model,
        train.sample(arguments.per_label, arguments.seed),
        validation,
        layers=arguments.layers,
        alphas=arguments.alphas,
        seeds=arguments.seeds,
        anchors=anchors,
        settings=FinetuneConfig(layer=0, **settings_of(arguments)),
        judge_best=arguments.judge_best,
        judge=judge,
        new_tokens=arguments.new_tokens,
        folder=folder,
        engine=arguments.engine,
    )
    name = arguments.model
    record = {**result.summary(), "model": name, "model_settings": model_settings(model)}
    if folder is not None:
        from actor_lens.report.layers_report import write_sweep

        write_sweep(result, folder / "sweep.html")
        write_results(folder, record, {"sweep.csv": result.frame})
    if not arguments.json:
        _print_sweep(result, name)
    return record


def _prepare_out(arguments: argparse.Namespace) -> Path | None:
    """The output folder; sweeps that it holds are continued, or removed to be overwritten."""
    from actor_lens.experiments.sweep.tally import BEST_FOLDER, OUTCOMES_FILE

    if arguments.out is None:
        return None
    folder = user_path(arguments.out)
    # With several models each has a folder of its own below.
    sweeps = [file.relative_to(folder).parent for file in folder.rglob(OUTCOMES_FILE)]
    kept = [str(sweep / name) for sweep in sweeps for name in (OUTCOMES_FILE, BEST_FOLDER)]
    return prepare_to_go_on(arguments, *kept)


def _print_sweep(result: LayerSweep, name: str) -> None:
    """Print one row a cell, the best one marked, below one for the untrained model."""
    frame = result.frame()
    best = result.best_outcome.cell
    before = (result.refused_before.get(label) for label in LABELS)
    rows = [["before", "", "", *map(_share, before), "", ""]]
    for row in frame.to_dict("records"):
        is_best = (row["layer"], row["alpha"], row["seed"]) == (best.layer, best.alpha, best.seed)
        shares = (row[f"refused_{label}"] for label in LABELS)
        scores = (*shares, row["tradeoff_score"], row["reply_refused_pseudo_harmful"])
        cell = [f"{row['layer']}{' *' if is_best else ''}", f"{row['alpha']:g}", str(row["seed"])]
        rows.append([*cell, *map(_share, scores)])
    # In two lines, so that nothing is cut off in a terminal of 80 columns.
    labels = [label_text(label).replace("-", "-\n") for label in LABELS]
    columns = ("layer", "alpha", "seed", *labels, "T.S.", "pseudo-\nharmful,\nreplies")
    print_table(f"{name}: %, begins a refusal, of validation prompts", columns, rows, texts=0)
    for row in frame[frame["status"] != "completed"].to_dict("records"):
        say(f"Layer {row['layer']}: {row['status']}: {row['message']}")
    say(f"Layer {best.layer}: {result.reason}.")
    seconds = result.seconds
    say(
        f"Collected in {seconds['collect']:.1f} s, trained in {seconds['train']:.1f} s, scored in "
        f"{seconds['score']:.1f} s."
    )


def _share(share: float | None) -> str:
    """A share in percent; the title of the table has the sign."""
    return percent(share).removesuffix(" %")


def layer_numbers(text: str) -> list[int] | None:
    """The layers of ``3,5-8``, or None for ``all``.

    Raises:
        argparse.ArgumentTypeError: If a part is no number, or a range that ends before it begins.
    """
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
