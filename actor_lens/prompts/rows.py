"""One row of a prompt file, checked, and the rules that hold between the rows of a file."""

from __future__ import annotations

import difflib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from actor_lens.errors import UserError
from actor_lens.text import clip, one_line

Label = Literal["harmful", "pseudo_harmful", "benign"]
Split = Literal["train", "validation", "test", "ood"]
LABELS: tuple[Label, ...] = get_args(Label)
SPLITS: tuple[Split, ...] = get_args(Split)

_OPTIONAL = ("split", "category", "reply")


class PromptWarning(UserWarning):
    """Prompts were left out or moved to another split."""


@dataclass(frozen=True, repr=False)
class Prompt:
    """One prompt: what a user would type, before any chat template.

    It shows its text unless that is harmful; no reply is shown.

    Attributes:
        prompt: The text, kept as it is: newlines, control characters and spaces included.
        label: What it really is, whatever a model makes of it.
        split: The part of an experiment it belongs to; None until it is split.
        category: Any grouping of the user's own, for example "games"; never empty.
        reply: A reply to train on, for baselines that need one; never empty.

    Raises:
        UserError: If the label or split is unknown, or a text is none, empty or not valid Unicode.
    """

    prompt: str
    label: Label
    split: Split | None = None
    category: str | None = None
    reply: str | None = None

    def __post_init__(self) -> None:
        """Check the values, so that no later stage has to."""
        check_known("label", self.label, LABELS)
        if self.split is not None:
            check_known("split", self.split, SPLITS)
        for name in ("prompt", "category", "reply"):
            if name == "prompt" or getattr(self, name) is not None:
                _check_text(name, getattr(self, name))

    def __repr__(self) -> str:
        """The prompt on one line."""
        text = "(not shown)" if self.label == "harmful" else repr(clip(one_line(self.prompt), 60))
        category = None if self.category is None else clip(one_line(self.category), 40)
        values = {"split": self.split, "category": category}
        more = "".join(f", {name}={value!r}" for name, value in values.items() if value is not None)
        return f"Prompt({text}, {self.label!r}{more})"


NumberedPrompt = tuple[int, Prompt]


def parse_row(path: Path, line: int, row: Mapping[str, Any]) -> Prompt:
    """The prompt that a row describes; empty optional values count as missing.

    Raises:
        UserError: If a key is missing or misspelt, or a value cannot be used.
    """
    try:
        _check_keys(row)
        optional = {name: row[name] for name in _OPTIONAL if not _is_blank(row.get(name))}
        for name in ("prompt", *optional):
            _check_string(name, row[name])
        label = _read_known("label", row["label"], LABELS)
        if "split" in optional:
            optional["split"] = _read_known("split", optional["split"], SPLITS)
        return Prompt(row["prompt"], label, **optional)
    except UserError as error:
        raise UserError(f"{path}, line {line}: {error}") from error


def drop_repeats(path: Path, numbered: Sequence[NumberedPrompt]) -> list[NumberedPrompt]:
    """Keep the first of equal prompts, with a warning.

    Raises:
        UserError: If equal prompts differ in label or split, so that none can be preferred.
    """
    first: dict[str, NumberedPrompt] = {}
    repeats = []
    for line, prompt in numbered:
        earlier, known = first.setdefault(prompt.prompt, (line, prompt))
        if known is prompt:
            continue
        for name in ("label", "split"):
            here, there = getattr(prompt, name), getattr(known, name)
            if here != there:
                raise UserError(
                    f'{path}, line {line}: the same prompt as line {earlier} but "{name}" '
                    f"{shown(here)} instead of {shown(there)}; keep one of the two"
                )
        repeats.append(line)
    if repeats:
        warnings.warn(
            f"{path}: {len(repeats)} repeated prompts left out, the first at line {repeats[0]}",
            PromptWarning,
            stacklevel=4,
        )
    return list(first.values())


def have_splits(path: Path, numbered: Sequence[NumberedPrompt]) -> bool:
    """Whether the rows have splits: all, or none.

    Raises:
        UserError: If only some have.
    """
    having = [line for line, prompt in numbered if prompt.split]
    lacking = [line for line, prompt in numbered if not prompt.split]
    if having and lacking:
        raise UserError(
            f'{path}, line {lacking[0]}: no "split", though line {having[0]} has one; give every '
            "row a split, or none"
        )
    return bool(having)


def check_known(name: str, value: object, known: Sequence[str]) -> None:
    """Accept one of the known words.

    Raises:
        UserError: If it is another; the message lists them.
    """
    if value not in known:
        raise UserError(f"unknown {name} {shown(value)}; use one of: {', '.join(known)}")


def shown(value: object) -> str:
    """A value on one short line, for a message."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check_keys(row: Mapping[str, Any]) -> None:
    for name in ("prompt", "label"):
        if name not in row:
            keys = ", ".join(map(shown, row)) or "none"
            raise UserError(
                f'no "{name}" (keys found: {keys}); each row needs "prompt" and "label"'
            )
    for key in row.keys() - {f.name for f in fields(Prompt)}:
        meant = difflib.get_close_matches(key.strip().casefold(), _OPTIONAL, n=1, cutoff=0.8)
        if meant and meant[0] not in row:
            raise UserError(f'unknown key {shown(key)}; rename it to "{meant[0]}"')


def _is_blank(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _check_string(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise UserError(f'"{name}" is {shown(value)}; a string in quotes is expected')


def _read_known(name: str, value: object, known: Sequence[str]) -> Any:
    """The known word that was meant, whatever its case, with hyphens or spaces inside."""
    word = value
    if isinstance(value, str):
        word = value.strip().casefold().replace("-", "_").replace(" ", "_")
    check_known(name, word if word in known else value, known)
    return word


def _check_text(name: str, text: str) -> None:
    _check_string(name, text)
    if not text.strip():
        raise UserError(f'"{name}" is empty; give it some text, or leave it out')
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f'"{name}" holds half a surrogate pair at character {error.start}, which UTF-8 cannot '
            "hold; write the character itself"
        ) from error
