"""The command ``toy train``: build the bundled model anew.

It draws a small language, trains a tokenizer and a model on it until the model over-refuses, and
measures that: minutes on a CPU. With the same seed and versions it builds the same model.

Files in ``--out``, which is needed here:
    The model as a Hugging Face folder, and its prompts as JSON lines: names to give to ``--model``
        and ``--prompts``.
    summary.json: Refusal rates of the new model; what ``--json`` prints.

Ctrl-C leaves no half-written model.

Examples:
    actor-lens toy train --out my-toy --seed 1
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING, Any

from actor_lens.cli.arguments import add_command, add_group, add_output, add_seed
from actor_lens.cli.inputs import open_progress
from actor_lens.cli.printing import give_results
from actor_lens.cli.writing import prepare_out
from actor_lens.text import percent

if TYPE_CHECKING:
    from actor_lens.toy.building import ToyReport


def add_commands(commands: Any) -> None:
    """Register ``toy`` and what is below it."""
    inner = add_group(commands, "toy", "rebuild the bundled model")
    toy = add_command(inner, "train", toy_train, "train the bundled model from scratch on a CPU")
    add = toy.add_argument
    add("--out", metavar="DIR", required=True, help="folder for model and prompts")
    add("--overwrite", action="store_true", help="write into a folder with files")
    add_seed(toy)
    add_output(toy)


def toy_train(arguments: argparse.Namespace) -> None:
    """Build the bundled model anew.

    Raises:
        UserError: If ``--out`` cannot be written, or holds files and ``--overwrite`` was not given.
    """
    out = prepare_out(arguments)
    assert out is not None
    with open_progress(arguments):
        from actor_lens.toy.building import train_toy

        result = train_toy(out, seed=arguments.seed)
    show = partial(_print, result)
    give_results(arguments, out, result.summary(), {}, show, "summary.json")


def _print(result: ToyReport) -> None:
    """Print refusals by label and split, and how large the model is."""
    for rate in result.rates:
        print(f"{rate.label}, {rate.split}: {percent(rate.refused)} of {rate.n} refused")
    print(f"{result.parameters:,} parameters in {result.seconds:.0f} s")
