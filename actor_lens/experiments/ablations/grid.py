"""What the paper's ablations vary: each study a list of values, each value a change of a fine-tune.

Source: Dabas et al. 2025 (arXiv 2507.04250); the origin and the anchoring are this project's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from actor_lens.errors import UserError
from actor_lens.prompts.rows import LABELS
from actor_lens.prompts.sets import PromptSet
from actor_lens.training.config import FinetuneConfig

ALPHAS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
BENIGN_COUNTS, PSEUDO_HARMFUL_COUNTS = (15, 50), (10, 25, 50)
# A kind of prompt with fewer than this has no direction and no rate worth the name.
_MIN_OF_KIND = 2
_HALVES = ("half 1", "half 2")


@dataclass(frozen=True)
class AblationCell:
    """What is tried.

    Attributes:
        study: One of ``STUDIES``.
        series: What varies within the study, ``"benign prompts"`` say.
        value: As it is shown.
        seed: Of the drawn training prompts and of their order.
        method: ``"actor"``, or the method that stands beside it.
    """

    study: str
    series: str
    value: str
    seed: int
    method: str = "actor"


@dataclass(frozen=True)
class Variation:
    """One value of a study.

    Attributes:
        series: What varies.
        value: As it is shown.
        number: The value where it is a number, else NaN.
        changes: Settings of the fine-tune that differ.
        counts: Training prompts of a label, where their number differs.
        only: For a label, the kind that its training prompts are taken from.
    """

    series: str
    value: str
    number: float = math.nan
    changes: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    only: Mapping[str, str] = field(default_factory=dict)

    def settings(self, shared: FinetuneConfig, seed: int) -> FinetuneConfig:
        """Settings of the fine-tune."""
        return replace(shared, **{**self.changes, "seed": seed})

    def train(self, prompts: PromptSet, per_label: int, seed: int) -> PromptSet:
        """The training prompts: of the wanted kinds, and as many as wanted."""
        rows = [
            row
            for row, prompt in enumerate(prompts)
            if prompt.label not in self.only or _kind(prompts, row) == self.only[prompt.label]
        ]
        limits: dict[str, int] = {label: self.counts.get(label, per_label) for label in LABELS}
        return prompts.select(rows).sample(limits, seed=seed)


def variations(
    study: str,
    train: PromptSet,
    n_layers: int,
    per_label: int,
    alphas: Sequence[float] = ALPHAS,
) -> list[Variation]:
    """The values of a study.

    Args:
        study: One of ``STUDIES``.
        train: All training prompts: they say which kinds there are.
        n_layers: Of the model.
        per_label: Training prompts of each label where nothing else is said.
        alphas: Of the study ``alpha``.

    Raises:
        UserError: If there is no such study, or the prompts have no kinds for it.
    """
    if study not in STUDIES:
        raise UserError(f"study '{study}' is not known; use one of: {', '.join(STUDIES)}")
    if study == "layer":
        return [_setting("layer", layer) for layer in range(n_layers)]
    if study == "alpha":
        return [_setting("alpha", float(alpha)) for alpha in alphas]
    return _MAKERS[study](train, per_label)


def _setting(name: str, value: int | float | str) -> Variation:
    number = math.nan if isinstance(value, str) else float(value)
    shown = value.replace("_", " ") if isinstance(value, str) else f"{value:g}"
    return Variation(name, shown, number, {name: value})


def _counts(train: PromptSet, per_label: int) -> list[Variation]:
    """Fewer prompts of one label at a time, up to the usual number."""
    found = []
    for label, counts in (("benign", BENIGN_COUNTS), ("pseudo_harmful", PSEUDO_HARMFUL_COUNTS)):
        usual = min(per_label, train.counts()[label])
        for count in (*(one for one in counts if one < usual), usual):
            name = f"{label.replace('_', '-')} prompts"
            found.append(Variation(name, str(count), float(count), counts={label: count}))
    return found


def _transfer(train: PromptSet, per_label: int) -> list[Variation]:
    """Trained on one kind of pseudo-harmful prompt, and on all of them."""
    del per_label
    kinds = kinds_of(train, "pseudo_harmful")
    if len(kinds) < 2:
        raise UserError(
            f"{train.name}: the study 'transfer' needs pseudo-harmful training prompts of two "
            "categories or more; name them in the column 'category'"
        )
    return [
        *(Variation("trained on", kind, only={"pseudo_harmful": kind}) for kind in kinds),
        Variation("trained on", "all kinds"),
    ]


def _anchors(train: PromptSet, per_label: int) -> list[Variation]:
    """Harmful prompts, from which R is made, of one source at a time."""
    del per_label
    kinds = kinds_of(train, "harmful") or list(_HALVES)
    return [
        *(Variation("harmful anchors", kind, only={"harmful": kind}) for kind in kinds),
        Variation("harmful anchors", "all"),
    ]


_MAKERS: dict[str, Callable[[PromptSet, int], list[Variation]]] = {
    "counts": _counts,
    "transfer": _transfer,
    "anchors": _anchors,
    "shift": lambda _train, _n: [_setting("shift", one) for one in ("projected", "uniform")],
    "origin": lambda _train, _n: [
        _setting("origin", one) for one in ("benign_mean", "midpoint", "zero")
    ],
    "anchor": lambda _train, _n: [_setting("anchor", one) for one in ("initial", "current")],
}
STUDIES = ("layer", "alpha", *_MAKERS)
"""Names of the studies, in the order of the tables."""


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
