"""The utility command: what a run costs where it should change nothing."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actor_lens.cli.arguments import add_command, add_common, add_new_tokens, integer, positive
from actor_lens.cli.inputs import load_model_and_prompts, load_run, open_progress
from actor_lens.cli.printing import number_text, print_json, print_table, print_written, say
from actor_lens.cli.writing import prepare_out, write_csv, write_json
from actor_lens.errors import UserError

if TYPE_CHECKING:
    from actor_lens.evaluation.utility import Utility
    from actor_lens.prompts.sets import PromptSet


def add_commands(commands: Any) -> None:
    """Register the commands of this module."""
    text = "what a run costs: divergence on benign prompts, perplexity, benchmarks"
    parser = add_command(commands, "utility", utility, text)
    add_common(parser, seed=None)
    add_new_tokens(parser, 32)
    add = parser.add_argument
    add("--run", metavar="DIR", required=True, help="a folder that train wrote")
    add("--text", metavar="FILE", help="a UTF-8 text for the perplexity, such as WikiText-2")
    add(
        "--window",
        type=integer,
        metavar="N",
        help="tokens of a pass over the text; default: 1024, or what the model takes",
    )
    add(
        "--stride",
        type=integer,
        metavar="N",
        help="by which it moves on; default: half of it",
    )
    _add_tasks(parser)


def _add_tasks(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--tasks", nargs="+", default=[], metavar="NAME", help="of the lm-eval harness: mmlu, ...")
    add("--include-path", metavar="DIR", help="a folder of task files of your own")
    add("--limit", type=positive, metavar="N", help="most questions of each task; default: all")
    add(
        "--num-fewshot",
        type=integer,
        metavar="N",
        help="worked examples before each question; default: what the task says",
    )
    add("--chat", action="store_true", help="put questions into the model's chat template")


def utility(arguments: argparse.Namespace) -> None:
    """Measure, print and write what a run costs."""
    run = load_run(arguments.run)
    assert run is not None
    _check(arguments)
    out = prepare_out(arguments)
    with open_progress(arguments):
        model, prompts, load_seconds = load_model_and_prompts(arguments, run)
        measured = _measure(arguments, model, run, prompts)
    from actor_lens.results import versions

    record = {
        **measured.summary(),
        "prompts": prompts.name,
        "limit": arguments.limit,
        "seconds": {"load": round(load_seconds, 3)},
        "versions": versions(),
    }
    if out is not None:
        write_json(out / "summary.json", record)
        write_csv(out / "utility.csv", measured.frame())
    if arguments.json:
        print_json(record)
        return
    _print(measured)
    print_written(out, "utility.csv")


def _check(arguments: argparse.Namespace) -> None:
    """Tell what would be passed over, or could not be read, before a model is loaded."""
    from actor_lens.evaluation.perplexity import read_text

    if arguments.text is not None:
        read_text(Path(arguments.text).expanduser())
    else:
        _refuse(arguments, ("window", "stride"), "the perplexity of a text; add --text FILE")
    if not arguments.tasks:
        names = ("include_path", "limit", "num_fewshot", "chat")
        _refuse(arguments, names, "benchmarks; add --tasks NAME")


def _refuse(arguments: argparse.Namespace, names: Sequence[str], about: str) -> None:
    for name in names:
        given = getattr(arguments, name)
        if given is not None and given is not False:  # 0 was given too
            raise UserError(f"--{name.replace('_', '-')} is about {about}")


def _measure(
    arguments: argparse.Namespace,
    model: Any,
    run: Any,
    prompts: PromptSet,
) -> Utility:
    from actor_lens.evaluation.utility import measure_utility

    benign = prompts.where(split="test", label="benign")
    settings: dict[str, Any] = {
        name: getattr(arguments, name)
        for name in "tasks include_path window stride limit num_fewshot chat new_tokens".split()
    }
    if arguments.text is not None:  # a path: a file that is not there must not pass for a text
        settings["text"] = Path(arguments.text).expanduser()
    return measure_utility(model, run, prompts=benign if len(benign) else None, **settings)


def _print(measured: Utility) -> None:
    """Print one row a measure, and what became of the paper's claim."""
    print_table(
        "Utility before and after",
        ("measure", "n", "before", "after", "change"),
        (
            [
                f"{each.measure}, {each.unit}",
                f"{each.n:,}",
                number_text(each.before, ".4g"),
                f"{each.after:.4g}",
                number_text(each.change, "+.2f") + (" points" if each.is_share else " %"),
            ]
            for each in measured.measures
        ),
    )
    say(measured.claim)
