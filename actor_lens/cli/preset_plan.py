"""A preset on the command line: the plan that it stands for, printed or put in place."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actor_lens.cli.printing import print_json, print_table
from actor_lens.errors import UserError
from actor_lens.experiments.presets import preset_named

if TYPE_CHECKING:
    import pandas as pd

    from actor_lens.models.chat_model import ChatModel
    from actor_lens.prompts.sets import PromptSet


def apply_preset(arguments: argparse.Namespace) -> bool:
    """Fill in what was not given; with ``--dry-run`` print the plan instead and return True.

    Raises:
        UserError: If the preset or its model is not known.
    """
    preset = preset_named(arguments.preset)
    if arguments.model is None:
        raise UserError(
            f"--preset {preset.name} needs a model; add --model with one of: "
            f"{', '.join(preset.models)}"
        )
    plan = preset.plan(arguments.model)
    if arguments.dry_run:
        if arguments.json:
            print_json({"preset": preset.name, "plan": plan.to_dict("records")})
        else:
            _print(plan)
        return True
    arguments.model = preset.hub_id(arguments.model)
    arguments.prompts = arguments.prompts or preset.prompts
    arguments.judge = arguments.judge or preset.judge
    arguments.new_tokens = arguments.new_tokens or preset.new_tokens
    if arguments.methods == "all":
        arguments.methods = ",".join(preset.methods)
    return False


def methods_of_preset(
    arguments: argparse.Namespace,
    model: ChatModel,
    prompts: PromptSet,
    out: Path | None,
) -> tuple[list[Any], dict[str, float]]:
    """The methods, ACTOR with the settings that a sweep finds, and the seconds of the sweep.

    The sweep sees validation prompts only. Its outcome is kept in ``out`` and not found again.

    Raises:
        UserError: If a method is not known, or ``out`` holds the sweep of another comparison.
    """
    from actor_lens.experiments.presets import find_settings
    from actor_lens.methods import make_method

    preset = preset_named(arguments.preset)
    names = [name.strip() for name in arguments.methods.split(",")]
    for name in names:  # before the sweep, which may take hours
        make_method(name)
    if "actor" not in names:
        return list(names), {}
    train, validation, _ = prompts.by_split()
    if arguments.per_label is not None:
        train = train.sample(arguments.per_label, seed=arguments.seeds[0])
    found = find_settings(preset, model, train, validation, folder=out)
    settings = {"layer": found.layer, "alpha": found.alpha, "lr": found.lr}
    actor = make_method("actor", **settings, epochs=preset.epochs)
    methods = [actor if name == "actor" else name for name in names]
    return methods, {"actor": found.seconds}


def _print(plan: pd.DataFrame) -> None:
    columns = [str(column) for column in plan.columns]
    rows = plan.itertuples(index=False, name=None)
    print_table("What the preset stands for", columns, rows, texts=len(columns))
