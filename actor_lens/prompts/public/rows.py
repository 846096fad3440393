"""How a row of a public prompt set becomes a labelled prompt, and which rows are twins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from actor_lens.errors import UserError
from actor_lens.prompts.rows import Label, shown


@dataclass(frozen=True, repr=False)
class Row:
    """One row of a file or of the hub.

    Attributes:
        values: Its values by column.
        part: The file (without ending) or the split of the hub that it comes from.
        place: Where it is, for messages.
    """

    values: Mapping[str, Any]
    part: str
    place: str

    def get(self, *names: str) -> Any:
        """The value of the first of these columns there is, whatever their case; else None."""
        for name in names:
            for key, value in self.values.items():
                if key is not None and key.strip().casefold() == name.casefold():
                    return value
        return None

    def text(self, *names: str) -> str:
        """The same as text without spaces and newlines around it; "" for none."""
        value = self.get(*names)
        return "" if value is None else str(value).strip()


@dataclass(frozen=True, repr=False)
class Reading:
    """What a row says.

    Attributes:
        prompt: The text, "" where the row has none.
        label: Label of the prompt.
        category: The set's own grouping; "" for none.
        kind: A kind of row that is left out unless it is asked for; "" for the usual rows.
    """

    prompt: str
    label: Label
    category: str = ""
    kind: str = ""


Reader = Callable[[Row], Reading]
Twins = Callable[[Sequence[Row]], list[str | None]]


def all_are(label: Label, *columns: str, category: Sequence[str] = ()) -> Reader:
    """Every row has one label; the prompt is in the first of the columns that is there."""

    def read(row: Row) -> Reading:
        return Reading(row.text(*columns), label, row.text(*category))

    return read


def read_xstest(row: Row) -> Reading:
    """Safe prompts are pseudo-harmful, their unsafe contrasts harmful."""
    kind = row.text("type")
    label = row.text("label").casefold()
    if label not in ("safe", "unsafe"):
        if label or not kind:
            raise _unknown(row, "label", row.get("label"), "safe, unsafe")
        label = "unsafe" if kind.startswith("contrast_") else "safe"
    return Reading(row.text("prompt"), "pseudo_harmful" if label == "safe" else "harmful", kind)


def read_phtest(row: Row) -> Reading:
    """Harmless rows are pseudo-harmful; controversial ones are a kind of their own."""
    harm = row.text("harmfulness").casefold()
    if harm not in ("harmless", "controversial"):
        raise _unknown(row, "Harmfulness", row.get("harmfulness"), "harmless, controversial")
    kind = "" if harm == "harmless" else harm
    return Reading(row.text("request", "prompt"), "pseudo_harmful", harm, kind)


def read_harmbench(row: Row) -> Reading:
    """The context that a contextual behaviour speaks of comes before it."""
    behaviour, context = row.text("behavior"), row.text("contextstring")
    prompt = f"{context}\n\n{behaviour}" if context and behaviour else behaviour
    return Reading(prompt, "harmful", row.text("semanticcategory"))


def read_jailbreakbench(row: Row) -> Reading:
    """Which half a row belongs to stands in the name of its file or split."""
    part = row.part.casefold()
    halves = [half for half in ("harmful", "benign") if half in part]
    if len(halves) != 1:
        raise UserError(
            f"{row.place}: part {shown(row.part)} is neither the harmful nor the benign half; keep "
            "the names harmful-behaviors.csv and benign-behaviors.csv, or give their folder"
        )
    label: Label = "harmful" if halves == ["harmful"] else "pseudo_harmful"
    return Reading(row.text("goal"), label, row.text("category"))


def read_hex_phi(row: Row) -> Reading:
    """The prompt is the first column, whatever it is called; the category is the part."""
    first = next(iter(row.values.values()), "")
    prompt = row.text("prompt", "instruction") or str(first or "").strip()
    return Reading(prompt, "harmful", row.text("category") or row.part)


def read_beavertails(row: Row) -> Reading:
    """A prompt that drew an unsafe answer is harmful; safe answers are a kind of their own."""
    flag = row.get("is_safe")
    text = str(flag).strip().casefold()
    if text not in ("true", "false", "0", "1"):
        raise _unknown(row, "is_safe", flag, "true, false")
    if text in ("true", "1"):
        return Reading(row.text("prompt"), "benign", "safe answer", "safe")
    return Reading(row.text("prompt"), "harmful", _true_keys(row.get("category")))


def read_sorry_bench(row: Row) -> Reading:
    """The first turn; rewritten versions are kinds of their own, by style."""
    turns = row.get("turns", "prompt")
    prompt = turns[0] if isinstance(turns, list) and turns else turns
    style = row.text("prompt_style") or "base"
    return Reading(
        str(prompt or "").strip(), "harmful", row.text("category"), "" if style == "base" else style
    )


def read_ultrachat(row: Row) -> Reading:
    """The first thing that the user says; the set on the hub names no topic."""
    prompt = row.text("prompt")
    messages = row.get("messages", "data")
    if not prompt and isinstance(messages, list):
        first = next(filter(_is_of_user, messages), "")
        prompt = first if isinstance(first, str) else str(first.get("content") or "")
    return Reading(prompt.strip(), "benign", row.text("topic", "category"))


def _is_of_user(message: object) -> bool:
    """A bare text, of which the first is the user's, or a message that says so."""
    return isinstance(message, str) or (
        isinstance(message, Mapping) and message.get("role") == "user"
    )


def read_alpaca(row: Row) -> Reading:
    """The instruction, and below it the text that it is about."""
    instruction, about = row.text("instruction"), row.text("input")
    return Reading(f"{instruction}\n\n{about}" if instruction and about else instruction, "benign")


def xstest_twins(rows: Sequence[Row]) -> list[str | None]:
    """Twins have one place in the blocks of their family.

    The file goes in blocks of one type; the blocks up to and with a `contrast_` block are a family
    (two kinds of safe prompt share one contrast block in two families), and row p of each block
    was written as the twin of row p of the others. Where the blocks of a family differ in length,
    as in a part of the file, twins are the rows of a family with one trigger word (`focus`).
    """
    twins: list[str | None] = [None] * len(rows)
    family: list[list[int]] = []
    blocks = groupby(range(len(rows)), key=lambda index: rows[index].text("type"))
    for kind, indices in blocks:
        family.append(list(indices))
        if kind.startswith("contrast_"):
            _name_twins(rows, family, kind.removeprefix("contrast_"), twins)
            family = []
    return twins


def _name_twins(
    rows: Sequence[Row], family: Sequence[Sequence[int]], name: str, twins: list[str | None]
) -> None:
    alike = len({len(block) for block in family}) == 1
    for block in family:
        for place, index in enumerate(block):
            focus = rows[index].text("focus")
            if alike:
                twins[index] = f"{name} {place}"
            elif focus:
                twins[index] = f"{name} {focus}"


def jailbreakbench_twins(rows: Sequence[Row]) -> list[str | None]:
    """The harmful and the benign behaviour with one Index (else one Behavior) are twins."""
    return [row.text("index") or row.text("behavior") or None for row in rows]


def sorry_bench_twins(rows: Sequence[Row]) -> list[str | None]:
    """All styles of one question are twins."""
    return [row.text("question_id") or None for row in rows]


READERS: Mapping[str, Reader] = {
    "xstest": read_xstest,
    "phtest": read_phtest,
    "harmbench": read_harmbench,
    "jailbreakbench": read_jailbreakbench,
    "hex_phi": read_hex_phi,
    "beavertails": read_beavertails,
    "sorry_bench": read_sorry_bench,
    "ultrachat": read_ultrachat,
    "alpaca": read_alpaca,
}
"""Readers of sets whose rows do not all have one label, or not their prompt in one column."""

TWINS: Mapping[str, Twins] = {
    "xstest": xstest_twins,
    "jailbreakbench": jailbreakbench_twins,
    "sorry_bench": sorry_bench_twins,
}
"""For each row, what it shares with its twins; None where it has none."""


def _true_keys(category: object) -> str:
    if isinstance(category, Mapping):
        return " + ".join(sorted(str(key) for key, value in category.items() if value))
    return "" if category is None else str(category)


def _unknown(row: Row, column: str, value: object, known: str) -> UserError:
    columns = ", ".join(str(key) for key in row.values)[:100]
    return UserError(
        f"{row.place}: {column} is {shown(value)}, expected one of: {known} (columns found: "
        f"{columns}); check that this is the set it is said to be"
    )
