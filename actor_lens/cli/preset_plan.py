"""A preset on the command line: the plan that it stands for, printed or put in place.

What was given on the command line comes first; the preset fills in the rest. ``compare --preset``
is its only user.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actor_lens.cli.inputs import sample_prompts
from actor_lens.cli.printing import print_json, print_table
from actor_lens.cli.values import names
from actor_lens.errors import UserError
from actor_lens.experiments.presets import preset_named

if TYPE_CHECKING:
    from actor_lens.models.chat_model import ChatModel
    from actor_lens.prompts.sets import PromptSet


def apply_preset(arguments: argparse.Namespace) -> bool:
    """Fill in what was not given, or with ``--dry-run`` print the plan.

    Args:
        arguments: Values of the flags of ``compare``; ``model`` becomes the hub name, and
            ``prompts``, ``judge``, ``new_tokens`` and ``methods`` those of the preset.

    Returns:
        Whether the plan was printed, and there is nothing more to do.

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
            columns = list(map(str, plan))
            rows = plan.itertuples(index=False, name=None)
            print_table("What the preset stands for", columns, rows, texts=len(columns))
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
    """The methods to compare, ACTOR with the settings that a sweep finds.

    The sweep sees training and validation prompts only. Its outcome is kept in ``out``: the same
    command does not sweep again.

    Args:
        arguments: ``preset``, ``methods``, ``per_label`` and ``seeds`` are read.
        model: The model.
        prompts: Prompts with all their splits.
        out: Folder of the comparison; None where nothing is kept.

    Returns:
        Names of methods, an ``Actor`` in place of its name, and the seconds of the sweep by method.

    Raises:
        UserError: If a method is not known, or ``out`` holds the sweep of another comparison.
    """
    from actor_lens.experiments.presets import find_settings
    from actor_lens.methods import make_method

    preset = preset_named(arguments.preset)
    listed = names(arguments.methods)
    for name in listed:  # before the sweep, which may take hours
        make_method(name)
    if "actor" not in listed:
        return list(listed), {}
    train, validation, _ = prompts.by_split()
    train = sample_prompts(train, arguments, seed=arguments.seeds[0])
    best = find_settings(preset, model, train, validation, folder=out)
    actor = make_method(
        "actor", layer=best.layer, alpha=best.alpha, lr=best.lr, epochs=preset.epochs
    )
    methods = [actor if name == "actor" else name for name in listed]
    return methods, {"actor": best.seconds}
