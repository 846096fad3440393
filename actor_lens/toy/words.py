"""The words of the toy language, read from ``words.yaml``, and how its sentences are joined.

Harmful prompts are requests only. Nothing in this package answers one.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_WORDS: dict[str, Any] = yaml.safe_load(
    Path(__file__).with_name("words.yaml").read_text(encoding="utf-8")
)


@dataclass(frozen=True)
class Verb:
    """A verb phrase in the three forms that the templates need."""

    base: str
    gerund: str
    past: str


@dataclass(frozen=True)
class Trigger:
    """A verb that sounds dangerous, and the groups of ``TARGETS`` that it harms."""

    verb: Verb
    targets: tuple[str, ...]


@dataclass(frozen=True)
class Sense:
    """A harmless sense of a trigger word.

    Attributes:
        trigger: Base form of the trigger word.
        kind: The kind of pseudo-harmful prompt, one of ``KINDS``.
        how: The answer, an imperative that mentions ``{the}``, without capital or full stop.
        objects: What the verb is applied to.
    """

    trigger: str
    kind: str
    how: str
    objects: tuple[str, ...]


@dataclass(frozen=True)
class Action:
    """An ordinary verb, the kind of thing it is applied to, the answer, and the things."""

    verb: Verb
    kind: str
    how: str
    objects: tuple[str, ...]


@dataclass(frozen=True)
class Frame:
    """A wording of a request and the opening of its answer.

    Attributes:
        text: The request, with ``{base}``, ``{gerund}`` or ``{past}`` for the verb, ``{object}``,
            and perhaps ``{context}``.
        opening: What the answer begins with; empty where it goes straight to the point.
    """

    text: str
    opening: str = ""


def _texts(name: str) -> tuple[str, ...]:
    return tuple(_WORDS[name])


def _groups(name: str) -> dict[str, tuple[str, ...]]:
    return {group: tuple(items) for group, items in _WORDS[name].items()}


def _rows(name: str) -> tuple[tuple[str, ...], ...]:
    return tuple(map(tuple, _WORDS[name]))


def _frames(name: str) -> tuple[Frame, ...]:
    return tuple(Frame(*row) for row in _WORDS[name])


TRIGGERS = {
    row["forms"][0]: Trigger(Verb(*row["forms"]), tuple(row["targets"]))
    for row in _WORDS["triggers"]
}
TARGETS = _groups("targets")
HARM_REASONS: dict[str, str] = _WORDS["harm_reasons"]
REFUSALS, REFUSAL_OPENINGS = _texts("refusals"), _texts("refusal_openings")
HELD_OUT_TRIGGERS = frozenset(_WORDS["held_out_triggers"])
HELD_OUT_ACTIONS = frozenset(_WORDS["held_out_actions"])
HELD_OUT_KINDS = frozenset(_WORDS["held_out_kinds"])
KINDS: dict[str, str] = _WORDS["kinds"]
OVER_CAUTIOUS_KINDS = frozenset(_WORDS["over_cautious_kinds"])
SENSES = tuple(
    Sense(trigger, row["kind"], how, tuple(row["things"]))
    for row in _WORDS["senses"]
    for trigger, how in row["how"]
)
# Trigger word, phrase with it and meaning; trigger word, what it was done to and who did it.
SAYINGS, EVENTS = _rows("sayings"), _rows("events")
_OBJECTS = {**TARGETS, **_groups("things")}
ACTIONS = tuple(
    Action(
        Verb(*row["forms"]),
        row["kind"],
        row["how"],
        tuple(dict.fromkeys(thing for group in row["groups"] for thing in _OBJECTS[group])),
    )
    for row in _WORDS["actions"]
)
# What is asked about, and the answer.
WORD_MEANINGS, PAST_FACTS = _rows("word_meanings"), _rows("past_facts")
ERRANDS = _texts("errands")
REQUEST_FRAMES, MEANING_FRAMES = _frames("request_frames"), _frames("meaning_frames")
PAST_FRAMES, WRONG_FRAMES = _frames("past_frames"), _frames("wrong_frames")
WRONG_TO_ASK_FRAMES = _frames("wrong_to_ask_frames")
CONTEXTS, LEADS = _texts("contexts"), _texts("leads")
WRONG_AFTERTHOUGHTS = _texts("wrong_afterthoughts")
SOUND_AFTERTHOUGHTS = _texts("sound_afterthoughts")
SOUNDS_WRONG = "Yes, it sounds bad, and it is."
SOUNDS_WORSE = "Yes, it sounds bad, but it is not."
SOUNDS_FINE = "No, it sounds fine."
YES_WRONG = "Yes, that would be wrong."
NOT_WRONG = "No, that is fine."
# The other wordings of a refusal speak of harm, and an errand does none.
_NEUTRAL_REFUSALS = tuple(
    wording for wording in REFUSALS if "harm" not in wording and "do this" not in wording
)


def declined_errand(rng: random.Random) -> tuple[str, str]:
    """Word a request that no program can fulfil, and the reply that declines it.

    From these the model learns how declining sounds, with no thought of harm.
    """
    errand = rng.choice(_texts("errand_frames")).format(errand=rng.choice(ERRANDS))
    return errand, rng.choice(_NEUTRAL_REFUSALS) + rng.choice(_texts("errand_explanations"))


def definite(thing: str) -> str:
    """Name again what a request named: "a bank" becomes "the bank", "my" becomes "your"."""
    return re.sub(r"\bmy\b", "your", re.sub(r"^an? ", "the ", thing))


def sentence(text: str) -> str:
    """Start with a capital and end with a full stop."""
    return text[0].upper() + text[1:] + "."


def answer(opening: str, body: str) -> str:
    """Join an opening and the body of an answer into one or two sentences."""
    if not opening:
        return sentence(body)
    if opening.endswith("."):
        return f"{opening} {sentence(body)}"
    return f"{opening} {body}."
