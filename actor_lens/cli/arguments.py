"""Flags that several commands have, each written once.

A flag of a fine-tune is made from the field of ``FinetuneConfig`` of the same name: its default,
its choices and its explanation are those of the library. So are the choices of ``--dtype``,
``--quantization``, ``--device-map`` and ``--by``. A value that argparse cannot read is refused
here; one that the library does not allow is refused by the library. Either way it is one line and
exit code 2.

Nothing heavy is imported: ``--help`` answers before torch is loaded.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import textwrap
from collections.abc import Callable
from typing import Any

from actor_lens.cli.values import (
    batch_size,
    counting,
    integer,
    layer_number,
    number,
    numbers,
    per_label,
    positive,
    seed_number,
    word_or_integer,
)
from actor_lens.directions.options import SCORES
from actor_lens.models.options import DEVICE_MAPS, DTYPES, QUANTIZATIONS
from actor_lens.training.config import FinetuneConfig

PROGRAM = "actor-lens"
NEW_TOKENS = 64
"""Longest reply unless another length is given."""
PER_LABEL = 60
"""Training prompts of each label unless another number is given."""
TARGET_SETTINGS = ("alpha", "origin")
TRAINING_SETTINGS = (
    *TARGET_SETTINGS,
    *("anchor", "shift", "refresh", "epochs", "lr", "batch_size", "safety_floor"),
)
FLAGS: dict[str, dict[str, Any]] = {
    "--alphas": {"type": numbers, "metavar": "X,.."},
    "--anchors": {
        "metavar": "NAME|FILE",
        "help": "harmful and benign prompts that the refusal direction is made of, such as "
        "hex-phi:64=FOLDER,truthfulqa:64=FILE; default: the training prompts",
    },
    "--balance": {
        "choices": ("form",),
        "help": "keep training and validation prompts of which each form (last mark, length, kind "
        "of first word) is as common under every label; default: keep all",
    },
    "--by": {
        "metavar": "SCORE",
        "help": f"score that chooses the layer: {', '.join(SCORES)}; default: causal",
    },
    "--json": {"action": "store_true", "help": "print the results as JSON"},
    "--judge": {
        "default": "keywords",
        "metavar": "NAME",
        "help": "keywords, openings, strict-openings, phrases-anywhere, keywords:LANGUAGE (de, zh "
        "and others, or any), keywords=FILE (a phrase a line), first-token, llm:MODEL or "
        "llm-binary:MODEL (at $OPENAI_BASE_URL, key in $OPENAI_API_KEY), wildguard[=NAME|DIR] or "
        "llama-guard[=NAME|DIR]",
    },
    "--layer": {"type": layer_number, "metavar": "N|auto"},
    "--new-tokens": {
        "type": positive,
        "default": NEW_TOKENS,
        "metavar": "N",
        "help": "longest reply",
    },
    "--per-label": {
        "type": per_label,
        "default": PER_LABEL,
        "metavar": "N|all|L=N,..",
        "help": "most training prompts of each label, for instance 60 or "
        "harmful=60,benign=60,pseudo_harmful=25",
    },
    "--quiet": {"action": "store_true", "help": "no progress on the error stream"},
    "--run": {"metavar": "DIR", "help": "a folder that train wrote"},
    "--seeds": {"type": counting, "metavar": "N,.."},
    "--split-by": {
        "choices": ("source",),
        "help": "split anew, so that validation and test hold sources that training lacks; "
        "default: the splits of the prompts, else prompt by prompt",
    },
    "--store": {
        "metavar": "DIR|off",
        "help": "folder of the activation store; default: $ACTOR_LENS_STORE or the user's cache "
        "folder",
    },
    "--test-per-label": {
        "type": per_label,
        "metavar": "N|all",
        "help": "most prompts of each label and split to ask; default: all",
    },
}
"""What ``add_flags`` hands to argparse; a default is told at the end of the help."""


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help whose words are whole: a name such as ``hex-phi`` is not broken at its hyphen."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


# ---- Groups ----


def add_command(
    commands: Any, name: str, function: Callable[[argparse.Namespace], None], text: str
) -> argparse.ArgumentParser:
    """Register a command and return its parser, for its flags.

    The help ends with the examples in the docstring of the command's module.

    Args:
        commands: Subparsers of the program, or of a command such as ``store``.
        name: Name of the command.
        function: Function that ``main`` calls with what was given on the command line.
        text: What the command does, in lower case and without a full stop.
    """
    written = (sys.modules[function.__module__].__doc__ or "").partition("Examples:\n")[2]
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=textwrap.fill(f"{text[0].upper()}{text[1:]}.", 80),
        formatter_class=_Help,
    )
    own = [line for line in written.splitlines() if f" {parser.prog} " in f"{line} "]
    parser.epilog = "\n".join(["examples:", *own])
    parser.set_defaults(run_command=function)
    return parser


def add_group(commands: Any, name: str, text: str) -> Any:
    """Register a name that has commands below it, such as ``store``, and return its subparsers."""
    parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    return parser.add_subparsers(title="commands", metavar="COMMAND", required=True)


def add_common(
    parser: argparse.ArgumentParser,
    out: str | None = None,
    seed: int | None = 0,
    *,
    page: str = "",
    out_text: str = "",
) -> None:
    """Model, prompts, output folder and how to compute.

    Args:
        parser: Parser of the command.
        out: Default folder.
        seed: Default seed; None for that of the run that the command is about.
        page: Default file, of a command that writes one page and no folder.
        out_text: What is said of the folder, where it is no plain default.
    """
    add = parser.add_argument
    add_inputs(parser, seed)
    if page:
        add("--out", metavar="FILE", default=page, help=f"the page, replaced; default: {page}")
    else:
        where = out_text or f"default: {out or 'none, they are only printed'}"
        add("--out", metavar="DIR", default=out, help=f"folder for results; {where}")
        add("--overwrite", action="store_true", help="write into a folder that holds files")
    add_flags(parser, "--json", "--quiet")


def add_inputs(parser: argparse.ArgumentParser, seed: int | None = 0) -> None:
    """Model and prompts, and how to compute; ``load_model_and_prompts`` reads these flags.

    Args:
        parser: Parser of the command.
        seed: Default seed; None for a command about a run, whose model, prompts and seed are the
            defaults.
    """
    add, of_run = parser.add_argument, seed is None
    add(
        "--model",
        metavar="NAME|DIR",
        help="toy, smollm2, smollm2-cautious, hub name, folder or .gguf file; "
        + _default("toy", of_run),
    )
    add(
        "--prompts",
        metavar="NAME|FILE",
        help="toy, starter, twins, cautious, a .jsonl or .csv file, paper, public sets from the "
        "hub or a file, or several: xstest=path.csv,advbench,ultrachat:200; behind one, @ood keeps "
        f"it for the end; see prompts list; default: {'those of the run, else ' * of_run}toy for "
        "the bundled model, starter,twins for smollm2-cautious, else starter",
    )
    add_flags(parser, "--split-by", "--balance")
    add_seed(parser, seed)
    add_loading(parser, of_run=of_run)
    add(
        "--batch-size",
        type=batch_size,
        metavar="N|auto",
        help="prompts in one forward pass; default: auto, as many as fit into memory",
    )
    add_flags(parser, "--store")


def add_loading(parser: argparse.ArgumentParser, *, of_run: bool = False) -> None:
    """How a model is loaded and spoken to; ``load_named_model`` reads these flags.

    Args:
        parser: Parser of the command.
        of_run: The command is about a run: how its model was loaded is the default.
    """
    add, none, main = parser.add_argument, _default("none", of_run), _default("main", of_run)
    add("--adapter", metavar="DIR", help=f"adapter of PEFT to merge into the model; {none}")
    text = f"Jinja template for a tokenizer without one; {none}"
    add("--chat-template", metavar="FILE", help=text)
    add("--system-prompt", metavar="TEXT|FILE", help=f"system prompt of every prompt; {none}")
    add("--revision", metavar="NAME", help=f"branch, tag or commit of a hub model; {main}")
    add(
        "--quantization",
        metavar="|".join(QUANTIZATIONS),
        help="load weights quantised, for looking and evaluating; default: in full precision",
    )
    add("--trust-remote-code", action="store_true", help="run code from the model's folder")
    text = "where the model runs; default: auto, a GPU where there is one"
    add("--device", default="auto", metavar="auto|cpu|cuda", help=text)
    add(
        "--device-map",
        metavar="NAME",
        help=f"spread the model over several devices: {', '.join(DEVICE_MAPS)}; default: one "
        "device",
    )
    add(
        "--dtype",
        default="auto",
        metavar="|".join(DTYPES),
        help="type of the weights; default: auto, float32 on a CPU, else the checkpoint's",
    )


def add_training(parser: argparse.ArgumentParser, new_tokens: int = NEW_TOKENS) -> None:
    """Every setting of a fine-tune of one layer, and of its evaluation."""
    text = "block to train; default: auto, chosen by the validation prompts"
    add_flags(parser, "--layer", help=text)
    add_flags(parser, "--by", "--per-label")
    parser.add_argument(
        "--settings",
        choices=("own", "auto"),
        default="own",
        help="auto: find alpha and learning rate too, by trials on the validation prompts; "
        "default: own, those of the flags",
    )
    add_flags(parser, "--anchors")
    add_settings(parser, *TRAINING_SETTINGS)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the stopped run in --out, with the same settings (--epochs may differ)",
    )
    add_flags(parser, "--test-per-label", "--judge")
    add_flags(parser, "--new-tokens", default=new_tokens)


def add_settings(parser: argparse.ArgumentParser, *names: str) -> None:
    """Flags made from fields of ``FinetuneConfig``; ``settings_of`` reads them."""
    settings = {setting.name: setting for setting in dataclasses.fields(FinetuneConfig)}
    for name in names:
        setting = settings[name]
        choices, default = setting.metadata.get("choices"), setting.default
        whole = isinstance(default, int) and not isinstance(default, bool)
        shown = "none" if default is None else default if choices else f"{default:g}"
        or_whole = setting.metadata.get("or_whole", False)
        words: Callable[[str], Any] = word_or_integer if or_whole else str
        names_of_choices = "|".join([*(choices or ()), *("N" * or_whole)])
        parser.add_argument(
            _flag(name),
            type=words if choices else integer if whole else number,
            default=default,
            metavar=names_of_choices or ("N" if whole else "X"),
            help=f"{setting.metadata['help']}; default: {shown}",
        )


def settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Fields of ``FinetuneConfig`` for which the command has a flag, with the values given."""
    flags = {name: _flag(name)[2:].replace("-", "_") for name in TRAINING_SETTINGS}
    values = vars(arguments)
    return {name: values[flag] for name, flag in flags.items() if flag in values}


def _flag(name: str) -> str:
    """The flag of a setting: ``--batch-size`` is taken by forward passes, a model's setting."""
    return "--train-batch-size" if name == "batch_size" else f"--{name.replace('_', '-')}"


# ---- Single flags ----


def add_flags(parser: argparse._ActionsContainer, *names: str, **changes: Any) -> None:
    """Flags of ``FLAGS``, in this order.

    Args:
        parser: Parser of the command, or a group of its flags.
        names: The flags as they are written on the command line.
        changes: What this command has otherwise, such as ``default`` or ``help``.
    """
    for name in names:
        flag = {**FLAGS[name], **changes}
        if flag.get("default") is not None:
            flag["help"] += f"; default: {flag['default']}"
        parser.add_argument(name, **flag)


def _default(text: str, of_run: bool) -> str:
    """What stands for a flag that was not given; of a command about a run, what the run has."""
    return f"default: that of the run, else {text}" if of_run else f"default: {text}"


def add_seed(parser: argparse.ArgumentParser, default: int | None = 0) -> None:
    """One seed; None as default stands for that of the run that the command is about."""
    parser.add_argument(
        "--seed",
        type=seed_number,
        default=default,
        metavar="N",
        help=f"seed of all that is drawn; {_default(str(default or 0), default is None)}",
    )


def add_count(parser: argparse.ArgumentParser, flag: str, default: int, text: str) -> None:
    """A whole number whose bounds the library checks."""
    parser.add_argument(
        flag, type=integer, default=default, metavar="N", help=f"{text}; default: {default}"
    )
