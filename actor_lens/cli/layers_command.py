"""The command ``layers``: score every layer and say which to train."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actor_lens.cli.arguments import (
    TARGET_SETTINGS,
    add_choice,
    add_command,
    add_common,
    add_settings,
)
from actor_lens.cli.inputs import load_model_and_prompts, model_settings, open_progress
from actor_lens.cli.printing import print_json, print_layers, print_written
from actor_lens.cli.writing import prepare_out, write_csv, write_json
from actor_lens.results import versions

if TYPE_CHECKING:
    from actor_lens.directions.layer_scores import LayerChoice
    from actor_lens.experiments.look import Look
    from actor_lens.prompts.sets import PromptSet


def add_commands(commands: Any) -> None:
    """Register ``layers``."""
    parser = add_command(commands, "layers", layers, "score every layer and say which to train")
    add_common(parser)
    add_choice(parser)
    add_settings(parser, *TARGET_SETTINGS)


def layers(arguments: argparse.Namespace) -> None:
    """Score every layer."""
    out = prepare_out(arguments)
    with open_progress(arguments):
        from actor_lens.experiments.look import look_at_layers

        _check_choice(arguments)
        model, prompts, load_seconds = load_model_and_prompts(arguments)
        look = look_at_layers(
            model,
            prompts,
            train=_train_prompts(arguments, prompts),
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
        "seconds": {"load": round(load_seconds, 3), **summary["seconds"]},
        "seed": arguments.seed,
        "versions": versions(),
    }
    _write_look(out, record, look, choice)
    if arguments.json:
        print_json(record)
        return
    print_layers(look.scores, choice)
    print_written(out, "layers.html")


def _check_choice(arguments: argparse.Namespace) -> None:
    """Looking takes long: first what would fail after it."""
    from actor_lens.directions.options import ORIGINS, SCORES
    from actor_lens.errors import check_choice, check_positive

    if arguments.by is not None:
        check_choice("score", arguments.by, SCORES)
    check_choice("origin", arguments.origin, ORIGINS)
    check_positive("alpha", arguments.alpha)


def _train_prompts(arguments: argparse.Namespace, prompts: PromptSet) -> PromptSet:
    train_prompts = prompts.where(split="train")
    if arguments.per_label is None:
        return train_prompts
    return train_prompts.sample(arguments.per_label, seed=arguments.seed)


def _write_look(out: Path | None, record: dict[str, Any], look: Look, choice: LayerChoice) -> None:
    if out is None:
        return
    from actor_lens.report.layers_report import write_look

    write_json(out / "summary.json", record)
    write_csv(out / "layers.csv", look.scores.frame())
    write_look(look, choice, out / "layers.html")
