"""What the paper's ablations vary: each factor a list of values, each a change of a fine-tune.

Source: Dabas et al. 2025 (arXiv 2507.04250); the origin and the anchoring are this project's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from actor_lens.directions.options import ORIGINS, SHIFTS
from actor_lens.errors import UserError, check_choice
from actor_lens.prompts.rows import LABELS
from actor_lens.prompts.sets import PromptSet
from actor_lens.training.config import ANCHORS, FinetuneConfig

Factor = Literal[
    "layer",
    "alpha",
    "counts",
    "transfer",
    "harmful-prompts",
    "direction",
    "shift",
    "origin",
    "anchor",
    "small-alpha",
]
FACTORS: tuple[Factor, ...] = get_args(Factor)
"""What can be varied, in the order of the tables."""
WHOLE_STUDIES = ("small-alpha",)
"""Factors with as many cells as all others together: run only where they are named."""
ALPHAS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
BENIGN_COUNTS, PSEUDO_HARMFUL_COUNTS = (15, 50), (10, 25, 50)
# A kind of prompt with fewer than this has no direction and no rate worth the name.
_MIN_OF_KIND = 2
_HALVES = ("half 1", "half 2")
_OF_TRAINING, _OF_ANCHORS = "training prompts", "all anchors"


@dataclass(frozen=True)
class AblationCell:
    """What is tried.

    Attributes:
        factor: One of ``FACTORS``.
        series: Name of what varies, ``"benign prompts"`` say.
        value: The value as it is shown.
        seed: Seed of the drawn training prompts and of their order.
        method: ``"actor"``; folders of earlier versions may hold cells of other methods.
    """

    factor: str
    series: str
    value: str
    seed: int
    method: str = "actor"


@dataclass(frozen=True)
class Variation:
    """One value of a factor.

    Attributes:
        series: Name of what varies.
        value: The value as it is shown.
        number: The value where it is a number, else NaN.
        changes: Settings of the fine-tune that differ.
        counts: Training prompts of a label, where their number differs.
        only: For a label, the kind that its training prompts are taken from.
        source: What R is made of where that varies: a kind of harmful prompt, the training prompts
            or all anchors; None for the anchors of all cells.
    """

    series: str
    value: str
    number: float = math.nan
    changes: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    only: Mapping[str, str] = field(default_factory=dict)
    source: str | None = None

    def settings(self, shared: FinetuneConfig, seed: int) -> FinetuneConfig:
        """Settings of the fine-tune."""
        return replace(shared, **{**self.changes, "seed": seed})

    def train(self, prompts: PromptSet, per_label: int, seed: int) -> PromptSet:
        """The training prompts: of the kinds in ``only``, and as many as ``counts`` says."""
        rows = [
            row
            for row, prompt in enumerate(prompts)
            if prompt.label not in self.only or _kind(prompts, row) == self.only[prompt.label]
        ]
        limits: dict[str, int] = {label: self.counts.get(label, per_label) for label in LABELS}
        return prompts.select(rows).sample(limits, seed=seed)

    def anchors(
        self, prompts: PromptSet, given: PromptSet | None, per_label: int, seed: int
    ) -> PromptSet | None:
        """The prompts that R is made of; None for the training prompts of the cell.

        Args:
            prompts: All training prompts: harmful ones of a kind are taken from them where no
                anchors are given.
            given: Anchors of all cells.
            per_label: Most of each label that are taken from the training prompts.
            seed: Seed of the sample.
        """
        if self.source in (None, _OF_ANCHORS):
            return given
        if self.source == _OF_TRAINING:
            return None
        pool = prompts if given is None else given
        rows = [
            row
            for row, prompt in enumerate(pool)
            if prompt.label != "harmful" or _kind(pool, row) == self.source
        ]
        return pool.select(rows).sample(per_label if given is None else None, seed=seed)


def variations(
    factor: str,
    train: PromptSet,
    n_layers: int,
    per_label: int,
    alphas: Sequence[float] = ALPHAS,
    anchors: PromptSet | None = None,
) -> list[Variation]:
    """The values of a factor.

    Args:
        factor: One of ``FACTORS``.
        train: All training prompts: they say which kinds there are.
        n_layers: Number of layers of the model.
        per_label: Training prompts of each label where nothing else is said.
        alphas: Values of the factor ``alpha``.
        anchors: Anchors of all cells, which say which kinds the factor ``direction`` has.

    Raises:
        UserError: If there is no such factor, or the prompts have no kinds for it.
    """
    check_choice("factor", factor, FACTORS)
    if factor == "layer":
        return [_setting("layer", layer) for layer in range(n_layers)]
    if factor == "alpha":
        return [_setting("alpha", float(alpha)) for alpha in alphas]
    if factor == "small-alpha":
        return _small_alpha()
    if factor == "counts":
        return _counts(train, per_label)
    if factor == "transfer":
        return _transfer(train)
    if factor == "harmful-prompts":
        return _harmful_prompts(train)
    if factor == "direction":
        pool, whole = (train, ()) if anchors is None else (anchors, (_OF_ANCHORS,))
        sources = (*(kinds_of(pool, "harmful") or _HALVES), _OF_TRAINING, *whole)
        return [Variation("R made of", source, source=source) for source in sources]
    return [_setting(factor, value) for value in _CHOICES[factor]]


_MOVING = {"anchor": "current", "lr": 3e-4}
_SMALL_ALPHA: dict[str, dict[str, Any]] = {
    "AdamW, lr 3e-4": _MOVING,
    "lr 1e-3": {**_MOVING, "lr": 1e-3},
    "lr 1e-4": {**_MOVING, "lr": 1e-4},
    "eps 1e-12": {**_MOVING, "eps": 1e-12},
    "eps 1e-6": {**_MOVING, "eps": 1e-6},
    "SGD, lr 30": {**_MOVING, "optimizer": "sgd", "lr": 30.0},
    "bfloat16": {**_MOVING, "precision": "bfloat16"},
    "origin zero": {**_MOVING, "origin": "zero"},
    "fixed targets": {**_MOVING, "anchor": "initial"},
}


def _small_alpha() -> list[Variation]:
    """Alpha in decades, in the first series in half decades, under what could make it matter."""
    decades = [10.0**power for power in range(-5, 1)]
    halves = sorted([*decades, *(3 * alpha for alpha in decades)])
    return [
        Variation(series, f"{alpha:g}", alpha, {**changes, "alpha": alpha})
        for series, changes in _SMALL_ALPHA.items()
        for alpha in (halves if changes is _MOVING else decades)
    ]


_CHOICES: dict[str, tuple[str, ...]] = {"shift": SHIFTS, "origin": ORIGINS, "anchor": ANCHORS}


def _setting(name: str, value: int | float | str) -> Variation:
    number = math.nan if isinstance(value, str) else float(value)
    shown = value.replace("_", " ") if isinstance(value, str) else f"{value:g}"
    return Variation(name, shown, number, {name: value})


def _counts(train: PromptSet, per_label: int) -> list[Variation]:
    """Fewer prompts of one label at a time, up to the usual number."""
    values = []
    for label, counts in (("benign", BENIGN_COUNTS), ("pseudo_harmful", PSEUDO_HARMFUL_COUNTS)):
        usual = min(per_label, train.counts()[label])
        for count in (*(one for one in counts if one < usual), usual):
            name = f"{label.replace('_', '-')} prompts"
            values.append(Variation(name, str(count), float(count), counts={label: count}))
    return values


def _transfer(train: PromptSet) -> list[Variation]:
    """Trained on one kind of pseudo-harmful prompt, and on all of them."""
    kinds = kinds_of(train, "pseudo_harmful")
    if len(kinds) < 2:
        raise UserError(
            f"{train.name}: the ablation 'transfer' needs pseudo-harmful training prompts of two "
            "categories or more; name them in the column 'category'"
        )
    return [
        *(Variation("trained on", kind, only={"pseudo_harmful": kind}) for kind in kinds),
        Variation("trained on", "all kinds"),
    ]


def _harmful_prompts(train: PromptSet) -> list[Variation]:
    """Harmful prompts, and with them R where there are no anchors, of one source at a time."""
    kinds = kinds_of(train, "harmful") or list(_HALVES)
    return [
        *(Variation("harmful anchors", kind, only={"harmful": kind}) for kind in kinds),
        Variation("harmful anchors", "all"),
    ]


def kinds_of(prompts: PromptSet, label: str) -> list[str]:
    """Categories of a label with at least two prompts, in their order; none where it has one."""
    named = [p.category for p in prompts if p.label == label and p.category is not None]
    kinds = [kind for kind in dict.fromkeys(named) if named.count(kind) >= _MIN_OF_KIND]
    return kinds if len(kinds) > 1 else []


def _kind(prompts: PromptSet, row: int) -> str | None:
    """Category of a prompt, or the half that it is in where its label has no categories."""
    prompt = prompts[row]
    if kinds_of(prompts, prompt.label):
        return prompt.category
    alike = [i for i, one in enumerate(prompts) if one.label == prompt.label]
    return _HALVES[alike.index(row) % 2]
