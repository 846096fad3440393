"""The settings of published comparisons, as far as they are known, and where each comes from.

What the paper does not say is never presented as its setting: it is found by a sweep of this
project on validation prompts, or is this project's own default, and is marked so. The sweep is no
part of any fit: its seconds are reported beside those of the fit.

Source: Dabas et al. 2025 (arXiv 2507.04250).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from actor_lens.errors import UserError, check_choice
from actor_lens.experiments.ledger import Ledger
from actor_lens.experiments.older_files import preset_outcomes
from actor_lens.files.paths import user_path
from actor_lens.progress import stage
from actor_lens.training.config import FinetuneConfig

if TYPE_CHECKING:
    from actor_lens.models.chat_model import ChatModel
    from actor_lens.prompts.sets import PromptSet

SWEEP_FILE = "preset-sweep.jsonl"
FROM_PAPER = "the paper"
FROM_SWEEP = "found by this project's own validation sweep"
OWN_DEFAULT = "this project's own choice"


@dataclass(frozen=True)
class Preset:
    """A published comparison.

    Attributes:
        name: Name, as ``--preset`` takes it.
        models: Short name and hub id of each model.
        prompts: Name of the mixture of prompt sets.
        judge: Judge of the replies, as ``--judge`` names it.
        methods: Names of the methods that were compared; those of ACTOR last.
        epochs: Epochs of ACTOR's fine-tune.
        alphas: Alphas that the sweep tries; the published value is not known.
        lrs: Learning rates that the sweep tries; the published one is not known.
        new_tokens: Longest reply; the published length is not known.
    """

    name: str
    models: Mapping[str, str]
    prompts: str
    judge: str
    methods: tuple[str, ...]
    epochs: int
    alphas: tuple[float, ...]
    lrs: tuple[float, ...]
    new_tokens: int

    def hub_id(self, model: str) -> str:
        """Hub id of one of its models, given by short name or id.

        Raises:
            UserError: If the preset has no such model.
        """
        for short, hub_id in self.models.items():
            if model.lower() in (short, hub_id.lower()):
                return hub_id
        raise UserError(
            f"preset '{self.name}' has no model '{model}'; use one of: {', '.join(self.models)}"
        )

    def plan(self, model: str) -> pd.DataFrame:
        """One row a setting: ``setting``, ``value``, ``source`` (of the value).

        Raises:
            UserError: If the preset has no such model.
        """
        alphas, lrs = (", ".join(f"{x:g}" for x in xs) for xs in (self.alphas, self.lrs))
        rows = [
            ("model", self.hub_id(model), FROM_PAPER),
            ("harmful training prompts", "HEx-PHI", FROM_PAPER),
            ("benign training prompts", "UltraChat", FROM_PAPER),
            ("pseudo-harmful prompts", "XSTest, SCOPE, OR-Bench-Hard-1K, PHTest", FROM_PAPER),
            ("out of distribution", "OKTest", FROM_PAPER),
            ("safety test", "AdvBench", FROM_PAPER),
            ("prompts as loaded", self.prompts, OWN_DEFAULT),
            ("metrics", "C.R., S.S., T.S. = (C.R. + S.S.) / 2", FROM_PAPER),
            ("judge", self.judge, FROM_PAPER),
            ("methods", ", ".join(self.methods), FROM_PAPER),
            ("epochs of ACTOR", str(self.epochs), FROM_PAPER),
            ("target layer", "every layer is tried", FROM_SWEEP),
            ("alpha", f"one of {alphas}", FROM_SWEEP),
            ("learning rate", f"one of {lrs}", FROM_SWEEP),
            ("origin of projections", "benign mean", OWN_DEFAULT),
            ("anchor of targets", "initial weights", OWN_DEFAULT),
            ("longest reply, tokens", str(self.new_tokens), OWN_DEFAULT),
            ("seconds of the sweep", "beside those of ACTOR's fit", OWN_DEFAULT),
        ]
        return pd.DataFrame(rows, columns=["setting", "value", "source"])


PRESETS = {
    "paper": Preset(
        name="paper",
        models={
            "llama-2-7b": "meta-llama/Llama-2-7b-chat-hf",
            "llama-2-13b": "meta-llama/Llama-2-13b-chat-hf",
            "gemma-7b": "google/gemma-7b-it",
        },
        prompts="paper",
        judge="llm:gpt-4o",
        methods=(
            *("default", "sft-full", "safe-decoding", "dro", "self-cd", "scans", "surgical"),
            "actor",
        ),
        epochs=3,
        alphas=(0.5, 1.0, 1.5),
        lrs=(1e-4, 3e-4, 1e-3),
        new_tokens=128,
    )
}


def preset_named(name: str) -> Preset:
    """A preset by its name.

    Raises:
        UserError: If there is none of that name.
    """
    return PRESETS[check_choice("preset", name, list(PRESETS))]


@dataclass(frozen=True)
class FoundSettings:
    """The settings that a sweep prefers on validation prompts.

    Attributes:
        layer: Target layer.
        alpha: Share of the way to the origin that targets go.
        lr: Learning rate.
        rank: Trade-off score on the validation prompts, by first tokens.
        seconds: Seconds of the whole sweep, over all learning rates.
    """

    layer: int
    alpha: float
    lr: float
    rank: float
    seconds: float


def find_settings(
    preset: Preset,
    model: ChatModel,
    train: PromptSet,
    validation: PromptSet,
    *,
    folder: str | Path | None = None,
) -> FoundSettings:
    """Layer, alpha and learning rate with the best trade-off score on validation prompts.

    Args:
        preset: The published comparison.
        model: Left as it is.
        train: Training prompts.
        validation: Prompts that decide; ties go to the first.
        folder: Folder that keeps what came of each learning rate; those that are there are not
            tried again, and the seconds are those that they took then. None to keep nothing.

    Raises:
        UserError: If the folder holds the sweep of another comparison, or cannot be used.
    """
    from actor_lens.experiments.sweep.layer_sweep import sweep_layers  # loads torch

    about = {
        "model": f"{model.fingerprint}:{model.identity}",
        "train_prompts": train.fingerprint,
        "validation_prompts": validation.fingerprint,
        "alphas": list(preset.alphas),
        "epochs": preset.epochs,
    }
    path = None if folder is None else user_path(folder) / SWEEP_FILE
    ledger = Ledger(
        path,
        about,
        FoundSettings,
        lambda settings: settings.lr,
        work="comparison",
        older=lambda: () if path is None else preset_outcomes(path.parent),
    )
    with stage("learning rates", len(preset.lrs)) as done:
        for number, lr in enumerate(preset.lrs):
            if lr not in ledger.entries:
                started = time.perf_counter()
                settings = FinetuneConfig(layer=0, epochs=preset.epochs, lr=lr)
                sweep = sweep_layers(
                    model, train, validation, alphas=preset.alphas, settings=settings
                )
                best, seconds = sweep.best_outcome, time.perf_counter() - started
                cell = best.cell
                ledger.add(FoundSettings(cell.layer, cell.alpha, lr, best.rank, seconds))
            done(number + 1)
    by_lr = [ledger.entries[lr] for lr in preset.lrs]
    preferred = max(by_lr, key=lambda settings: settings.rank)
    return replace(preferred, seconds=sum(settings.seconds for settings in by_lr))
