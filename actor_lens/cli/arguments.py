"""Arguments that several commands have, and what they name: a model, prompts, a run."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from actor_lens.errors import UserError

if TYPE_CHECKING:
    from actor_lens.cli.progress import ProgressBars
    from actor_lens.judges.base import Judge
    from actor_lens.judges.language_model import JudgingCost
    from actor_lens.models.chat_model import ChatModel
    from actor_lens.prompts.sets import PromptSet
    from actor_lens.training.run import TrainingRun

PROGRAM = "actor-lens"
NEW_TOKENS = 64
"""Longest reply unless another length is given."""


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
    add_target(parser)
    _add_target_variants(parser)
    _add_optimizer(parser)
    add(
        "--safety-floor",
        type=number,
        metavar="X",
        help="keep the best weights at which refusals of harmful validation prompts fell by at "
        "most this share; default: none",
    )
    add(
        "--resume",
        action="store_true",
        help="continue the stopped run in --out, with the same settings (--epochs may differ)",
    )
    add_replies(parser, new_tokens)


def _add_target_variants(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--anchor",
        default="initial",
        metavar="initial|current",
        help="weights that targets are computed from: untrained, or those of the moment, as in "
        "the paper; default: initial",
    )
    add(
        "--shift",
        default="projected",
        metavar="projected|uniform",
        help="how far targets lie: each prompt by its own projection, or all equally far; "
        "default: projected",
    )
    add(
        "--refresh",
        default="epoch",
        metavar="epoch|step|never",
        help="how often the direction is computed again, with --anchor current; default: epoch",
    )


def _add_optimizer(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--epochs",
        type=integer,
        default=8,
        metavar="N",
        help="passes over the training prompts; default: 8",
    )
    add(
        "--lr",
        type=number,
        default=1e-3,
        metavar="X",
        help="learning rate of AdamW; default: 0.001",
    )
    add(
        "--train-batch-size",
        type=integer,
        default=16,
        metavar="N",
        help="prompts in a training step; default: 16",
    )


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


def add_target(parser: argparse.ArgumentParser) -> None:
    """Where targets lie."""
    add = parser.add_argument
    add(
        "--alpha",
        type=number,
        default=1.0,
        metavar="X",
        help="how much of the way to the origin a target goes; default: 1",
    )
    add(
        "--origin",
        default="benign_mean",
        metavar="benign_mean|midpoint|zero",
        help="where a projection counts as none; zero is the paper's formula; default: benign_mean",
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


# ---- What the arguments name ----


def load_model_and_prompts(
    arguments: argparse.Namespace, run: TrainingRun | None = None
) -> tuple[ChatModel, PromptSet, float]:
    """Model and prompts, prompts first: a broken file shows before the model is read.

    Args:
        arguments: Of ``add_common``; a seed that was not given is filled in.
        run: Its model, prompts and seed stand in for those that were not given, and so do the
            revision, chat template and system prompt that its model was loaded with.

    Returns:
        Model, prompts and the seconds that loading took.

    Raises:
        UserError: If one of them cannot be loaded.
    """
    import time

    from actor_lens.prompts.loading import load_prompts

    started = time.perf_counter()
    name = arguments.model or (run.model_name if run is not None else "toy")
    if arguments.seed is None:  # the seed that drew the splits which the run was trained on
        arguments.seed = run.config.seed if run is not None else 0
    prompts = load_prompts(arguments.prompts or _default_prompts(name, run), seed=arguments.seed)
    recorded = {} if run is None else dict(run.load_settings)
    if run is not None and name != run.model_name:
        recorded.pop("revision", None)  # another model has other revisions
    model = load_named_model(name, arguments, recorded)
    return model, prompts, time.perf_counter() - started


def read_summary(folder: str) -> dict[str, Any] | None:
    """The ``summary.json`` that a command wrote into a folder; None where there is none.

    Raises:
        UserError: If it cannot be read.
    """
    import json
    from pathlib import Path

    path = Path(folder).expanduser() / "summary.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: is not a summary ({type(error).__name__}); remove it or write it again"
        ) from error
    return found if isinstance(found, dict) else None


def load_named_model(
    name: str, arguments: argparse.Namespace, recorded: Mapping[str, str] | None = None
) -> ChatModel:
    """Load a model with the arguments of ``add_loading``; only those given are handed on.

    Args:
        name: Of the model.
        arguments: Of ``add_loading``.
        recorded: ``load_settings`` of a run, for what was not given.

    Raises:
        UserError: If it cannot be loaded.
    """
    from actor_lens.models.chat_model import load_model

    given: dict[str, Any] = {
        "chat_template": arguments.chat_template,
        "device_map": arguments.device_map,
        "system_prompt": _text_or_file(arguments.system_prompt),
        "revision": arguments.revision,
        "quantization": arguments.quantization,
    }
    return load_model(
        name,
        device=arguments.device,
        dtype=arguments.dtype,
        batch_size=getattr(arguments, "batch_size", None),
        trust_remote_code=arguments.trust_remote_code,
        **{**(recorded or {}), **{key: one for key, one in given.items() if one is not None}},
    )


def _text_or_file(given: str | None) -> str | None:
    """The content of a file if there is one of that name, else the text itself."""
    import os
    from pathlib import Path

    if given is None or not os.path.isfile(given):
        return given
    try:
        return Path(given).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise UserError(
            f"system prompt file '{given}' cannot be read as UTF-8 text ({type(error).__name__}); "
            "mend it, or give the text itself"
        ) from error


def model_settings(model: ChatModel) -> dict[str, Any]:
    """How a model was loaded, for the record that a command writes."""
    source = model.source or {}
    return {
        "revision": source.get("revision"),
        "system_prompt": model.system_prompt,
        "quantization": model.quantization,
        "dtype": str(model.hf.dtype).removeprefix("torch."),
        "fingerprint": model.fingerprint,
    }


def _default_prompts(model: str, run: TrainingRun | None) -> str:
    from actor_lens.prompts.mixtures import BUNDLED

    if run is None:
        return "toy" if model == "toy" else "starter"
    if run.prompts_name in BUNDLED:
        return run.prompts_name
    raise UserError(
        f"the run was trained on the prompts '{run.prompts_name}'; give that file with --prompts"
    )


def open_judge(arguments: argparse.Namespace, name: str | None = None) -> Judge:
    """A judge; one that costs money says how much it will send.

    Args:
        arguments: With ``--judge`` and ``--quiet``.
        name: In place of that of ``--judge``.

    Raises:
        UserError: If there is no such judge or it cannot be used.
    """
    from rich.console import Console

    from actor_lens.judges.by_name import make_judge

    name = name or arguments.judge or "keywords"
    console = Console(stderr=True, quiet=arguments.quiet, emoji=False)

    def tell(cost: JudgingCost) -> None:
        console.print(
            f"Judging {cost.requests} replies by {name} ({cost.cached} known): about "
            f"{cost.tokens_in:,} tokens sent, at most {cost.tokens_out:,} back.",
            markup=False,
            highlight=False,
        )

    return make_judge(name, on_estimate=tell)


def load_run(folder: str | None) -> TrainingRun | None:
    """The run in a folder; None for None.

    Raises:
        UserError: If the folder holds no complete run.
    """
    if folder is None:
        return None
    from actor_lens.training.run import TrainingRun

    return TrainingRun.load(folder)


def open_progress(arguments: argparse.Namespace) -> ProgressBars:
    """Progress on the error stream, or none with ``--quiet``; a context manager."""
    from actor_lens.cli.progress import ProgressBars

    return ProgressBars(quiet=arguments.quiet)
