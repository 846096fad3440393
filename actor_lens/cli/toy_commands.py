"""The command ``toy train``: build the bundled model anew."""

from __future__ import annotations

import argparse
from typing import Any

from actor_lens.cli.arguments import add_command, add_output, seed_number
from actor_lens.cli.inputs import open_progress
from actor_lens.cli.printing import print_json, print_written
from actor_lens.cli.writing import prepare_out, write_json
from actor_lens.text import percent


def add_commands(commands: Any) -> None:
    """Register ``toy`` and what is below it."""
    parser = commands.add_parser(
        "toy", help="rebuild the bundled model", description="Rebuild the bundled model."
    )
    inner = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    toy = add_command(inner, "train", toy_train, "train the bundled model from scratch on a CPU")
    add = toy.add_argument
    add("--out", metavar="DIR", required=True, help="folder for model and prompts")
    add("--overwrite", action="store_true", help="write into a folder with files")
    add("--seed", type=seed_number, default=0, metavar="N", help="of all that is drawn; default: 0")
    add_output(toy)


def toy_train(arguments: argparse.Namespace) -> None:
    """Build the bundled model anew."""
    out = prepare_out(arguments)
    assert out is not None
    with open_progress(arguments):
        from actor_lens.toy.building import train_toy

        result = train_toy(out, seed=arguments.seed)
    record = result.summary()
    write_json(out / "summary.json", record)
    if arguments.json:
        print_json(record)
        return
    for rate in result.rates:
        print(f"{rate.label}, {rate.split}: {percent(rate.refused)} of {rate.n} refused")
    print(f"{result.parameters:,} parameters in {result.seconds:.0f} s")
    print_written(out, "summary.json")
