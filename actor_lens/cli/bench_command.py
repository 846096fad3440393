"""The command ``bench``: what collecting and training cost on this machine.

Collecting residuals is timed against plain forward passes, and training one layer against SFT of
the whole model and against training every layer. Parts take turns; the median of ``--rounds``
counts. From that the cost of a larger job is predicted (``--predict``), which assumes prompts of
the same length.

Files in ``--out``:
    bench.csv: One row a way of training.
    summary.json: The record that ``--json`` prints.

Ctrl-C writes nothing.

Examples:
    actor-lens bench
    actor-lens bench --only collection,actor --rounds 5
    actor-lens bench --model smollm2 --predict 5000 --out bench
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING, Any

from actor_lens.cli.arguments import add_command, add_common, add_count, add_flags
from actor_lens.cli.inputs import (
    load_model_and_prompts,
    model_settings,
    open_progress,
)
from actor_lens.cli.printing import give_results, number_text, print_table, say
from actor_lens.cli.values import names
from actor_lens.cli.writing import prepare_out
from actor_lens.training.config import FinetuneConfig

if TYPE_CHECKING:
    from actor_lens.diagnostics.bench import BenchResult


def add_commands(commands: Any) -> None:
    """Register ``bench``."""
    text = "what collecting and training cost on this machine"
    parser = add_command(commands, "bench", bench, text)
    add_common(parser)
    add_flags(parser, "--per-label")
    add_flags(parser, "--layer", help="block to train; default: auto, the middle one")
    add_count(parser, "--epochs", 3, "passes over the prompts in every training")
    add_count(parser, "--rounds", 3, "how often each part is timed")
    add_count(parser, "--reply-tokens", 64, "length of the replies that SFT trains on")
    text = "parts: collection, actor, sft, sweep; default: all"
    parser.add_argument("--only", metavar="PART,..", help=text)
    add_count(parser, "--predict", 1000, "predict the cost for so many prompts and 8 epochs")


def bench(arguments: argparse.Namespace) -> None:
    """Measure, write, print.

    Raises:
        UserError: If a part is not known, a number is too small, the layer is out of range, or
            ``--out`` cannot be written.
    """
    out = prepare_out(arguments)
    from actor_lens.diagnostics.bench import PARTS
    from actor_lens.diagnostics.bench import bench as measure

    with open_progress(arguments):
        model, prompts, _ = load_model_and_prompts(arguments)
        parts: Any = PARTS if arguments.only is None else tuple(names(arguments.only))
        costs = measure(
            model,
            prompts.where(split="train").sample(arguments.per_label, arguments.seed),
            layer=arguments.layer,
            epochs=arguments.epochs,
            rounds=arguments.rounds,
            reply_tokens=arguments.reply_tokens,
            parts=parts,
        )
    predicted = costs.predicted(arguments.predict, FinetuneConfig.epochs)
    record = {
        **costs.summary(),
        "model_settings": model_settings(model),
        "predicted": {
            "prompts": arguments.predict,
            "epochs": FinetuneConfig.epochs,
            "seconds": predicted,
        },
    }
    show = partial(_print, costs, record["predicted"])
    give_results(arguments, out, record, {"bench.csv": costs.frame}, show, "bench.csv")


def _print(costs: BenchResult, predicted: dict[str, Any]) -> None:
    """Print the table, what it means and what a larger run would cost."""
    from actor_lens.diagnostics.bench import NOTES
    from actor_lens.files.sizes import format_size

    machine, setting = costs.machine, costs.setting
    say(
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, "
        f"{machine['device']}, torch {machine['torch']}, {machine['date']}\n"
        f"{setting['model']}: {setting['parameters']:,} parameters, {setting['layers']} layers, "
        f"{setting['dtype']}; {setting['prompts']} prompts, {setting['tokens']} tokens; layer "
        f"{setting['layer']}, {setting['epochs']} epochs, {setting['rounds']} rounds"
    )
    collection = costs.collection
    if collection:
        say(
            f"Collecting residuals: {collection['tokens_per_second']:,.0f} tokens/s, "
            f"{collection['to_plain_pass']:.2f} times a plain pass."
        )
    print_table(
        "Training",
        ("part", "seconds", "times ACTOR", "peak memory"),
        (
            [
                row["part"],
                f"{row['seconds']:.2f}",
                number_text(row["times_actor"], ".2f"),
                format_size(int(row["peak_bytes"])),
            ]
            for row in costs.frame().to_dict("records")
        ),
    )
    for part, seconds in predicted["seconds"].items():
        say(
            f"Predicted, {predicted['prompts']} prompts, {predicted['epochs']} epochs: {part} "
            f"{seconds:,.0f} s"
        )
    for note in NOTES:
        say(note.format(**setting), "dim")
