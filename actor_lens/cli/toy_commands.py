"""The commands ``toy train`` and ``cautious train``: build what is bundled anew.

``toy train`` draws a small language, trains a tokenizer and a model on it until the model
over-refuses, and measures that: minutes on a CPU. ``cautious train`` trains the adapter with which
SmolLM2 over-refuses (``--model smollm2-cautious``): 40 minutes on two cores. With the same seed
and versions both build the same.

Files in ``--out``, which is needed here:
    toy train: The model as a Hugging Face folder, and its prompts as JSON lines: names to give to
        ``--model`` and ``--prompts``.
    cautious train: The adapter as PEFT saves one, in the folder ``smollm2-cautious``: a name to
        give to ``--adapter``.
    summary.json: Refusal rates; what ``--json`` prints.

Ctrl-C leaves nothing half-written.

Examples:
    actor-lens toy train --out my-toy --seed 1
    actor-lens cautious train --out my-adapter --seed 1
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING, Any

from actor_lens.cli.arguments import add_command, add_flags, add_group, add_seed
from actor_lens.cli.inputs import open_progress
from actor_lens.cli.printing import give_results
from actor_lens.cli.writing import prepare_out
from actor_lens.text import percent

if TYPE_CHECKING:
    from actor_lens.experiments.cautious import CautiousReport
    from actor_lens.toy.building import ToyReport


def add_commands(commands: Any) -> None:
    """Register ``toy`` and ``cautious``, and what is below them."""
    inner = add_group(commands, "toy", "rebuild the bundled model")
    text = "train the bundled model from scratch on a CPU"
    _add_training(add_command(inner, "train", toy_train, text), "model and prompts")
    inner = add_group(commands, "cautious", "rebuild the adapter of smollm2-cautious")
    text = "train the adapter that makes SmolLM2 over-cautious"
    _add_training(add_command(inner, "train", cautious_train, text), "the adapter")


def _add_training(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--out", metavar="DIR", required=True, help=f"folder for {what}")
    parser.add_argument("--overwrite", action="store_true", help="write into a folder with files")
    add_seed(parser)
    add_flags(parser, "--json", "--quiet")


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


def cautious_train(arguments: argparse.Namespace) -> None:
    """Train the adapter of ``smollm2-cautious`` anew.

    Raises:
        UserError: If the base model is not here, or ``--out`` cannot be written, or holds files and
            ``--overwrite`` was not given.
    """
    out = prepare_out(arguments)
    assert out is not None
    with open_progress(arguments):
        from actor_lens.experiments.cautious import train_cautious
        from actor_lens.models.chat_model import load_model
        from actor_lens.models.smollm2 import CAUTIOUS, SMOLLM2

        result = train_cautious(out / CAUTIOUS, load_model(SMOLLM2), seed=arguments.seed)
    show = partial(_print_cautious, result)
    give_results(arguments, out, result.summary(), {}, show, "summary.json")


def _print_cautious(result: CautiousReport) -> None:
    """Print refusals by label, and where the adapter is."""
    for label, share in result.refused.items():
        print(f"{label}: {percent(share)} of {result.evaluation.rate(label).n} refused")
    print(f"{result.parameters:,} parameters in {result.seconds:.0f} s: {result.adapter}")


def _print(result: ToyReport) -> None:
    """Print refusals by label and split, and how large the model is."""
    for rate in result.rates:
        print(f"{rate.label}, {rate.split}: {percent(rate.refused)} of {rate.n} refused")
    print(f"{result.parameters:,} parameters in {result.seconds:.0f} s")
