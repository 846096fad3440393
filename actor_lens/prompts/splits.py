"""Splitting prompts into train, validation and test in fixed shares, near-duplicates together."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

from actor_lens.errors import UserError
from actor_lens.prompts.near_duplicates import group_similar
from actor_lens.prompts.rows import Split
from actor_lens.prompts.sets import PromptSet, shuffle_key

_SPLITS: tuple[Split, ...] = ("train", "validation", "test")
_Stratum = tuple[str, str | None]
"""Label and category."""


def split_prompts(
    prompts: PromptSet,
    *,
    fractions: Sequence[float] = (0.5, 0.2, 0.3),
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
) -> PromptSet:
    """Give each prompt a split: seeded, stratified by label and category, twins on one side.

    Near-duplicates (see `near_duplicates`), and near-duplicates of those, go to the same split,
    also where their labels differ. Which split a prompt gets depends on the seed and on the texts,
    not on their order. Prompts marked `ood` stay so; other splits are given anew.

    Args:
        prompts: Prompts to split.
        fractions: Shares of train, validation and test.
        seed: Seed of the choice which prompts go where.
        groups: One value for each prompt: equal values go to one split, as near-duplicates do, and
            None binds to nothing. For pairs in other words, such as the safe and the unsafe twin of
            a benchmark.

    Raises:
        UserError: If the fractions do not add up, or a label has too few prompts that differ to
            put one in each split.
        ValueError: If there are not as many groups as prompts.
    """
    _check_fractions(fractions)
    if groups is not None and len(groups) != len(prompts):
        raise ValueError(f"{len(groups)} groups for {len(prompts)} prompts")
    indices = [index for index, prompt in enumerate(prompts) if prompt.split != "ood"]
    numbers = group_similar(
        [prompts[index].prompt for index in indices],
        groups=None if groups is None else [groups[index] for index in indices],
    )
    together: dict[int, list[int]] = defaultdict(list)
    for index, number in zip(indices, numbers, strict=True):
        together[number].append(index)
    result = list(prompts)
    for members, split in _choose(prompts, list(together.values()), fractions, seed):
        for index in members:
            result[index] = replace(result[index], split=split)
    return replace(prompts, prompts=tuple(result))


def _check_fractions(fractions: Sequence[float]) -> None:
    """Accept three finite shares from 0 to 1 that add up to one, some of it train."""
    usable = len(fractions) == 3 and all(math.isfinite(f) and f >= 0 for f in fractions)
    if not usable or abs(sum(fractions) - 1) > 1e-6 or fractions[0] == 0:
        raise UserError(
            f"fractions={tuple(fractions)}: give three shares for train, validation and test that "
            "are not negative and add up to 1, train above 0, for example (0.5, 0.2, 0.3)"
        )


@dataclass(frozen=True)
class _Group:
    """Prompts that must stay together: their indices, a key that orders it, and their strata."""

    members: Sequence[int]
    key: str
    strata: tuple[_Stratum, ...]

    @property
    def labels(self) -> Counter[str]:
        """Number of its prompts by label."""
        return Counter(label for label, _ in self.strata)


def _choose(
    prompts: PromptSet, together: Sequence[Sequence[int]], fractions: Sequence[float], seed: int
) -> list[tuple[Sequence[int], Split]]:
    """The indices of each group, and its split: label shares first, then label and category.

    Large groups go first, as they are the hardest to place. With groups of one prompt each,
    the count of a label in a split differs from its share by less than one (or is one, where the
    share is smaller).
    """
    groups = [
        _Group(
            members,
            key=min(shuffle_key(seed, prompts[index].prompt) for index in members),
            strata=tuple((prompts[index].label, prompts[index].category) for index in members),
        )
        for members in together
    ]
    table = _Table(groups, fractions)
    groups.sort(key=lambda group: (-len(group.strata), group.key))
    return [(group.members, table.place(group)) for group in groups]


class _Table:
    """What each split holds so far, and how much it should hold."""

    def __init__(self, groups: Sequence[_Group], fractions: Sequence[float]) -> None:
        self.shares = {s: f for s, f in zip(_SPLITS, fractions, strict=True) if f > 0}
        strata = [stratum for group in groups for stratum in group.strata]
        self.totals = Counter(strata)
        self.groups_left = Counter(label for group in groups for label in group.labels)
        self.counts: Counter[tuple[Hashable, str]] = Counter()
        self.room: dict[tuple[str, str], int] = {}
        for label, total in Counter(label for label, _ in strata).items():
            _require_groups(label, total, self.groups_left[label], len(self.shares))
            for split, quota in _quotas(total, self.shares).items():
                self.room[label, split] = quota

    def place(self, group: _Group) -> Split:
        """Put the group where it fits best, and remember it."""
        split = min(self.shares, key=lambda name: self._misfit(group, name))
        for label, count in group.labels.items():
            self.groups_left[label] -= 1
            self.room[label, split] -= count
            self.counts[label, split] += count
        self.counts.update((stratum, split) for stratum in group.strata)
        return split

    def _misfit(self, group: _Group, split: Split) -> tuple[int, int, float]:
        """Smaller is better: splits left empty, prompts too many, then distance from the shares."""
        starved = overflow = 0
        for label, count in group.labels.items():
            empty = [name for name in self.shares if not self.counts[label, name]]
            starved += split not in empty and self.groups_left[label] <= len(empty)
            overflow += max(0, count - self.room[label, split])
        deficit = sum(
            self.shares[split] * self.totals[stratum] - self.counts[stratum, split]
            for stratum in group.strata
        )
        return starved, overflow, -round(deficit, 9)


def _require_groups(label: str, prompts: int, groups: int, needed: int) -> None:
    if groups >= needed:
        return
    number = f"{prompts} {label} prompts"
    if groups < prompts:
        number += f" that make up only {groups} after near-duplicates are put together"
    raise UserError(
        f"{number}, at least {needed} needed to have one in each split; add prompts, or give every "
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
