"""Sets of labelled prompts: read them from a file, split them, and look for overlap.

Directions are fitted on `train`, the layer is chosen on `validation`, rates come from `test`;
`ood` marks prompts of kinds that occur in none of the three.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, overload

from actor_lens.errors import UserError
from actor_lens.files.bundled import bundled
from actor_lens.files.saving import replacing
from actor_lens.prompts.files import read_rows
from actor_lens.prompts.near_duplicates import group_similar, similar_pairs
from actor_lens.prompts.rows import (
    LABELS,
    SPLITS,
    Label,
    Prompt,
    Split,
    check_known,
    drop_repeats,
    have_splits,
    parse_row,
)
from actor_lens.prompts.splits import Group, check_fractions, deal, shuffle_key

if TYPE_CHECKING:
    import pandas

__all__ = [
    "LABELS",
    "SPLITS",
    "Label",
    "Prompt",
    "PromptSet",
    "Split",
    "overlap_report",
    "read_bundled",
    "read_prompt_file",
    "require_labels",
    "sample_indices",
    "split_prompts",
]


@dataclass(frozen=True)
class PromptSet:
    """Prompts in a fixed order; every result of a later stage keeps this order.

    Two sets are equal when they hold the same prompts in the same order, whatever their names.
    """

    prompts: tuple[Prompt, ...]
    name: str = field(default="prompts", compare=False)

    def __len__(self) -> int:
        """The number of prompts."""
        return len(self.prompts)

    def __iter__(self) -> Iterator[Prompt]:
        """Each prompt in order."""
        return iter(self.prompts)

    @overload
    def __getitem__(self, index: int) -> Prompt: ...
    @overload
    def __getitem__(self, index: slice) -> PromptSet: ...
    def __getitem__(self, index: int | slice) -> Prompt | PromptSet:
        """One prompt, or a slice as a set."""
        if isinstance(index, slice):
            return replace(self, prompts=self.prompts[index])
        return self.prompts[index]

    @property
    def texts(self) -> tuple[str, ...]:
        """The text of each prompt."""
        return tuple(prompt.prompt for prompt in self.prompts)

    @property
    def labels(self) -> tuple[str, ...]:
        """The label of each prompt."""
        return tuple(prompt.label for prompt in self.prompts)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over every field of every prompt in order (64 hex digits); the name is left out.

        Two sets with one fingerprint give the same results.
        """
        rows = [[getattr(p, f.name) for f in fields(Prompt)] for p in self.prompts]
        return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()

    def select(self, indices: Iterable[int]) -> PromptSet:
        """The prompts at these indices, in the order of the indices."""
        return replace(self, prompts=tuple(self.prompts[int(index)] for index in indices))

    def where(
        self, label: str | None = None, split: str | None = None, category: str | None = None
    ) -> PromptSet:
        """The prompts with this label, split and category; None takes all.

        Raises:
            UserError: If the label or split is not one there is; an unknown category matches none.
        """
        if label is not None:
            check_known("label", label, LABELS)
        if split is not None:
            check_known("split", split, SPLITS)
        return replace(
            self,
            prompts=tuple(
                prompt
                for prompt in self.prompts
                if label in (None, prompt.label)
                and split in (None, prompt.split)
                and category in (None, prompt.category)
            ),
        )

    def by_split(self) -> tuple[PromptSet, PromptSet, PromptSet]:
        """The prompts for training, for validation and for the test; any of them may be empty."""
        return self.where(split="train"), self.where(split="validation"), self.where(split="test")

    def sample(self, per_label: int | Mapping[str, int], seed: int = 0) -> PromptSet:
        """At most so many prompts per label, spread evenly over categories, in their order here.

        With one seed a smaller sample is part of every larger one, so that results for 25 and for
        60 prompts differ by the added 35 alone.

        Args:
            per_label: One number for all labels, or one for each; a label that is not named keeps
                all its prompts.
            seed: Chooses which prompts; the order of the set plays no part in it.

        Raises:
            UserError: If a number is negative or a label unknown.
        """
        return self.select(sample_indices(self, per_label, seed))

    def counts(self) -> dict[str, int]:
        """The number of prompts per label, zero included."""
        labels = self.labels
        return {label: labels.count(label) for label in LABELS}

    def frame(self) -> pandas.DataFrame:
        """One row per prompt: prompt, label, split, category, reply (None where there is none)."""
        import pandas as pd

        columns = [f.name for f in fields(Prompt)]
        rows = [[getattr(prompt, name) for name in columns] for prompt in self.prompts]
        return pd.DataFrame(rows, columns=columns, dtype=object)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a .jsonl file that `load_prompts` reads back; an old file is replaced whole.

        Raises:
            UserError: If the name does not end in .jsonl, there are no prompts, or the file cannot
                be written; an old file then stays as it was.
        """
        if Path(path).suffix.lower() != ".jsonl":
            raise UserError(f"{path}: prompts are saved as JSON lines; end the name in .jsonl")
        if not self.prompts:
            raise UserError(f"{path}: there are no prompts to save")
        rows = (
            {key: value for key, value in asdict(prompt).items() if value is not None}
            for prompt in self.prompts
        )
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        with replacing(path) as temporary:
            temporary.write_bytes(text.encode())


def read_bundled(name: str) -> PromptSet:
    """Prompts that come with the package.

    Raises:
        UserError: If the installation lacks them.
    """
    return read_prompt_file(bundled(f"prompts/{name}.jsonl"), name)


def read_prompt_file(path: Path, name: str, *, seed: int = 0, split: bool = True) -> PromptSet:
    """The prompts of a .jsonl or .csv file.

    Args:
        path: The file.
        name: Of the set.
        seed: For the split.
        split: Split the prompts where the file has no splits.

    Raises:
        UserError: If the file cannot be used; the message names the line.
    """
    numbered = [(line, parse_row(path, line, row)) for line, row in read_rows(path)]
    numbered = drop_repeats(path, numbered)
    prompts = PromptSet(tuple(prompt for _, prompt in numbered), name=name)
    if have_splits(path, numbered) or not split:
        return prompts
    try:
        return split_prompts(prompts, seed=seed)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


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
        prompts: The prompts to split.
        fractions: The shares of train, validation and test.
        seed: Chooses which prompts go where.
        groups: For each prompt what it must stay together with, beside its near-duplicates: equal
            values go to one split, None binds to nothing. For pairs in other words, such as the
            safe and the unsafe twin of a benchmark.

    Raises:
        UserError: If the fractions do not add up, or a label has too few prompts that differ to
            put one in each split.
        ValueError: If there are not as many groups as prompts.
    """
    check_fractions(fractions)
    if groups is not None and len(groups) != len(prompts):
        raise ValueError(f"{len(groups)} groups for {len(prompts)} prompts")
    indices = [index for index, prompt in enumerate(prompts) if prompt.split != "ood"]
    numbers = group_similar(
        [prompts[index].prompt for index in indices],
        groups=None if groups is None else [groups[index] for index in indices],
    )
    together: dict[int, list[Prompt]] = defaultdict(list)
    for index, number in zip(indices, numbers, strict=True):
        together[number].append(prompts[index])
    dealt = dict(zip(together, deal(_for_dealing(together.values(), seed), fractions), strict=True))
    split = list(prompts)
    for index, number in zip(indices, numbers, strict=True):
        split[index] = replace(split[index], split=dealt[number])
    return replace(prompts, prompts=tuple(split))


def _for_dealing(together: Iterable[Sequence[Prompt]], seed: int) -> list[Group]:
    return [
        Group(
            key=min(shuffle_key(seed, prompt.prompt) for prompt in members),
            strata=tuple((prompt.label, prompt.category) for prompt in members),
        )
        for members in together
    ]


def overlap_report(prompts: PromptSet) -> pandas.DataFrame:
    """Near-duplicate pairs whose two prompts lie in different splits, the most similar first.

    An empty table is what an honest test needs. Paraphrases in other words are not found.

    Returns:
        Columns split_a, split_b, prompt_a, prompt_b, similarity (1.0: equal up to case,
        punctuation and function words). Prompts without a split are left out.
    """
    import pandas as pd

    placed = [prompt for prompt in prompts if prompt.split is not None]
    texts = [prompt.prompt for prompt in placed]
    splits = [prompt.split for prompt in placed]
    rows = [
        (splits[i], splits[j], texts[i], texts[j], similarity)
        for i, j, similarity in similar_pairs(texts, family=lambda i: splits.index(splits[i]))
    ]
    rows.sort(key=lambda row: (-row[-1], row[2], row[3]))
    columns = ["split_a", "split_b", "prompt_a", "prompt_b", "similarity"]
    return pd.DataFrame(rows, columns=columns).astype({"similarity": float})


def sample_indices(
    prompts: PromptSet, per_label: int | Mapping[str, int], seed: int = 0
) -> list[int]:
    """Which prompts `PromptSet.sample` takes, in their order there.

    Raises:
        UserError: If a number is negative or a label unknown.
    """
    limits = per_label if isinstance(per_label, Mapping) else dict.fromkeys(LABELS, per_label)
    for label, limit in limits.items():
        check_known("label", label, LABELS)
        if limit < 0:
            raise UserError(f"per_label={limit} for {label}: give a number from 0")
    chosen: list[int] = []
    for label in LABELS:
        chosen += _spread_over_categories(prompts, label, seed)[: limits.get(label)]
    return sorted(chosen)


def require_labels(prompts: PromptSet, minimum: int, labels: Sequence[str] = LABELS) -> None:
    """Make sure that a stage has enough prompts of each label.

    Raises:
        UserError: If a label has fewer than `minimum` prompts.
    """
    counts = prompts.counts()
    for label in labels:
        check_known("label", label, LABELS)
        if counts[label] < minimum:
            raise UserError(
                f"{prompts.name}: {counts[label]} {label} prompts, at least {minimum} needed; "
                "add prompts of that label"
            )


def _spread_over_categories(prompts: PromptSet, label: str, seed: int) -> list[int]:
    """Indices with a label in drawing order: one of each category, then the next of each."""
    by_category: dict[str | None, list[int]] = defaultdict(list)
    indices = [index for index, prompt in enumerate(prompts) if prompt.label == label]
    for index in sorted(indices, key=lambda index: shuffle_key(seed, prompts[index].prompt)):
        by_category[prompts[index].category].append(index)
    rounds = zip_longest(*by_category.values())
    return [index for drawn in rounds for index in drawn if index is not None]
