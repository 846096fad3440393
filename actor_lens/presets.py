"""The settings of published comparisons, as far as they are known, and where each comes from.

What the paper does not say is never presented as its setting: it is found by a sweep of this
project on validation prompts, or is this project's own default, and is marked so.

Source: Dabas et al. 2025 (arXiv 2507.04250).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from actor_lens.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from actor_lens.models import ChatModel
    from actor_lens.prompts import PromptSet

FROM_PAPER = "the paper"
FROM_SWEEP = "found by this project's own validation sweep"
OWN_DEFAULT = "this project's own choice"


@dataclass(frozen=True)
class Preset:
    """A published comparison.

    Attributes:
        name: As ``--preset`` takes it.
        models: Short name and hub id of each model.
        prompts: Name of the mixture of prompt sets.
        judge: Who judges replies, as ``--judge`` names it.
        methods: Names of the methods that were compared; those of ACTOR last.
        epochs: Of ACTOR's fine-tune.
        alphas: That the sweep tries; the published value is not known.
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
        import pandas as pd

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
            ("seconds of ACTOR's fit", "without the sweep", OWN_DEFAULT),
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
    if name not in PRESETS:
        raise UserError(f"preset '{name}' is not known; use one of: {', '.join(PRESETS)}")
    return PRESETS[name]


@dataclass(frozen=True)
class FoundSettings:
    """What the sweep found best on validation prompts.

    Attributes:
        layer: Target layer.
        alpha: How much of the way to the origin targets go.
        lr: Learning rate.
        rank: Trade-off score on the validation prompts, by first tokens.
    """

    layer: int
    alpha: float
    lr: float
    rank: float


def find_settings(
    preset: Preset,
    model: ChatModel,
    train: PromptSet,
    validation: PromptSet,
    *,
    on_progress: Callable[[str, int, int], None] | None = None,
    **sweep: Any,
) -> FoundSettings:
    """Layer, alpha and learning rate with the best trade-off score on validation prompts.

    Args:
        preset: What to try.
        model: Left as it is.
        train: Training prompts.
        validation: Prompts that decide; the first of equals wins.
        on_progress: Told the name of a stage, how much of it is done and of all.
        sweep: Further arguments of ``sweep_layers``.
    """
    from actor_lens.layer_sweep import sweep_layers
    from actor_lens.training_run import FinetuneConfig

    best: FoundSettings | None = None
    shared = FinetuneConfig(layer=0, epochs=preset.epochs)
    for number, lr in enumerate(preset.lrs):
        found = sweep_layers(
            model,
            train,
            validation,
            alphas=preset.alphas,
            settings=replace(shared, lr=lr),
            **sweep,
        ).best_outcome
        if best is None or found.rank > best.rank:
            best = FoundSettings(found.cell.layer, found.cell.alpha, lr, found.rank)
        if on_progress is not None:
            on_progress("learning rates tried", number + 1, len(preset.lrs))
    assert best is not None
    return best
