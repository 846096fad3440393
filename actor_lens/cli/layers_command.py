"""The command ``layers``: score every layer and say which to train.

Directions are fitted on the training prompts and scored on the validation prompts; nothing is
trained. Layers whose score lies within the interval of the best one tie, and the reason for the
recommended one is printed. ``actor-lens sweep`` trains the layers instead of predicting.

Files in ``--out``:
    layers.csv: One row a layer, score and pair of labels, with 95 % intervals and the band under
        permuted labels.
    layers.html: Figures of projections and scores, offline.
    summary.json: The record that ``--json`` prints.

Ctrl-C writes nothing; residuals that were collected stay in the activation store, so that the next
call is quicker.

Examples:
    actor-lens layers
    actor-lens layers --model HuggingFaceTB/SmolLM2-135M-Instruct --prompts starter --out look
    actor-lens layers --by auroc --alpha 0.5 --json
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from actor_lens.cli.arguments import (
    TARGET_SETTINGS,
    add_choice,
    add_command,
    add_common,
    add_settings,
    settings_of,
)
from actor_lens.cli.inputs import (
    load_model_and_prompts,
    model_settings,
    open_progress,
    sample_prompts,
)
from actor_lens.cli.printing import give_results, print_layers
from actor_lens.cli.writing import prepare_out
from actor_lens.directions.options import SCORES
from actor_lens.errors import check_choice
from actor_lens.results import versions
from actor_lens.training.config import FinetuneConfig


def add_commands(commands: Any) -> None:
    """Register ``layers``."""
    parser = add_command(commands, "layers", layers, "score every layer and say which to train")
    add_common(parser)
    add_choice(parser)
    add_settings(parser, *TARGET_SETTINGS)


def layers(arguments: argparse.Namespace) -> None:
    """Score every layer.

    Raises:
        UserError: If a setting is not allowed, the prompts lack a label or a split, the model
            refuses none of them, or ``--out`` cannot be written.
    """
    out = prepare_out(arguments)
    with open_progress(arguments):
        from actor_lens.experiments.look import look_at_layers

        # Looking takes long: first what would fail after it.
        if arguments.by is not None:
            check_choice("score", arguments.by, SCORES)
        FinetuneConfig(layer=0, **settings_of(arguments))
        model, prompts, load_seconds = load_model_and_prompts(arguments)
        look = look_at_layers(
            model,
            prompts,
            train=sample_prompts(prompts.where(split="train"), arguments),
            alpha=arguments.alpha,
            origin=arguments.origin,
            seed=arguments.seed,
        )
    choice = look.scores.best(arguments.by)
    summary = look.summary()
    record = {
        **summary,
        "model_settings": model_settings(model),
        "layer": choice.layer,
        "layer_by": choice.by,
        "layer_reason": choice.reason,
        "layer_ties": list(choice.ties),
        "seconds": {"load": load_seconds, **summary["seconds"]},
        "seed": arguments.seed,
        "versions": versions(),
    }
    if out is not None:
        from actor_lens.report.layers_report import write_look

        write_look(look, choice, out / "layers.html")
    tables = {"layers.csv": look.scores.frame}
    show = partial(print_layers, look.scores, choice)
    give_results(arguments, out, record, tables, show, "layers.html")
