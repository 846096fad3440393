"""Dealing groups of prompts out to train, validation and test in fixed shares."""

import hashlib
import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from actor_lens.errors import UserError
from actor_lens.prompts.rows import Split

SPLIT_NAMES: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Group:
    """Prompts that must stay together: a key that orders it, and its (label, category) pairs."""

    key: str
    strata: tuple[tuple[str, str | None], ...]

    @property
    def labels(self) -> Counter[str]:
        """How many of its prompts have each label."""
        return Counter(label for label, _ in self.strata)


def shuffle_key(seed: int, text: str) -> str:
    """A sort key that depends on the seed and the text alone, never on the order of a file."""
    return hashlib.sha256(f"{seed}\0{text}".encode()).hexdigest()


def check_fractions(fractions: Sequence[float]) -> None:
    """Accept three shares that add up to one.

    Raises:
        UserError: If they are not three finite numbers from 0 to 1 with sum 1 and some train.
    """
    usable = len(fractions) == 3 and all(math.isfinite(f) and f >= 0 for f in fractions)
    if not usable or abs(sum(fractions) - 1) > 1e-6 or fractions[0] == 0:
        raise UserError(
            f"fractions={tuple(fractions)}: give three shares for train, validation and test that "
            "are not negative and add up to 1, train above 0, for example (0.5, 0.2, 0.3)"
        )


def deal(groups: Sequence[Group], fractions: Sequence[float]) -> list[Split]:
    """Choose a split for each group: label shares first, then those of label and category.

    Large groups go first, as they are the hardest to place. With groups of one prompt each,
    the count of a label in a split differs from its share by less than one (or is one, where the
    share is smaller).

    Raises:
        UserError: If a label has fewer groups than there are splits to fill.
    """
    table = _Table(groups, fractions)
    order = sorted(range(len(groups)), key=lambda i: (-len(groups[i].strata), groups[i].key))
    chosen: list[Split] = ["train"] * len(groups)
    for index in order:
        chosen[index] = table.place(groups[index])
    return chosen


class _Table:
    """What each split holds so far, and how much it should hold."""

    def __init__(self, groups: Sequence[Group], fractions: Sequence[float]) -> None:
        self.shares = {s: f for s, f in zip(SPLIT_NAMES, fractions, strict=True) if f > 0}
        self.totals: Counter[Hashable] = Counter(_flatten(group.strata for group in groups))
        labels = Counter(label for label, _ in _flatten(group.strata for group in groups))
        self.waiting = Counter(label for group in groups for label in group.labels)
        for label in labels:
            _require_groups(label, labels[label], self.waiting[label], len(self.shares))
        self.room = {
            (label, split): count
            for label, total in labels.items()
            for split, count in _quotas(total, self.shares).items()
        }
        self.held: Counter[tuple[Hashable, str]] = Counter()

    def place(self, group: Group) -> Split:
        """Put the group where it fits best, and remember it."""
        split = min(self.shares, key=lambda name: self._misfit(group, name))
        for label, count in group.labels.items():
            self.waiting[label] -= 1
            self.room[label, split] -= count
            self.held[label, split] += count
        self.held.update((stratum, split) for stratum in group.strata)
        return split

    def _misfit(self, group: Group, split: Split) -> tuple[int, int, float]:
        """Smaller is better: splits left empty, prompts too many, then distance from the shares."""
        starved = overflow = 0
        for label, count in group.labels.items():
            empty = [name for name in self.shares if not self.held[label, name]]
            starved += split not in empty and self.waiting[label] <= len(empty)
            overflow += max(0, count - self.room[label, split])
        deficit = sum(
            self.shares[split] * self.totals[stratum] - self.held[stratum, split]
            for stratum in group.strata
        )
        return starved, overflow, -round(deficit, 9)


def _flatten(
    strata: Iterable[tuple[tuple[str, str | None], ...]],
) -> list[tuple[str, str | None]]:
    return [stratum for group in strata for stratum in group]


def _require_groups(label: str, prompts: int, groups: int, needed: int) -> None:
    if groups >= needed:
        return
    found = f"{prompts} {label} prompts"
    if groups < prompts:
        found += f" that make up only {groups} after near-duplicates are put together"
    raise UserError(
        f"{found}, at least {needed} needed to have one in each split; add prompts, or give every "
        'row a "split" of its own'
    )


def _quotas(total: int, shares: Mapping[Split, float]) -> dict[Split, int]:
    """Whole numbers near the shares with the right sum, none of them 0 (largest remainder)."""
    exact = {split: share * total for split, share in shares.items()}
    quotas = {split: math.floor(value + 1e-9) for split, value in exact.items()}
    by_remainder = sorted(exact, key=lambda split: quotas[split] - exact[split])
    for split in by_remainder[: total - sum(quotas.values())]:
        quotas[split] += 1
    for split in quotas:
        if quotas[split] == 0:
            quotas[max(quotas, key=lambda name: quotas[name])] -= 1
            quotas[split] = 1
    return quotas
