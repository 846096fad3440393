"""The settings that a preset leaves open, found by a sweep on validation prompts and kept.

The sweep is no part of any fit: its seconds are reported beside those of the fit.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from actor_lens.errors import UserError
from actor_lens.experiments.presets import Preset
from actor_lens.experiments.sweep.layer_sweep import sweep_layers
from actor_lens.files.saving import replacing
from actor_lens.models.chat_model import ChatModel
from actor_lens.progress import stage
from actor_lens.prompts.sets import PromptSet
from actor_lens.training.config import FinetuneConfig

SWEEP_FILE = "preset-sweep.json"


@dataclass(frozen=True)
class FoundSettings:
    """What the sweep found best on validation prompts.

    Attributes:
        layer: Target layer.
        alpha: How much of the way to the origin targets go.
        lr: Learning rate.
        rank: Trade-off score on the validation prompts, by first tokens.
        seconds: Of the whole sweep, over all learning rates.
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
        preset: What to try.
        model: Left as it is.
        train: Training prompts.
        validation: Prompts that decide; the first of equals wins.
        folder: Keeps what came of each learning rate; those that are there are not tried again,
            and the seconds are those that they took then. None to keep nothing.

    Raises:
        UserError: If the folder holds the sweep of another comparison, or cannot be used.
    """
    notes = (
        None
        if folder is None
        else SweepNotes(Path(folder), _about(preset, model, train, validation))
    )
    tried: list[FoundSettings] = []
    with stage("learning rates", len(preset.lrs)) as done:
        for lr in preset.lrs:
            found = None if notes is None else notes.find(lr)
            if found is None:
                found = _tried(preset, model, train, validation, lr)
                if notes is not None:
                    notes.add(found)
            tried.append(found)
            done(len(tried))
    best = max(tried, key=lambda one: one.rank)
    return replace(best, seconds=sum(one.seconds for one in tried))


def _tried(
    preset: Preset, model: ChatModel, train: PromptSet, validation: PromptSet, lr: float
) -> FoundSettings:
    """The best layer and alpha of one learning rate, and the seconds of its sweep."""
    started = time.perf_counter()
    settings = FinetuneConfig(layer=0, epochs=preset.epochs, lr=lr)
    sweep = sweep_layers(model, train, validation, alphas=preset.alphas, settings=settings)
    best = sweep.best_outcome
    seconds = time.perf_counter() - started
    return FoundSettings(best.cell.layer, best.cell.alpha, lr, best.rank, seconds)


def _about(
    preset: Preset, model: ChatModel, train: PromptSet, validation: PromptSet
) -> dict[str, Any]:
    """What the sweep depends on, beside the learning rate."""
    return {
        "model": f"{model.fingerprint}:{model.identity}",
        "train_prompts": train.fingerprint,
        "validation_prompts": validation.fingerprint,
        "alphas": list(preset.alphas),
        "epochs": preset.epochs,
    }


class SweepNotes:
    """What came of each learning rate, in one file beside the outcomes of a comparison."""

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Read what is there.

        Raises:
            UserError: If it is of another comparison, or cannot be read.
        """
        self._path, self._about = folder / SWEEP_FILE, dict(about)
        self._tried: dict[float, FoundSettings] = {}
        if not self._path.exists():
            return
        try:
            record = json.loads(self._path.read_text(encoding="utf-8"))
            noted = record["about"]
            found = [FoundSettings(**one) for one in record["tried"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self._path}: cannot be read as the sweep of a preset ({error}); remove it to "
                "sweep again"
            ) from error
        differing = [name for name, value in self._about.items() if noted.get(name) != value]
        if differing:
            raise UserError(
                f"{self._path}: belongs to another comparison (differs in: "
                f"{', '.join(differing).replace('_', ' ')}); give another folder, or overwrite "
                "this one"
            )
        self._tried = {one.lr: one for one in found}

    def find(self, lr: float) -> FoundSettings | None:
        """What came of a learning rate, if it was tried."""
        return self._tried.get(lr)

    def add(self, found: FoundSettings) -> None:
        """Keep what came of a learning rate; it is on disk when this returns.

        Raises:
            UserError: If it cannot be written.
        """
        self._tried[found.lr] = found
        record = {"about": self._about, "tried": [asdict(one) for one in self._tried.values()]}
        with replacing(self._path) as temporary:
            temporary.write_text(json.dumps(record) + "\n", encoding="utf-8")
