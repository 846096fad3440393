"""The command ``bench``: what looking and training cost on this machine.

Collecting residuals and questions about the model are timed against plain forward passes, replies
against transformers' own ``generate``, and training one layer against a naive version of the same
method, against SFT of the whole model and inside a sweep. Each part runs in a
process of its own, so that its peak memory is its own; the median of ``--rounds`` counts. From that
the cost of a larger job is predicted (``--predict``), which assumes prompts of the same length.

Files in ``--out``:
    bench.json: The record that ``--json`` prints.
    bench.txt: The tables that are printed otherwise.

Ctrl-C writes nothing.

Examples:
    actor-lens bench
    actor-lens bench --only looks,actor --rounds 5
    actor-lens bench --model smollm2 --predict 5000 --out bench
"""

from __future__ import annotations

import argparse
import io
from typing import TYPE_CHECKING, Any

from actor_lens.cli.arguments import (
    add_command,
    add_common,
    add_count,
    add_layer,
    add_per_label,
)
from actor_lens.cli.inputs import (
    load_model_and_prompts,
    model_settings,
    open_progress,
    sample_prompts,
)
from actor_lens.cli.printing import console as terminal
from actor_lens.cli.printing import number_text, print_json, print_table, print_written
from actor_lens.cli.values import names
from actor_lens.cli.writing import prepare_out, write_json
from actor_lens.diagnostics.bench_job import PARTS

if TYPE_CHECKING:
    from rich.console import Console

    from actor_lens.diagnostics.bench import BenchResult


def add_commands(commands: Any) -> None:
    """Register ``bench``."""
    text = "what collecting and training cost on this machine, against plain ways of doing it"
    parser = add_command(commands, "bench", bench, text)
    add_common(parser)
    add_per_label(parser)
    add_layer(parser, "block to train; default: auto, the middle one")
    add_count(parser, "--epochs", 3, "passes over the prompts in every training")
    add_count(parser, "--rounds", 3, "how often each part is timed")
    add_count(
        parser, "--reply-tokens", 64, "length of generated replies, and of those that SFT trains on"
    )
    text = f"parts: {', '.join(PARTS)}; default: all"
    parser.add_argument("--only", metavar="PART,..", help=text)
    add_count(parser, "--predict", 1000, "predict the cost for so many prompts and 8 epochs")


def bench(arguments: argparse.Namespace) -> None:
    """Measure, write, print.

    Raises:
        UserError: If a part is not known, a number is too small, the layer is out of range, or
            ``--out`` cannot be written.
    """
    out = prepare_out(arguments)
    from rich.console import Console

    from actor_lens.diagnostics.bench import bench as measure
    from actor_lens.files.saving import replacing

    with open_progress(arguments):
        model, prompts, _ = load_model_and_prompts(arguments)
        parts: Any = PARTS if arguments.only is None else tuple(names(arguments.only))
        costs = measure(
            model,
            sample_prompts(prompts.where(split="train"), arguments),
            layer=arguments.layer,
            epochs=arguments.epochs,
            rounds=arguments.rounds,
            reply_tokens=arguments.reply_tokens,
            parts=parts,
        )
    record = {
        **costs.summary(),
        "model_settings": model_settings(model),
        "predicted": _predicted(arguments, costs),
    }
    if out is not None:
        write_json(out / "bench.json", record)
        # What the terminal shows, 100 characters wide and without colours.
        text = io.StringIO()
        print_costs(Console(file=text, width=100, highlight=False), arguments, costs)
        with replacing(out / "bench.txt") as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8")
    if arguments.json:
        print_json(record)
    else:
        print_costs(terminal(), arguments, costs)
        print_written(out, "bench.txt")


def print_costs(console: Console, arguments: argparse.Namespace, costs: BenchResult) -> None:
    """Print the table, what it means and what a larger run would cost."""
    from actor_lens.diagnostics.bench import NOTES
    from actor_lens.files.sizes import format_size

    machine, setting = costs.machine, costs.setting
    console.print(
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, "
        f"{machine['device']}, torch {machine['torch']}, {machine['date']}\n"
        f"{setting['model']}: {setting['parameters']:,} parameters, {setting['layers']} layers, "
        f"{setting['dtype']}; {setting['prompts']} prompts, {setting['tokens']} tokens; layer "
        f"{setting['layer']}, {setting['epochs']} epochs, {setting['rounds']} rounds",
        markup=False,
    )
    collection = costs.collection
    if collection:
        hooks = collection["all_hooks_to_ours"]
        console.print(
            f"Collecting residuals: {collection['tokens_per_second']:,.0f} tokens/s, "
            f"{collection['to_plain_pass']:.2f} times a plain pass; with every hook it would take "
            f"{hooks:.1f} times as long."
        )
    looks = costs.looks()
    if len(looks):
        print_table(
            "Looking",
            ("question", "compared with", "times", "at most", "seconds"),
            (
                [
                    row["question"],
                    row["compared_with"],
                    f"{row['ratio']:.2f}",
                    f"{row['limit']:.2f}",
                    f"{row['seconds']:.2f}",
                ]
                for row in looks.to_dict("records")
            ),
            texts=2,
            to=console,
        )
    frame = costs.frame()
    if len(frame):
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
                for row in frame.to_dict("records")
            ),
            to=console,
        )
    if costs.agreement is not None:
        console.print(
            f"Naive ACTOR's weights differ from ACTOR's by at most {costs.agreement:.1e} of a "
            "tensor's length."
        )
    for part, seconds in _predicted(arguments, costs)["seconds"].items():
        console.print(f"Predicted, {arguments.predict} prompts, 8 epochs: {part} {seconds:,.0f} s")
    for note in NOTES:
        console.print(note.format(**setting), style="dim", markup=False)


def _predicted(arguments: argparse.Namespace, costs: BenchResult) -> dict[str, Any]:
    """Seconds of each part for ``--predict`` prompts and the usual number of epochs."""
    seconds = costs.predicted(arguments.predict, 8)
    return {"prompts": arguments.predict, "epochs": 8, "seconds": seconds}
