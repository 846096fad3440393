"""Mixtures of prompt sources, written in one line: "xstest=path.csv,advbench,ultrachat:200".

Each part is a public prompt set by name, with `=PATH` where it is a file or folder, and with
`:N` for at most N prompts a label; or bundled prompts; or a prompt file. `paper` stands for the
parts of `PAPER`, any of which `NAME=PATH` takes from a file. `NAME/A+B` takes the categories A and
B of a set only ("xstest/homonyms+definitions:20=path.csv"), and `NAME+KIND` rows of a kind that is
left out otherwise too ("phtest+controversial"). `@ood` behind a part keeps it for the end: all its
prompts are asked out of distribution, and those of other parts that resemble them are left out;
where these have a split of their own they stay, and a warning tells of training prompts.
"""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from actor_lens.errors import UserError
from actor_lens.files.paths import user_path
from actor_lens.prompts.files import read_bundled, read_prompt_file
from actor_lens.prompts.near_duplicates import group_similar
from actor_lens.prompts.public.catalogue import find_benchmark, known_benchmark
from actor_lens.prompts.public.loading import gather_benchmark, mark
from actor_lens.prompts.public.recognition import own_command, recognise_file
from actor_lens.prompts.rows import Label, Prompt, PromptWarning, Split, shown
from actor_lens.prompts.sets import PromptSet, check_anchors, sample_indices
from actor_lens.prompts.splits import split_prompts

BUNDLED = ("toy", "starter", "twins", "cautious")


@dataclass(frozen=True)
class Part:
    """One source of a mixture.

    Attributes:
        name: A public prompt set, bundled prompts, or the path of a prompt file.
        path: File or folder of a public prompt set; None for the hub.
        limit: Most prompts of each label; None for the set's usual number.
        split: The split of all its prompts; None where they are split with the other parts.
        counts: How many prompts each split gets, the first of them first. Prompts that are left
            over, or resemble those of an earlier split, are left out; a set that has too few for
            training and test is split with the other parts.
        label: The only label that is taken; None for all.
        include: Kinds of row that are left out otherwise.
        categories: The only categories of the set that are taken; none for all.
    """

    name: str
    path: str | None = None
    limit: int | None = None
    split: Split | None = None
    counts: Mapping[Split, int] = field(default_factory=dict)
    label: Label | None = None
    include: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()


def _counts(train: int, test: int, validation: int) -> Mapping[Split, int]:
    return {"train": train, "test": test, "validation": validation}


# The sources of the paper (arXiv 2507.04250), with its numbers of training and test prompts. Of
# XSTest and OR-Bench-Hard these leave 75 prompts over, which validate here, as do 75 of the others.
# The paper names neither validation prompts nor benign test prompts: HarmBench and the last 140 of
# UltraChat are ours. UltraChat is drawn evenly from its topics, where a file names them.
PAPER: tuple[Part, ...] = (
    Part("hex-phi", split="train"),
    Part("ultrachat", limit=350, counts=_counts(210, 70, 70)),
    Part("xstest", label="pseudo_harmful", counts=_counts(25, 150, 75)),
    Part("scope", counts=_counts(25, 593, 75)),
    Part("or-bench-hard", counts=_counts(25, 1219, 75)),
    Part("phtest", counts=_counts(25, 1977, 75)),
    Part("oktest", split="ood"),
    Part("advbench", split="test"),
    Part("harmbench", split="validation"),
)
# Ends a part that is asked in the end and plays no part before.
_ASKED_ONLY = "@ood"
# A prompt that resembles one whose split is given goes where that one is, the test first.
_STRONGEST: tuple[Split, ...] = ("ood", "test", "validation", "train")


def is_mixture(source: str) -> bool:
    """Whether a source names parts rather than one file or the bundled prompts."""
    first = re.split("[,=:/+]", source, maxsplit=1)[0].strip()
    known = first == "paper" or first in BUNDLED or find_benchmark(first) is not None
    return "," in source or "=" in source or known


def parse_mixture(source: str) -> tuple[Part, ...]:
    """The parts that a line names.

    Raises:
        UserError: If a part is empty, unknown or named twice, or its number cannot be read.
    """
    parts = [_parse_part(text.strip(), source) for text in source.split(",")]
    if any(part.name == "paper" for part in parts):
        parts = _with_paper(parts)
    twice = [name for name, count in Counter(p.name for p in parts).items() if count > 1]
    if twice:
        raise UserError(f"{shown(source)}: {twice[0]} is named twice; name each part once")
    return tuple(parts)


def load_mixture(source: str, *, seed: int = 0, split: bool = True) -> PromptSet:
    """The prompts of all parts, with splits that keep twins and near-duplicates on one side.

    Categories become "set/category" where there are several parts, and a part is the source of
    its prompts unless they name their own. A prompt that two parts hold
    with one label is kept once; with two labels, in neither. Prompts that resemble one whose split
    is given (by `PAPER` or by a prompt file) get that split too; those that resemble an `ood`
    prompt are left out. Each of these is counted in a warning. Without ``split`` prompts keep what
    splits they have, and no more.

    Raises:
        UserError: If a part cannot be loaded.
    """
    parts = parse_mixture(source)
    sources = [_load(part, seed, several=len(parts) > 1) for part in parts]
    name = ",".join(each.name for each in sources)
    if "paper" in (text.strip() for text in source.split(",")):
        name = f"paper({name})"
    joined = _join(sources, name)
    return _split(joined, seed) if split else joined


def load_anchors(source: str, *, seed: int = 0) -> PromptSet:
    """Prompts that R is made of, whatever their splits; the source is one of ``load_mixture``.

    Raises:
        UserError: If they cannot be loaded, or harmful or benign ones are missing.
    """
    anchors = load_mixture(source, seed=seed, split=False)
    check_anchors(anchors)
    return anchors


def _parse_part(text: str, source: str) -> Part:
    if text.endswith(_ASKED_ONLY):
        part = _parse_part(text.removesuffix(_ASKED_ONLY), source)
        if part.name == "paper":
            raise UserError(
                f"{shown(text)}: the paper's parts have splits of their own; put {_ASKED_ONLY} "
                "behind one of them, such as xstest=PATH@ood"
            )
        return replace(part, split="ood")
    left, equals, path = text.partition("=")
    # os.path: of names that are too long for a file, or of no user's home, Path raises.
    is_file = os.path.isfile(os.path.expanduser(text))
    if not equals and (text in BUNDLED or text == "paper" or is_file):
        return Part(text)
    rows, colon, number = left.strip().partition(":")
    if rows.endswith((".csv", ".jsonl")):
        raise UserError(f"{shown(text)}: no such prompt file; check the path")
    kinds, slash, names = rows.partition("/")
    name, *include = (each.strip() for each in kinds.split("+"))
    categories = [each.strip() for each in names.split("+")] if slash else []
    if name in BUNDLED:
        raise UserError(
            f"{shown(text)}: bundled prompts are taken whole; write {name} and take fewer training "
            "prompts with --per-label (in Python: sample)"
        )
    if not all((name, *include, *categories)) or (equals and not path.strip()):
        raise UserError(
            f"{shown(source)}: an empty part; write NAME, NAME=PATH, NAME:N or NAME/CATEGORY"
        )
    if colon and not (number.isdecimal() and int(number) > 0):
        raise UserError(f"{shown(text)}: after the colon a number of prompts from 1 is expected")
    return Part(
        known_benchmark(name, (*BUNDLED, "paper")).name,
        path=path.strip() or None,
        limit=int(number) if colon else None,
        include=tuple(include),
        categories=tuple(categories),
    )


def _with_paper(parts: Sequence[Part]) -> list[Part]:
    """The paper's parts, each replaced by the user's own of that name, then all others."""
    own = {part.name: part for part in parts if part.name != "paper"}
    paper = []
    for part in PAPER:
        source = own.pop(part.name, part)
        counts = {} if source.limit and source is not part else part.counts
        own_limit, split = source.limit or part.limit, source.split or part.split
        paper.append(replace(source, limit=own_limit, split=split, label=part.label, counts=counts))
    return paper + list(own.values())


def _load(part: Part, seed: int, *, several: bool) -> PromptSet:
    benchmark = find_benchmark(part.name)
    if benchmark is None:
        prompts = read_own(part.name)
        prefix = Path(part.name).stem
    else:
        prompts = gather_benchmark(
            benchmark,
            path=part.path,
            limit=part.limit,
            seed=seed,
            include=part.include,
            categories=part.categories,
        )
        prefix = benchmark.name
    if part.label is not None:
        prompts = prompts.where(label=part.label)
    if part.split is not None:
        prompts = mark(prompts, part.split)
    elif part.counts and len(prompts) >= part.counts["train"] + part.counts["test"]:
        prompts = _draw(prompts, part.counts, seed)
    if several:
        prompts = replace(prompts, prompts=tuple(_with_prefix(p, prefix) for p in prompts))
    return prompts


def _draw(prompts: PromptSet, counts: Mapping[Split, int], seed: int) -> PromptSet:
    """As many prompts as each split gets; what resembles those of an earlier one is left out."""
    groups = group_similar(prompts.texts, groups=prompts.twins)
    free = list(range(len(groups)))
    splits: dict[int, Split] = {}
    for split, count in counts.items():
        drawn = sample_indices(prompts.select(free), count, seed)
        rows = [free[index] for index in drawn]
        splits |= dict.fromkeys(rows, split)
        taken = {groups[row] for row in rows}
        free = [row for row in free if groups[row] not in taken]
    marked = (replace(prompts[row], split=splits[row]) for row in sorted(splits))
    return replace(prompts, prompts=tuple(marked))


def read_own(source: str) -> PromptSet:
    """Bundled prompts or a prompt file, without splits where there are none."""
    if source in BUNDLED:
        return read_bundled(source)
    return read_own_file(user_path(source), split=False)


def read_own_file(path: Path, *, seed: int = 0, split: bool = True) -> PromptSet:
    """A prompt file; a file of a public set, which has other columns, is said to be one.

    Raises:
        UserError: If the file cannot be used.
    """
    try:
        return read_prompt_file(path, path.name, seed=seed, split=split)
    except UserError as error:
        found = recognise_file(path)
        if found is None:
            raise
        raise UserError(own_command(path, found)) from error


def _with_prefix(prompt: Prompt, prefix: str) -> Prompt:
    category = f"{prefix}/{prompt.category}" if prompt.category else prefix
    twin = prompt.twin and f"{prefix} {prompt.twin}"  # another part has a "1" of its own
    return replace(prompt, category=category, source=prompt.source or prefix, twin=twin)


def _join(sources: Sequence[PromptSet], name: str) -> PromptSet:
    """All prompts in order; of equal ones the first, or none where their labels differ.

    What is out of distribution in one part is so in all.
    """
    rows = [prompt for source in sources for prompt in source]
    labels: dict[str, set[str]] = defaultdict(set)
    for prompt in rows:
        labels[prompt.prompt].add(prompt.label)
    disputed = {text for text, names in labels.items() if len(names) > 1}
    if disputed:
        _warn(f"{name}: {len(disputed)} prompts left out, as two parts give them different labels")
    if len(labels) < len(rows):
        _warn(f"{name}: {len(rows) - len(labels)} prompts occur in two parts and are kept once")
    first: dict[str, Prompt] = {}
    for prompt in rows:
        kept = first.get(prompt.prompt)
        newer = kept is None or (prompt.split == "ood" and kept.split != "ood")
        if newer and prompt.prompt not in disputed:
            first[prompt.prompt] = prompt
    return PromptSet(tuple(first.values()), name=name)


def _split(prompts: PromptSet, seed: int) -> PromptSet:
    """Give a split to every prompt that has none."""
    numbers = group_similar(prompts.texts, groups=prompts.twins)
    splits: dict[int, set[Split]] = defaultdict(set)
    for number, prompt in zip(numbers, prompts, strict=True):
        if prompt.split is not None:
            splits[number].add(prompt.split)
    leaks = [
        p
        for n, p in zip(numbers, prompts, strict=True)
        if p.split == "train" and (splits[n] & {"test", "ood"})
    ]
    if leaks:
        _warn(
            f"{prompts.name}: {len(leaks)} training prompts resemble test prompts and stay where "
            "they are, as their split is given"
        )
    if all(prompt.split is not None for prompt in prompts):
        return prompts
    bound = {number: next(s for s in _STRONGEST if s in own) for number, own in splits.items()}
    free = [i for i, number in enumerate(numbers) if number not in bound]
    try:
        new = split_prompts(prompts.select(free), seed=seed, groups=[numbers[i] for i in free])
    except UserError as error:
        raise UserError(f"{prompts.name}: {error}") from error
    return _with_bound(prompts, numbers, bound, dict(zip(free, new, strict=True)))


def _with_bound(
    prompts: PromptSet, numbers: Sequence[int], bound: dict[int, Split], new: dict[int, Prompt]
) -> PromptSet:
    """Newly split prompts, those with a split of their own, and those that follow one of them."""
    result: list[Prompt] = []
    moved = dropped = 0
    for index, (prompt, number) in enumerate(zip(prompts, numbers, strict=True)):
        if index in new:
            result.append(new[index])
        elif prompt.split is not None:
            result.append(prompt)
        elif bound[number] == "ood":
            dropped += 1
        else:
            moved += 1
            result.append(replace(prompt, split=bound[number]))
    if dropped:
        _warn(f"{prompts.name}: {dropped} prompts left out, as they resemble ood prompts")
    if moved:
        _warn(f"{prompts.name}: {moved} prompts went where the prompts are that they resemble")
    return replace(prompts, prompts=tuple(result))


def _warn(message: str) -> None:
    warnings.warn(message, PromptWarning, stacklevel=4)
