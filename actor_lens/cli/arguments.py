"""Arguments that several commands have; flags of a fine-tune are the fields of its config."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any

from actor_lens.training.config import FinetuneConfig

PROGRAM = "actor-lens"
NEW_TOKENS = 64
"""Longest reply unless another length is given."""
TARGET_SETTINGS = ("alpha", "origin")
TRAINING_SETTINGS = (
    *TARGET_SETTINGS,
    *("anchor", "shift", "refresh", "epochs", "lr", "batch_size", "safety_floor"),
)


# ---- Groups ----


def add_command(
    commands: Any, name: str, function: Callable[[argparse.Namespace], None], text: str
) -> argparse.ArgumentParser:
    """Register a command: ``main`` calls ``function`` with what was given."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}."
    )
    parser.set_defaults(run_command=function)
    return parser


def add_common(
    parser: argparse.ArgumentParser, out: str | None = None, seed: int | None = 0
) -> None:
    """Model, prompts, output folder and how to compute.

    Args:
        parser: Of the command.
        out: Default folder.
        seed: Default seed; None for that of the run that the command is about.
    """
    default_seed = "that of the run, else 0" if seed is None else seed
    add = parser.add_argument
    add("--model", metavar="NAME|DIR", help="hub name or folder; default: the bundled 'toy'")
    add(
        "--prompts",
        metavar="NAME|FILE",
        help="toy, starter, a .jsonl or .csv file, paper, or public sets from the hub or a file, "
        "such as xstest=path.csv,advbench,ultrachat:200; see actor-lens prompts list",
    )
    add(
        "--out",
        metavar="DIR",
        default=out,
        help=f"folder for the results; default: {out or 'none'}",
    )
    add("--overwrite", action="store_true", help="write into a folder that holds files")
    add(
        "--seed",
        type=seed_number,
        default=seed,
        metavar="N",
        help=f"of all that is drawn; default: {default_seed}",
    )
    add_loading(parser)
    _add_computing(parser)
    add_output(parser)


def add_loading(parser: argparse.ArgumentParser) -> None:
    """How a model is loaded and spoken to."""
    add = parser.add_argument
    add("--chat-template", metavar="FILE", help="Jinja template for a tokenizer without one")
    add(
        "--system-prompt",
        metavar="TEXT|FILE",
        help="what the system says before every prompt; default: nothing",
    )
    add("--revision", metavar="NAME", help="branch, tag or commit of a hub model; default: main")
    add(
        "--quantization",
        metavar="4bit|8bit",
        help="load weights quantised, for looking and evaluating; default: in full precision",
    )
    add("--trust-remote-code", action="store_true", help="run code from the model's folder")
    add(
        "--device",
        default="auto",
        metavar="auto|cpu|cuda",
        help="where the model runs; default: auto, a GPU where there is one",
    )
    add("--device-map", metavar="auto", help="spread the model over several devices")
    add(
        "--dtype",
        default="auto",
        metavar="auto|float32|bfloat16|float16",
        help="type of the weights; default: auto, float32 on a CPU, else the checkpoint's",
    )


def _add_computing(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--batch-size",
        type=batch_size,
        metavar="N|auto",
        help="prompts in one forward pass; default: auto, as many as fit into memory",
    )
    add(
        "--store",
        metavar="DIR|off",
        help="folder of the activation store; default: $ACTOR_LENS_STORE or the user's cache "
        "folder",
    )


def add_output(parser: argparse.ArgumentParser) -> None:
    """What is printed."""
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress on the error stream")


def add_training(parser: argparse.ArgumentParser, new_tokens: int = NEW_TOKENS) -> None:
    """Every setting of a fine-tune of one layer, and of its evaluation."""
    add = parser.add_argument
    add(
        "--layer",
        type=layer_number,
        metavar="N|auto",
        help="block to train; default: auto, chosen by the validation prompts",
    )
    add_choice(parser)
    add_settings(parser, *TRAINING_SETTINGS)
    add(
        "--resume",
        action="store_true",
        help="continue the stopped run in --out, with the same settings (--epochs may differ)",
    )
    add_replies(parser, new_tokens)


def add_settings(parser: argparse.ArgumentParser, *names: str) -> None:
    """Flags made of the fields of ``FinetuneConfig``, with their defaults and explanations."""
    settings = {setting.name: setting for setting in dataclasses.fields(FinetuneConfig)}
    for name in names:
        setting = settings[name]
        choices, default = setting.metadata.get("choices"), setting.default
        whole = isinstance(default, int) and not isinstance(default, bool)
        shown = "none" if default is None else default if choices else f"{default:g}"
        parser.add_argument(
            _flag(name),
            type=str if choices else integer if whole else number,
            default=default,
            metavar="|".join(choices) if choices else "N" if whole else "X",
            help=f"{setting.metadata['help']}; default: {shown}",
        )


def settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Fields of ``FinetuneConfig`` for which the command has a flag, with the values given."""
    flags = {name: _flag(name)[2:].replace("-", "_") for name in TRAINING_SETTINGS}
    given = vars(arguments)
    return {name: given[dest] for name, dest in flags.items() if dest in given}


def _flag(name: str) -> str:
    # --batch-size is that of forward passes, a setting of the model.
    return "--train-batch-size" if name == "batch_size" else f"--{name.replace('_', '-')}"


def add_choice(parser: argparse.ArgumentParser) -> None:
    """How the layer is chosen, and on how many training prompts."""
    parser.add_argument(
        "--by", metavar="SCORE", help="score that chooses the layer; default: causal"
    )
    add_per_label(parser)


def add_per_label(parser: argparse.ArgumentParser) -> None:
    """How many training prompts."""
    parser.add_argument(
        "--per-label",
        type=per_label,
        default=60,
        metavar="N|all|L=N,..",
        help="most training prompts of each label, for instance 60 or "
        "harmful=60,benign=60,pseudo_harmful=25; default: 60",
    )


def add_replies(parser: argparse.ArgumentParser, new_tokens: int = NEW_TOKENS) -> None:
    """How long replies are, and who judges them."""
    add_judge(parser)
    add_new_tokens(parser, new_tokens)


def add_new_tokens(parser: argparse.ArgumentParser, default: int = NEW_TOKENS) -> None:
    """How long replies are."""
    parser.add_argument(
        "--new-tokens",
        type=positive,
        default=default,
        metavar="N",
        help=f"longest reply; default: {default}",
    )


def add_judge(parser: argparse._ActionsContainer) -> None:
    """Who judges replies: an argument of a command, or of a group of its arguments."""
    parser.add_argument(
        "--judge",
        default="keywords",
        metavar="NAME",
        help="keywords, openings, strict-openings, phrases-anywhere, keywords=FILE (a phrase a "
        "line), first-token, llm:MODEL (at $OPENAI_BASE_URL, key in $OPENAI_API_KEY), "
        "wildguard[=NAME|DIR] or llama-guard[=NAME|DIR]; default: keywords",
    )


# ---- Types: argparse names the argument that one of these refuses ----


def number(text: str) -> float:
    """A number."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number") from None


def integer(text: str) -> int:
    """A whole number."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number") from None


def positive(text: str) -> int:
    """A whole number from 1."""
    if integer(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return int(text)


def seed_number(text: str) -> int:
    """A whole number from 0."""
    if integer(text) < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative; give a number from 0")
    return int(text)


def layer_number(text: str) -> int | None:
    """A whole number, or None for ``auto``."""
    return None if text == "auto" else integer(text)


def batch_size(text: str) -> int | None:
    """A whole number from 1, or None for ``auto``."""
    size = None if text == "auto" else integer(text)
    if size is not None and size < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1, or auto")
    return size


def per_label(text: str) -> int | dict[str, int] | None:
    """One number for all labels, or one for each, or None for ``all``."""
    if text == "all":
        return None
    if "=" not in text:
        return integer(text)
    pairs = (part.partition("=") for part in text.split(","))
    return {label.strip().replace("-", "_"): integer(count) for label, _, count in pairs}
