"""What the arguments of commands name: a model, prompts, a run, a judge.

Each is opened in the order in which it can fail soonest: prompts and judge before the model, whose
weights take longest to read.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from actor_lens.cli.printing import console, say
from actor_lens.errors import UserError
from actor_lens.files.paths import user_path
from actor_lens.prompts.rows import SPLITS
from actor_lens.text import clip, one_line

if TYPE_CHECKING:
    from actor_lens.cli.progress import ProgressBars
    from actor_lens.judges.base import Judge
    from actor_lens.judges.language_model import JudgingCost
    from actor_lens.models.chat_model import ChatModel
    from actor_lens.prompts.sets import PromptSet
    from actor_lens.training.run import TrainingRun


def load_model_and_prompts(
    arguments: argparse.Namespace, run: TrainingRun | None = None
) -> tuple[ChatModel, PromptSet, float]:
    """Model and prompts, prompts first: a broken file shows before the model is read.

    Args:
        arguments: Values of the flags of ``add_common``; a seed that was not given is filled in.
        run: A run whose model, prompts and seed stand in for those that were not given, and so do
            the revision, adapter, chat template and system prompt that its model was loaded with.

    Returns:
        Model, prompts and the seconds that loading took, to the millisecond.

    Raises:
        UserError: If one of them cannot be loaded.
    """
    from actor_lens.prompts.loading import load_prompts

    started = time.perf_counter()
    name = arguments.model or (run.model_name if run is not None else "toy")
    if arguments.seed is None:  # the seed that drew the splits which the run was trained on
        arguments.seed = run.config.seed if run is not None else 0
    prompts = load_prompts(arguments.prompts or _default_prompts(name, run), seed=arguments.seed)
    prompts = arrange(prompts, arguments)
    if arguments.split_by is not None and not arguments.json:
        say_sources(prompts)
    recorded = {} if run is None else dict(run.load_settings)
    if run is not None and name != run.model_name:
        for own in ("revision", "adapter"):  # another model has others
            recorded.pop(own, None)
    model = load_named_model(name, arguments, recorded)
    return model, prompts, round(time.perf_counter() - started, 3)


def arrange(prompts: PromptSet, arguments: argparse.Namespace) -> PromptSet:
    """Split prompts as ``--split-by`` says, match them as ``--balance`` says; say what is left.

    Raises:
        UserError: If there are too few sources, or too few prompts are left.
    """
    if getattr(arguments, "split_by", None) is not None:
        from actor_lens.prompts.splits import split_prompts

        prompts = split_prompts(prompts, seed=arguments.seed, by_source=True)
    if getattr(arguments, "balance", None) is None:
        return prompts
    from actor_lens.prompts.form import balance_form

    matched = balance_form(prompts, seed=arguments.seed)
    for split in ("train", "validation"):
        before, after = len(prompts.where(split=split)), len(matched.where(split=split))
        if not arguments.json:
            say(f"Balanced by form: {after} of {before} {split} prompts are left.")
    return matched


def say_sources(prompts: PromptSet) -> None:
    """Print how many harmful prompts of each split come from which source, where it is known."""
    for split in SPLITS:
        harmful = prompts.where("harmful", split)
        counts = Counter(one.source for one in harmful if one.source).most_common()
        texts = [f"{clip(one_line(source), 40)} {n}" for source, n in counts[:8]]
        more = f" and {len(counts) - 8} more" if len(counts) > 8 else ""
        if counts:
            say(f"Harmful prompts of {split}, by source: {', '.join(texts)}{more}.")


def load_anchors(arguments: argparse.Namespace) -> PromptSet | None:
    """Prompts that R is made of, whatever their splits; None without ``--anchors``.

    Raises:
        UserError: If they cannot be loaded, or harmful or benign ones are missing.
    """
    if arguments.anchors is None:
        return None
    from actor_lens.prompts.mixtures import load_anchors as load

    return load(arguments.anchors, seed=arguments.seed or 0)


def read_summary(folder: str) -> dict[str, Any] | None:
    """The ``summary.json`` that a command wrote into a folder; None where there is none.

    Raises:
        UserError: If it cannot be read.
    """
    path = user_path(folder) / "summary.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: is not a summary ({type(error).__name__}); remove it or write it again"
        ) from error
    return record if isinstance(record, dict) else None


def load_named_model(
    name: str, arguments: argparse.Namespace, recorded: Mapping[str, str] | None = None
) -> ChatModel:
    """Load a model with the arguments of ``add_loading``; only those given are handed on.

    Args:
        name: Hub name or folder of the model, or ``"toy"``.
        arguments: Values of the flags of ``add_loading``.
        recorded: Settings that the model of a run was loaded with, for what was not given.

    Raises:
        UserError: If it cannot be loaded.
    """
    from actor_lens.models.chat_model import load_model

    names = ("adapter", "chat_template", "device_map", "revision", "quantization")
    settings = {name: getattr(arguments, name) for name in names}
    settings["system_prompt"] = _text_or_file(arguments.system_prompt)
    settings = {name: value for name, value in settings.items() if value is not None}
    return load_model(
        name,
        device=arguments.device,
        dtype=arguments.dtype,
        batch_size=getattr(arguments, "batch_size", None),
        trust_remote_code=arguments.trust_remote_code,
        **{**(recorded or {}), **settings},
    )


def _text_or_file(text: str | None) -> str | None:
    """The content of a file if there is one of that name, else the text itself."""
    if text is None or not os.path.isfile(os.path.expanduser(text)):
        return text
    try:
        return user_path(text).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise UserError(
            f"system prompt file '{text}' cannot be read as UTF-8 text ({type(error).__name__}); "
            "fix it, or give the text itself"
        ) from error


def model_settings(model: ChatModel) -> dict[str, Any]:
    """How a model was loaded, for the record that a command writes; None for what it has not."""
    return {
        "revision": (model.source or {}).get("revision"),
        "adapter": (model.source or {}).get("adapter"),
        "system_prompt": model.system_prompt,
        "quantization": model.quantization,
        "dequantized": model.dequantized,
        "dtype": str(model.hf.dtype).removeprefix("torch."),
        "fingerprint": model.fingerprint,
    }


def _default_prompts(model: str, run: TrainingRun | None) -> str:
    """Prompts where none were named: those of the run, else ones that fit the model.

    Raises:
        UserError: If the run was trained on a file, whose place is not known.
    """
    from actor_lens.models.smollm2 import CAUTIOUS
    from actor_lens.prompts.mixtures import BUNDLED

    if run is None:
        return {"toy": "toy", CAUTIOUS: "starter,twins"}.get(model, "starter")
    if set(run.prompts_name.split(",")) <= set(BUNDLED):
        return run.prompts_name
    raise UserError(
        f"the run was trained on the prompts '{run.prompts_name}'; give that file with --prompts"
    )


def open_judge(arguments: argparse.Namespace, name: str | None = None) -> Judge:
    """The judge of that name, else of ``--judge``; one that costs money says what it will send.

    Raises:
        UserError: If there is no such judge or it cannot be used.
    """
    from actor_lens.judges.by_name import make_judge

    name = name or arguments.judge or "keywords"
    errors = console(stderr=True, quiet=arguments.quiet)

    def announce(cost: JudgingCost) -> None:
        errors.print(
            f"Judging {cost.requests} replies by {name} ({cost.cached} known): about "
            f"{cost.tokens_in:,} tokens sent, at most {cost.tokens_out:,} back.",
            markup=False,
        )

    return make_judge(name, on_estimate=announce)


def load_run(folder: str) -> TrainingRun:
    """The run in a folder that ``train`` or ``demo`` wrote.

    Raises:
        UserError: If the folder holds no complete run.
    """
    from actor_lens.training.run import TrainingRun

    return TrainingRun.load(folder)


def open_progress(arguments: argparse.Namespace) -> ProgressBars:
    """Progress on the error stream, or none with ``--quiet``; a context manager."""
    from actor_lens.cli.progress import ProgressBars

    return ProgressBars(quiet=arguments.quiet)
