"""The settings of published comparisons, and where each comes from.

What the paper does not say is never presented as its setting: it is this project's own choice, and
is marked so.

Source: Dabas et al. 2025 (arXiv 2507.04250).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from actor_lens.errors import UserError, check_choice
from actor_lens.prompts.mixtures import PAPER, Part
from actor_lens.prompts.public.catalogue import known_benchmark
from actor_lens.prompts.rows import SPLITS
from actor_lens.training.config import FinetuneConfig

if TYPE_CHECKING:
    from actor_lens.methods import Method

FROM_PAPER = "the paper"
OWN_CHOICE = "our own choice"

# Settings of the fine-tune: those of the paper, and those on which it is silent.
_PUBLISHED: Mapping[str, Any] = {
    "origin": "zero",
    "anchor": "current",
    "shift": "projected",
    "lr": 1e-5,
    "epochs": 3,
    "batch_size": 1,
}
_OWN: Mapping[str, Any] = {"refresh": 50, "weight_decay": 0.0, "seed": 0}
_NAMES = {
    "origin": "origin of projections",
    "anchor": "weights that targets are taken from",
    "shift": "shift",
    "lr": "learning rate",
    "epochs": "epochs",
    "batch_size": "prompts in a step",
    "refresh": "steps between two computations of the direction",
    "weight_decay": "weight decay",
    "seed": "seed",
}


@dataclass(frozen=True)
class PublishedModel:
    """A model of a published comparison.

    Attributes:
        hub_id: Its name on the hub.
        layer: Target layer, as the publication counts.
        alpha: Share of the projection that targets add or take away.
    """

    hub_id: str
    layer: int
    alpha: float


@dataclass(frozen=True)
class Preset:
    """A published comparison.

    Attributes:
        name: Name, as ``--preset`` takes it.
        models: Models by their short names.
        first_block: Number that stands for the output of the first block in its count of layers.
        prompts: Name of the mixture of prompt sets.
        anchors: Prompts that R is made of, as ``--anchors`` takes them.
        judge: Judge of the replies, as ``--judge`` names it.
        methods: Methods that were compared, ACTOR last: settings that differ from ours by name.
        new_tokens: Longest reply.
    """

    name: str
    models: Mapping[str, PublishedModel]
    first_block: int
    prompts: str
    anchors: str
    judge: str
    methods: Mapping[str, Mapping[str, Any]]
    new_tokens: int

    def model(self, name: str) -> PublishedModel:
        """One of its models, by short name or hub id.

        Raises:
            UserError: If the preset has no such model.
        """
        for short, model in self.models.items():
            if name.lower() in (short, model.hub_id.lower()):
                return model
        raise UserError(
            f"preset '{self.name}' has no model '{name}'; use one of: {', '.join(self.models)}"
        )

    def config(self, model: str) -> FinetuneConfig:
        """Settings of the fine-tune of one of its models, named as in ``model``.

        Raises:
            UserError: If the preset has no such model.
        """
        one = self.model(model)
        layer = one.layer - self.first_block
        return FinetuneConfig(layer=layer, alpha=one.alpha, **_PUBLISHED, **_OWN)

    def method(self, name: str, model: str) -> Method:
        """A method with the settings that were published for it; other methods with ours.

        Args:
            name: Name of a method.
            model: One of its models.

        Raises:
            UserError: If there is no such method or model.
        """
        from actor_lens.methods import make_method  # loads torch

        settings = dict(self.methods.get(name, {}))
        if name == "actor":
            config = self.config(model).recorded()
            at_default = ("safety_floor", "weight_decay")  # which the method does not have
            settings |= {key: value for key, value in config.items() if key not in at_default}
        return make_method(name, **settings)

    def plan(self, model: str) -> pd.DataFrame:
        """One row a setting: ``setting``, ``value``, ``source`` (of the value).

        Raises:
            UserError: If the preset has no such model.
        """
        one, config = self.model(model), self.config(model)
        other = next(each for each in PRESETS.values() if each is not self)
        by_split = {
            split: {part.name: part.counts[split] for part in PAPER if split in part.counts}
            for split in SPLITS
        }
        published = [
            ("model", one.hub_id),
            ("target layer, as the paper counts", one.layer),
            ("alpha", f"{one.alpha:g}"),
            *((_NAMES[name], getattr(config, name)) for name in _PUBLISHED),
            ("prompts that R is made of", self.anchors),
            ("optimiser", "AdamW"),
            ("loss", "1 - cos(activation, target)"),
            ("harmful training prompts", "HEx-PHI, all"),
            (
                "benign training prompts",
                f"{by_split['train']['ultrachat']} of UltraChat, evenly from seven topics",
            ),
            ("pseudo-harmful training prompts", _list(by_split["train"], "ultrachat")),
            ("pseudo-harmful test prompts", _list(by_split["test"], "ultrachat")),
            ("out of distribution", _whole("ood")),
            ("safety test", _whole("test")),
            ("metrics", "C.R., S.S. (replies that are not harmful), T.S. = (C.R. + S.S.) / 2"),
            ("judge", self.judge),
            ("methods", ", ".join(self.methods)),
            *(
                (f"{name}: {setting}", _show(value))
                for name, settings in self.methods.items()
                for setting, value in settings.items()
            ),
        ]
        own = [
            (
                "block that is trained, from 0",
                f"{config.layer}; counted the other way {one.layer - other.first_block}: "
                f"--preset {other.name}",
            ),
            *((_NAMES[name], getattr(config, name)) for name in _OWN),
            ("number format of the trained block", "float32"),
            ("validation prompts", f"at most {_list(by_split['validation'])}; harmbench all"),
            ("benign test prompts", f"ultrachat {by_split['test']['ultrachat']}"),
            ("topics of UltraChat", "column topic or category of a file; without one, at random"),
            ("sft-full: what is trained", "all weights"),
            ("sft-full: replies", "those of the prompt file, else the model's own; not GPT-4o's"),
            ("sft-full: passes that are kept", "chosen on validation prompts, at most those above"),
            ("scans: layers that are steered", "the middle third; the paper says 10 to 31"),
            ("judge: words of its two questions", "the four principles among them"),
            ("longest reply, tokens", self.new_tokens),
            ("decoding", "greedy"),
        ]  # fmt: skip
        rows = [
            (setting, str(value), source)
            for source, settings in ((FROM_PAPER, published), (OWN_CHOICE, own))
            for setting, value in settings
        ]
        return pd.DataFrame(rows, columns=["setting", "value", "source"])


def _list(counts: Mapping[str, int], *left_out: str) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.items() if name not in left_out)


def _whole(split: str) -> str:
    """Sets all of whose prompts are in one split."""
    parts: list[Part] = [part for part in PAPER if part.split == split]
    return ", ".join(f"{part.name} {known_benchmark(part.name).rows}" for part in parts)


def _show(value: Any) -> str:
    values = value if isinstance(value, tuple) else (value,)
    return ", ".join(f"{one:g}" for one in values)


_AS_PRINTED = Preset(
    name="paper",
    models={
        "llama-2-7b": PublishedModel("meta-llama/Llama-2-7b-chat-hf", 13, 0.0015),
        "llama-2-13b": PublishedModel("meta-llama/Llama-2-13b-chat-hf", 14, 0.0004),
        "gemma-7b": PublishedModel("google/gemma-7b-it", 17, 0.003),
    },
    first_block=0,
    prompts="paper",
    anchors="hex-phi:64,truthfulqa:64",
    judge="llm-binary:gpt-4o",
    methods={
        "default": {},
        "sft-full": {"lrs": (1e-3,), "epochs": 3},
        "safe-decoding": {},
        "dro": {},
        "self-cd": {},
        "scans": {"threshold": 0.75, "alphas": (3.5,)},
        "surgical": {},
        "actor": {},
    },
    new_tokens=128,
)
PRESETS = {
    # The paper's table of layers goes from 0 to 32 for a model of 32 blocks, as hidden states do,
    # where 0 is the embedding and 13 the output of block 12. Its text does not say which it means.
    preset.name: preset
    for preset in (_AS_PRINTED, replace(_AS_PRINTED, name="paper-hidden-states", first_block=1))
}


def preset_named(name: str) -> Preset:
    """A preset by its name.

    Raises:
        UserError: If there is none of that name.
    """
    return PRESETS[check_choice("preset", name, list(PRESETS))]
