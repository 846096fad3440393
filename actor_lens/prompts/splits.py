"""Splitting prompts into train, validation and test in fixed shares, one by one or by source."""

from __future__ import annotations

import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

from actor_lens.errors import UserError
from actor_lens.prompts.checks import overlap_report
from actor_lens.prompts.near_duplicates import group_similar
from actor_lens.prompts.rows import LABELS, SPLITS, Prompt, PromptWarning, Split
from actor_lens.prompts.sets import PromptSet, shuffle_key
from actor_lens.text import plural

_SPLITS: tuple[Split, ...] = ("train", "validation", "test")
_Stratum = tuple[str, str | None]
"""Label and category."""


def split_prompts(
    prompts: PromptSet,
    *,
    fractions: Sequence[float] = (0.5, 0.2, 0.3),
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
    by_source: bool = False,
) -> PromptSet:
    """Give each prompt a split: seeded, stratified by label and category, twins on one side.

    Near-duplicates (see `near_duplicates`), and near-duplicates of those, go to the same split,
    also where their labels differ. Which split a prompt gets depends on the seed and on the texts,
    not on their order. Prompts marked `ood` stay so; other splits are given anew.

    By source, whole sources are held out: the harmful prompts of one source are in one split, and
    so are those of every label with enough sources; a label with fewer is split prompt by prompt,
    with a warning. The shares are then shares of sources, so that training has several. Of
    near-duplicates in two splits the one in the later split stays, with a warning.

    Args:
        prompts: Prompts to split.
        fractions: Shares of train, validation and test.
        seed: Seed of the choice which prompts go where.
        groups: One value for each prompt: equal values go to one split, as near-duplicates do, and
            None binds to nothing; the twins of the prompts unless given.
        by_source: Whether to hold out whole sources.

    Raises:
        UserError: If the fractions do not add up, or a label has too few prompts that differ to
            put one in each split; by source, if harmful prompts have too few known sources.
        ValueError: If there are not as many groups as prompts.
    """
    _check_fractions(fractions)
    groups = prompts.twins if groups is None else groups
    if len(groups) != len(prompts):
        raise ValueError(f"{len(groups)} groups for {len(prompts)} prompts")
    indices = [index for index, prompt in enumerate(prompts) if prompt.split != "ood"]
    held_out: Collection[str] = ()
    if by_source:
        needed = sum(share > 0 for share in fractions)
        held_out = _labels_to_hold_out(prompts.select(indices), needed)
    whole = [index for index in indices if prompts[index].label in held_out]
    single = [index for index in indices if prompts[index].label not in held_out]
    numbers = group_similar(
        [prompts[index].prompt for index in single],
        groups=[groups[index] for index in single],
    )
    together: dict[Hashable, list[int]] = defaultdict(list)
    for index, number in zip(single, numbers, strict=True):
        together[number].append(index)
    for index in whole:
        together[prompts[index].source].append(index)
    result = list(prompts)
    for members, split in _choose(prompts, list(together.values()), fractions, seed, held_out):
        for index in members:
            result[index] = replace(result[index], split=split)
    done = replace(prompts, prompts=tuple(result))
    return _without_overlaps(done) if by_source else done


def _labels_to_hold_out(prompts: PromptSet, needed: int) -> list[str]:
    """Labels with a source for each split.

    Raises:
        UserError: If that of harmful prompts is not among them.
    """
    enough: list[str] = []
    few: list[str] = []
    for label in LABELS:
        sources = {prompt.source for prompt in prompts.where(label=label)}
        if None not in sources and len(sources) >= needed:
            enough.append(label)
        elif sources:
            known = plural(len(sources - {None}), "known source")
            few.append(f"{label} prompts from {known}{' and unknown ones' * (None in sources)}")
    if few and "harmful" not in enough:
        raise UserError(
            f"{few[0]}; to hold whole ones out, each prompt needs a 'source' and the label at "
            f"least {needed}: name them, add prompts of others, or split prompt by prompt "
            "(by_source=False, no --split-by)"
        )
    if few:
        message = f"split prompt by prompt, for want of {needed} sources: {'; '.join(few)}"
        warnings.warn(f"{prompts.name}: {message}", PromptWarning, stacklevel=3)
    return enough


def _without_overlaps(prompts: PromptSet) -> PromptSet:
    """Leave out prompts with a near-duplicate in a later split, and see that no label is lost.

    Raises:
        UserError: If a split lacks a label that another has.
    """
    pairs = overlap_report(prompts).pairs
    rank = [SPLITS.index(prompt.split or "train") for prompt in prompts]
    dropped = {min(first, second, key=rank.__getitem__) for first, second, _ in pairs}
    kept = prompts.select(index for index in range(len(prompts)) if index not in dropped)
    if dropped:
        message = f"{len(dropped)} prompts left out, as they resemble those of sources held out"
        warnings.warn(f"{prompts.name}: {message}", PromptWarning, stacklevel=3)
    for label in {prompt.label for prompt in prompts if prompt.split != "ood"}:
        for split in _SPLITS:
            if prompts.where(split=split) and not kept.where(label, split):
                raise UserError(
                    f"by source, no {label} prompts are left in the {split} split; try another "
                    "seed, add sources, or split prompt by prompt (by_source=False, no --split-by)"
                )
    return kept


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
    prompts: PromptSet,
    together: Sequence[Sequence[int]],
    fractions: Sequence[float],
    seed: int,
    held_out: Collection[str],
) -> list[tuple[Sequence[int], Split]]:
    """The indices of each group, and its split: label shares first, then label and category.

    Large groups go first, as they are the hardest to place. With groups of one prompt each,
    the count of a label in a split differs from its share by less than one (or is one, where the
    share is smaller).
    """
    groups = [
        _group([prompts[i] for i in members], members, seed, held_out) for members in together
    ]
    table = _Table(groups, fractions)
    groups.sort(key=lambda group: (-len(group.strata), group.key))
    return [(group.members, table.place(group)) for group in groups]


def _group(
    prompts: Sequence[Prompt], members: Sequence[int], seed: int, held_out: Collection[str]
) -> _Group:
    """Prompts that go one way; a source that is held out counts once for each of its labels."""
    if prompts[0].label in held_out:
        labels = sorted({prompt.label for prompt in prompts})
        key = shuffle_key(seed, str(prompts[0].source))
        return _Group(members, key, tuple((label, None) for label in labels))
    key = min(shuffle_key(seed, prompt.prompt) for prompt in prompts)
    return _Group(members, key, tuple((prompt.label, prompt.category) for prompt in prompts))


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
