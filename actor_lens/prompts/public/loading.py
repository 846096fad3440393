"""Public prompt sets by name, alone or mixed, with splits that keep twins on one side."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from actor_lens.errors import UserError
from actor_lens.files.paths import user_path
from actor_lens.prompts.public.catalogue import BenchmarkSet, known_benchmark, plain_name
from actor_lens.prompts.public.files import rows_of
from actor_lens.prompts.public.hub import hub_rows
from actor_lens.prompts.public.recognition import check_no_stranger, warn_of_rows
from actor_lens.prompts.public.rows import Reading, Row
from actor_lens.prompts.rows import SPLITS, Prompt, PromptWarning, Split, check_known, shown
from actor_lens.prompts.sets import PromptSet
from actor_lens.prompts.splits import split_prompts

SplitChoice = Literal["auto", "train", "validation", "test", "ood"]


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

    Which label each row gets and why is printed by `actor-lens prompts show NAME` and stands in
    `al.prompts.catalogue()`. Spaces and newlines around a prompt are taken off; a prompt
    that occurs twice is kept once. The name of the result says where it is from:
    "xstest@<commit>" or "xstest=<file>".

    Args:
        name: Name of the set, such as "xstest"; `actor-lens prompts list` names all.
        path: A .csv, .tsv, .json, .jsonl, .parquet or .txt file, or a folder as it was downloaded
            or saved by `datasets`; None fetches the set from the hub.
        revision: Branch, tag or commit of the hub; None for the newest. The commit that it stands
            for is part of the result's name.
        limit: Most prompts of each label, spread over categories; None for the set's usual
            number, which is all but for the very large ones.
        split: "auto" splits prompts into train, validation and test, twins together; a split by
            name is that of all of them; None gives none.
        seed: Seed of the sample and of the split.
        include: Kinds of row that are left out otherwise, such as "controversial" of PHTest.
        categories: Only rows of these categories of the set, whatever their case, with `_` or `-`
            for spaces; none for all.
        hub_split: A split of the hub other than the usual one, such as "train" of FalseReject.

    Raises:
        UserError: If the set is unknown, cannot be fetched or read, or has other columns.
    """
    source = known_benchmark(name)
    if split not in (None, "auto"):
        check_known("split", split, SPLITS)
    gathered = gather_benchmark(
        source,
        path=path,
        revision=revision,
        limit=limit,
        seed=seed,
        include=include,
        categories=categories,
        hub_split=hub_split,
    )
    if split is None:
        return gathered
    if split != "auto":
        return mark(gathered, split)
    try:
        return split_prompts(gathered, seed=seed)
    except UserError as error:
        raise UserError(f"{gathered.name}: {error}") from error


def gather_benchmark(
    source: BenchmarkSet,
    *,
    path: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    include: Sequence[str] = (),
    categories: Sequence[str] = (),
    hub_split: str | None = None,
) -> PromptSet:
    """The prompts of a set without splits. Arguments as in `benchmark`.

    Raises:
        UserError: As `benchmark`.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit={limit}: give a number from 1, or None for all")
    name = "+".join((source.name, *include)) + "/" * bool(categories) + "+".join(categories)
    if path is not None:
        file = user_path(path)
        rows, name = rows_of(file, source), f"{name}={file.name}"
        known = bool(rows) and check_no_stranger(source, list(rows[0].values), len(rows), file.name)
    else:
        rows, commit = hub_rows(source, revision=revision, split=hub_split)
        name = f"{name}@{commit}"
    gathered = _read(source, rows, name, include, categories)
    if path is not None and not known:
        warn_of_rows(source, len(rows), file.name)
    most = source.usual if limit is None else limit
    return gathered.sample(most, seed)


def mark(prompts: PromptSet, split: Split) -> PromptSet:
    """Give all prompts one split."""
    return replace(prompts, prompts=tuple(replace(prompt, split=split) for prompt in prompts))


def _read(
    source: BenchmarkSet,
    rows: Sequence[Row],
    name: str,
    include: Sequence[str],
    categories: Sequence[str],
) -> PromptSet:
    """Every row as a prompt, but for those not asked for, without text, or repeated."""
    _check_columns(source, rows, name)
    groups = source.twins(rows) if source.twins is not None else [None] * len(rows)
    readings = [source.read(row) for row in rows]
    _check_kinds(source, readings, include)
    _check_categories(source, readings, include, categories)
    prompts: dict[str, Prompt] = {}
    empty, repeated = [], []
    for row, reading, group in zip(rows, readings, groups, strict=True):
        if not _is_asked_for(reading, include, categories):
            continue
        if not reading.prompt:
            empty.append(row.place)
            continue
        category = reading.category or None
        prompt = Prompt(
            reading.prompt, reading.label, category=category, source=source.name, twin=group
        )
        earlier = prompts.get(prompt.prompt)
        if earlier is None or (earlier.label == "benign" and prompt.label == "harmful"):
            # A prompt with a safe and an unsafe answer (BeaverTails) is harmful.
            prompts[prompt.prompt] = prompt
        else:
            repeated.append(row.place)
    _warn("rows without a prompt", name, empty)
    if not source.repeats:
        _warn("repeated prompts", name, repeated)
    if not prompts:
        raise UserError(f"{name}: no prompts in {len(rows)} rows; check the file")
    return PromptSet(tuple(prompts.values()), name=name)


def _check_columns(source: BenchmarkSet, rows: Sequence[Row], name: str) -> None:
    if not rows:
        raise UserError(f"{name}: has no rows; download it again from {source.page}")
    first = rows[0]
    if source.columns and first.get(*source.columns) is None:
        names = [str(key).strip().casefold() for key in first.values]
        if any(column.casefold() in names for column in source.columns):
            return  # the column is there, and its first value is missing
        there = ", ".join(str(key) for key in first.values)[:100] or "none"
        raise UserError(
            f"{first.place}: no column {' or '.join(source.columns)} (found: {there}); "
            f"{source.title} has it: compare with {source.page}"
        )


def _check_kinds(source: BenchmarkSet, readings: Sequence[Reading], include: Sequence[str]) -> None:
    kinds = sorted({reading.kind for reading in readings if reading.kind})
    for kind in include:
        if kind not in kinds:
            there = ", ".join(kinds) or "none"
            raise UserError(
                f"{source.name}: include={kind} matches no rows; kinds found: {there} (categories "
                f"are given as {source.name}/CATEGORY)"
            )


def _is_asked_for(reading: Reading, include: Sequence[str], categories: Sequence[str]) -> bool:
    if reading.kind and reading.kind not in include:
        return False
    return not categories or plain_name(reading.category) in map(plain_name, categories)


def _check_categories(
    source: BenchmarkSet,
    readings: Sequence[Reading],
    include: Sequence[str],
    categories: Sequence[str],
) -> None:
    there = {each.category for each in readings if _is_asked_for(each, include, ())}
    unknown = set(map(plain_name, categories)) - set(map(plain_name, there))
    if unknown:
        listed = ", ".join(sorted(filter(None, there)))[:400] or "none"
        raise UserError(
            f"{source.name}: no category {shown(min(unknown))} among its rows; there are: {listed}"
        )


def _warn(what: str, name: str, places: Sequence[str]) -> None:
    if places:
        warnings.warn(
            f"{name}: {len(places)} {what} left out, the first at {places[0]}",
            PromptWarning,
            stacklevel=5,
        )
