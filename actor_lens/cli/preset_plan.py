"""A preset on the command line: the plan that it stands for, printed or put in place.

What was given on the command line comes first; the preset fills in the rest. ``compare --preset``
is its only user.
"""

from __future__ import annotations

import argparse

from actor_lens.cli.printing import print_json, print_table
from actor_lens.cli.values import names
from actor_lens.errors import UserError
from actor_lens.experiments.presets import preset_named


def apply_preset(arguments: argparse.Namespace) -> bool:
    """Fill in what was not given, or with ``--dry-run`` print the plan.

    Args:
        arguments: Values of the flags of ``compare``; ``model`` becomes the hub name,
            ``prompts``, ``anchors``, ``judge``, ``new_tokens`` and ``per_label`` those of the
            preset, and ``methods`` a list of methods with the settings that were published. A
            dry run without ``model`` prints the plans of all models.

    Returns:
        Whether the plan was printed, and there is nothing more to do.

    Raises:
        UserError: If the preset, its model or a method is not known, or no model is named.
    """
    preset = preset_named(arguments.preset)
    if arguments.dry_run:
        named = list(preset.models) if arguments.model is None else [arguments.model]
        plans = {name: preset.plan(name) for name in named}
        if arguments.json:
            records = {name: plan.to_dict("records") for name, plan in plans.items()}
            print_json({"preset": preset.name, "plan": records})
            return True
        for name, plan in plans.items():
            columns = list(map(str, plan))
            rows = plan.itertuples(index=False, name=None)
            print_table(f"What preset {preset.name} stands for: {name}", columns, rows, texts=3)
        return True
    if arguments.model is None:
        raise UserError(
            f"--preset {preset.name} needs a model; add --model with one of: "
            f"{', '.join(preset.models)}"
        )
    arguments.model = preset.model(arguments.model).hub_id
    arguments.prompts = arguments.prompts or preset.prompts
    arguments.anchors = arguments.anchors or preset.anchors
    arguments.judge = arguments.judge or preset.judge
    arguments.new_tokens = arguments.new_tokens or preset.new_tokens
    if arguments.per_label is ...:
        arguments.per_label = None  # all that the mixture draws
    chosen = list(preset.methods) if arguments.methods == "all" else names(arguments.methods)
    arguments.methods = [preset.method(name, arguments.model) for name in chosen]
    return False
