"""One row of a prompt file, checked, and the rules that hold between the rows of a file."""

from __future__ import annotations

import difflib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from actor_lens.errors import UserError
from actor_lens.text import clip, one_line

Label = Literal["harmful", "pseudo_harmful", "benign"]
Split = Literal["train", "validation", "test", "ood"]
LABELS: tuple[Label, ...] = get_args(Label)
SPLITS: tuple[Split, ...] = get_args(Split)

Pair = Literal["harmful_vs_benign", "harmful_vs_pseudo_harmful"]
PAIRS: dict[Pair, tuple[Label, Label]] = {
    "harmful_vs_benign": ("harmful", "benign"),
    "harmful_vs_pseudo_harmful": ("harmful", "pseudo_harmful"),
}
"""Labels that scores tell apart, by the name of the pair."""

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
        source: Where it was taken from: a public set, a writer, "ours"; never empty.
        twin: What it shares with its twins, a safe prompt and its unsafe counterpart; never empty.

    Raises:
        UserError: If the label or split is unknown, or a text is none, empty or not valid Unicode.
    """

    prompt: str
    label: Label
    split: Split | None = None
    category: str | None = None
    reply: str | None = None
    source: str | None = None
    twin: str | None = None

    def __post_init__(self) -> None:
        """Check the values, so that no later stage has to."""
        check_known("label", self.label, LABELS)
        if self.split is not None:
            check_known("split", self.split, SPLITS)
        for name in ("prompt", "category", "reply", "source", "twin"):
            if name == "prompt" or getattr(self, name) is not None:
                _check_text(name, getattr(self, name))

    def __repr__(self) -> str:
        """The prompt on one line."""
        text = "(not shown)" if self.label == "harmful" else repr(clip(one_line(self.prompt), 60))
        category = None if self.category is None else clip(one_line(self.category), 40)
        values = {"split": self.split, "category": category}
        more = "".join(f", {name}={value!r}" for name, value in values.items() if value is not None)
        return f"Prompt({text}, {self.label!r}{more})"


PlacedPrompt = tuple[str, Prompt]
"""A prompt with its place in the source: "line 3"."""


def parse_row(source: object, place: str, row: Mapping[str, Any]) -> Prompt:
    """The prompt that a row describes; empty optional values count as missing.

    A list of messages in the place of the prompt is read by ``one_turn``.

    Args:
        source: File, or whatever the row is of, for messages.
        place: Place of the row in it.
        row: Its values by key.

    Raises:
        UserError: If a key is missing or misspelt, or a value cannot be used.
    """
    try:
        row = one_turn(row)
        _check_keys(row)
        optional = {name: row[name] for name in _OPTIONAL if not _is_blank(row.get(name))}
        for name in ("prompt", *optional):
            _check_string(name, row[name])
        # Many a file has a "source" of its own kind: what is no text is read past.
        for name in ("source", "twin"):
            if isinstance(row.get(name), str) and not _is_blank(row[name]):
                optional[name] = row[name].strip()
        label = _read_known("label", row["label"], LABELS)
        if "split" in optional:
            optional["split"] = _read_known("split", optional["split"], SPLITS)
        return Prompt(row["prompt"], label, **optional)
    except UserError as error:
        raise UserError(f"{source}, {place}: {error}") from error


def drop_repeats(source: object, placed: Sequence[PlacedPrompt]) -> list[PlacedPrompt]:
    """Keep the first of equal prompts, with a warning.

    Raises:
        UserError: If equal prompts differ in label or split, so that none can be preferred.
    """
    first: dict[str, PlacedPrompt] = {}
    repeats = []
    for place, prompt in placed:
        earlier, known = first.setdefault(prompt.prompt, (place, prompt))
        if known is prompt:
            continue
        for name in ("label", "split"):
            here, there = getattr(prompt, name), getattr(known, name)
            if here != there:
                raise UserError(
                    f'{source}, {place}: the same prompt as {earlier} but "{name}" '
                    f"{shown(here)} instead of {shown(there)}; keep one of the two"
                )
        repeats.append(place)
    if repeats:
        warnings.warn(
            f"{source}: {len(repeats)} repeated prompts left out, the first at {repeats[0]}",
            PromptWarning,
            stacklevel=4,
        )
    return list(first.values())


def have_splits(source: object, placed: Sequence[PlacedPrompt]) -> bool:
    """Whether the rows have splits: all, or none.

    Raises:
        UserError: If only some have.
    """
    having = [place for place, prompt in placed if prompt.split]
    lacking = [place for place, prompt in placed if not prompt.split]
    if having and lacking:
        raise UserError(
            f'{source}, {lacking[0]}: no "split", though {having[0]} has one; give every '
            "row a split, or none"
        )
    return bool(having)


def one_turn(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row with a text as its prompt, where it has a list of messages under prompt or messages.

    The user's message is the prompt; an answer to it is the reply, unless there is one already.

    Raises:
        UserError: If the messages are more than one turn of the user with its answer.
    """
    key = "prompt" if "prompt" in row else "messages"
    messages: Any = row.get(key)
    if hasattr(messages, "tolist"):  # an array, as Parquet files give it
        messages = messages.tolist()
    if not isinstance(messages, list | tuple) or not messages:
        return row
    if not all(isinstance(one, Mapping) and "role" in one for one in messages):
        return row
    roles = [str(one["role"]) for one in messages]
    if roles[0] in ("system", "developer"):
        raise UserError(
            f'"{key}" begins with a {roles[0]} message; leave it out, and give one for all prompts '
            "with --system-prompt (load_model(..., system_prompt=...))"
        )
    if roles not in (["user"], ["user", "assistant"]):
        raise UserError(
            f'"{key}" is a conversation of {len(roles)} messages ({clip(", ".join(roles), 60)}); a '
            "prompt is one message of the user, with or without its reply"
        )
    texts = {"prompt": _content(key, messages[0])}
    if len(messages) > 1 and _is_blank(row.get("reply")):
        texts["reply"] = _content(key, messages[1])
    return {**{name: value for name, value in row.items() if name != key}, **texts}


def _content(key: str, message: Mapping[str, Any]) -> Any:
    """The text of a message; parts of one are put together where all of them are texts."""
    content = message.get("content")
    if not isinstance(content, list | tuple):
        return content
    parts: list[Any] = [p.get("text") if isinstance(p, Mapping) else p for p in content]
    if not parts or not all(isinstance(part, str) for part in parts):
        raise UserError(f'"{key}" holds more than text; prompts are texts')
    return "".join(parts)


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
