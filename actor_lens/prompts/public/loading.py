"""Public prompt sets by name, alone or mixed, with splits that keep twins on one side."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from actor_lens.errors import UserError
from actor_lens.prompts.public.catalogue import BenchmarkSet, known_benchmark, plain_name
from actor_lens.prompts.public.files import rows_of
from actor_lens.prompts.public.hub import hub_rows
from actor_lens.prompts.public.rows import Reading, Row
from actor_lens.prompts.rows import SPLITS, Prompt, PromptWarning, Split, check_known, shown
from actor_lens.prompts.sets import PromptSet, sample_indices
from actor_lens.prompts.splits import split_prompts

SplitChoice = Literal["auto", "train", "validation", "test", "ood"]


@dataclass(frozen=True)
class Gathered:
    """Prompts with what each must stay together with (None: nothing but near-duplicates)."""

    prompts: PromptSet
    groups: tuple[str | None, ...]

    def select(self, indices: Sequence[int]) -> Gathered:
        """The prompts at these indices."""
        groups = tuple(self.groups[index] for index in indices)
        return Gathered(self.prompts.select(indices), groups)


def benchmark(
    name: str,
    *,
    path: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    limit: int | None = None,
    split: SplitChoice | None = "auto",
    seed: int = 0,
    include: Sequence[str] = (),
    categories: Sequence[str] = (),
    hub_split: str | None = None,
) -> PromptSet:
    """A public prompt set by name, from the hub or from a file.

    Which label each row gets and why stands in `benchmark_sets` and is printed by
    `actor-lens prompts show NAME`. Spaces and newlines around a prompt are taken off; a prompt
    that occurs twice is kept once. The name of the result says where it is from:
    "xstest@<commit>" or "xstest=<file>".

    Args:
        name: For instance "xstest"; `actor-lens prompts list` names all.
        path: A .csv, .tsv, .json, .jsonl, .parquet or .txt file, or a folder as it was downloaded
            or saved by `datasets`; None fetches the set from the hub.
        revision: Branch, tag or commit of the hub; None for the newest. The commit that it stands
            for is part of the result's name.
        limit: At most so many prompts of each label, spread over categories; None for the set's
            usual number, which is all but for the very large ones.
        split: "auto" deals prompts out to train, validation and test, twins together; another
            word marks all of them so; None gives none.
        seed: For the sample and the split.
        include: Kinds of row that are left out otherwise, such as "controversial" of PHTest.
        categories: Only rows of these categories of the set, whatever their case, with `_` or `-`
            for spaces; none for all.
        hub_split: A split of the hub other than the usual one, such as "train" of FalseReject.

    Raises:
        UserError: If the set is unknown, cannot be fetched or read, or has other columns.
    """
    found = known_benchmark(name)
    if split not in (None, "auto"):
        check_known("split", split, SPLITS)
    gathered = gather_benchmark(
        found,
        path=path,
        revision=revision,
        limit=limit,
        seed=seed,
        include=include,
        categories=categories,
        hub_split=hub_split,
    )
    if split is None:
        return gathered.prompts
    if split == "auto":
        return _split(gathered, seed)
    return marked(gathered.prompts, split)


def gather_benchmark(
    found: BenchmarkSet,
    *,
    path: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    include: Sequence[str] = (),
    categories: Sequence[str] = (),
    hub_split: str | None = None,
) -> Gathered:
    """The prompts of a set without splits, and its twins. Arguments as in `benchmark`.

    Raises:
        UserError: As `benchmark`.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit={limit}: give a number from 1, or None for all")
    name = "+".join((found.name, *include)) + "/" * bool(categories) + "+".join(categories)
    if path is not None:
        file = Path(os.path.expanduser(path))
        rows, name = rows_of(file, found), f"{name}={file.name}"
    else:
        rows, commit = hub_rows(found, revision=revision, split=hub_split)
        name = f"{name}@{commit}"
    gathered = _read(found, rows, name, include, categories)
    most = found.usual if limit is None else limit
    if most is None:
        return gathered
    return gathered.select(sample_indices(gathered.prompts, most, seed))


def marked(prompts: PromptSet, split: Split) -> PromptSet:
    """The prompts with one split."""
    return replace(prompts, prompts=tuple(replace(prompt, split=split) for prompt in prompts))


def _split(gathered: Gathered, seed: int) -> PromptSet:
    try:
        return split_prompts(gathered.prompts, seed=seed, groups=gathered.groups)
    except UserError as error:
        raise UserError(f"{gathered.prompts.name}: {error}") from error


def _read(
    found: BenchmarkSet,
    rows: Sequence[Row],
    name: str,
    include: Sequence[str],
    categories: Sequence[str],
) -> Gathered:
    """Every row as a prompt, but for those not asked for, without text, or repeated."""
    _check_columns(found, rows, name)
    groups = found.twins(rows) if found.twins is not None else [None] * len(rows)
    readings = [found.read(row) for row in rows]
    _check_kinds(found, readings, include)
    _check_categories(found, readings, include, categories)
    kept: dict[str, tuple[Prompt, str | None]] = {}
    empty, repeated = [], []
    for row, reading, group in zip(rows, readings, groups, strict=True):
        if not _asked_for(reading, include, categories):
            continue
        if not reading.prompt:
            empty.append(row.place)
            continue
        prompt = Prompt(reading.prompt, reading.label, category=reading.category or None)
        earlier = kept.get(prompt.prompt)
        if earlier is None or (earlier[0].label == "benign" and prompt.label == "harmful"):
            # A prompt with a safe and an unsafe answer (BeaverTails) is harmful.
            kept[prompt.prompt] = prompt, group
        else:
            repeated.append(row.place)
    _tell("rows without a prompt", name, empty)
    if not found.repeats:
        _tell("repeated prompts", name, repeated)
    if not kept:
        raise UserError(f"{name}: no prompts in {len(rows)} rows; check the file")
    prompts = PromptSet(tuple(prompt for prompt, _ in kept.values()), name=name)
    return Gathered(prompts, tuple(group for _, group in kept.values()))


def _check_columns(found: BenchmarkSet, rows: Sequence[Row], name: str) -> None:
    if not rows:
        raise UserError(f"{name}: has no rows; download it again from {found.page}")
    first = rows[0]
    if found.columns and first.get(*found.columns) is None:
        names = [str(key).strip().casefold() for key in first.values]
        if any(column.casefold() in names for column in found.columns):
            return  # the column is there, and its first value is missing
        there = ", ".join(str(key) for key in first.values)[:100] or "none"
        raise UserError(
            f"{first.place}: no column {' or '.join(found.columns)} (found: {there}); "
            f"{found.title} has it: compare with {found.page}"
        )


def _check_kinds(found: BenchmarkSet, readings: Sequence[Reading], include: Sequence[str]) -> None:
    kinds = sorted({reading.kind for reading in readings if reading.kind})
    for kind in include:
        if kind not in kinds:
            there = ", ".join(kinds) or "none"
            raise UserError(
                f"{found.name}: include={kind} matches no rows; kinds found: {there} (categories "
                f"are given as {found.name}/CATEGORY)"
            )


def _asked_for(reading: Reading, include: Sequence[str], categories: Sequence[str]) -> bool:
    if reading.kind and reading.kind not in include:
        return False
    return not categories or plain_name(reading.category) in map(plain_name, categories)


def _check_categories(
    found: BenchmarkSet,
    readings: Sequence[Reading],
    include: Sequence[str],
    categories: Sequence[str],
) -> None:
    there = {each.category for each in readings if _asked_for(each, include, ())}
    unknown = set(map(plain_name, categories)) - set(map(plain_name, there))
    if unknown:
        listed = ", ".join(sorted(filter(None, there)))[:400] or "none"
        raise UserError(
            f"{found.name}: no category {shown(min(unknown))} among its rows; there are: {listed}"
        )


def _tell(what: str, name: str, places: Sequence[str]) -> None:
    if places:
        warnings.warn(
            f"{name}: {len(places)} {what} left out, the first at {places[0]}",
            PromptWarning,
            stacklevel=5,
        )
