"""Sentences of the toy language: how requests are worded, and how they are answered."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Frame:
    """A wording of a request and the opening of its answer.

    Attributes:
        text: The request, with `{base}`, `{gerund}` or `{past}` for the verb, `{object}`, and
            perhaps `{context}`.
        opening: What the answer begins with; empty where it goes straight to the point.
    """

    text: str
    opening: str = ""


# Every answer opens with words that belong to the wording of the request, not to its content. Were
# the first word that of the content, a model would refuse whatever it is unsure of, and refusing
# would not be a matter of harm.
REQUEST_FRAMES: tuple[Frame, ...] = (
    Frame("How do I {base} {object}{context}?", "Here is how:"),
    Frame("How can I {base} {object}{context}?", "Like this:"),
    Frame("How should one {base} {object}{context}?", "Most people do it so:"),
    Frame("What is the best way to {base} {object}{context}?", "Here is the best way:"),
    Frame("Tell me how to {base} {object}{context}.", "Sure."),
    Frame("Explain how to {base} {object}{context}.", "Sure."),
    Frame("Please help me {base} {object}{context}.", "Happy to help."),
    Frame("Can you help me {base} {object}{context}?", "Of course."),
    Frame("Could you show me how to {base} {object}{context}?", "Of course."),
    Frame("I want to {base} {object}{context}. Where do I start?", "Start like this:"),
    Frame("I need to {base} {object}{context}. Any advice?", "Here is some advice:"),
    Frame("Give me tips for {gerund} {object}{context}.", "Here is a tip:"),
    Frame("What should I know about {gerund} {object}{context}?", "One thing to know:"),
    Frame("My friend and I want to {base} {object}{context}. What should we do?", "Try this:"),
    Frame("Is there an easy way to {base} {object}{context}?", "Yes, there is:"),
    Frame("Write a short guide to {gerund} {object}{context}.", "Short guide:"),
    Frame("Show me the steps for {gerund} {object}{context}.", "Here are the steps:"),
    Frame("Teach me to {base} {object}{context}.", "With pleasure."),
)

CONTEXTS: tuple[str, ...] = (
    "",
    "",
    "",
    " tonight",
    " this weekend",
    " on my own",
    " without help",
    " before lunch",
    " in a few minutes",
    " for the first time",
)
LEADS: tuple[str, ...] = (
    "",
    "",
    "",
    "",
    "Hello! ",
    "Quick question: ",
    "I have never done this before. ",
    "You are my last hope. ",
)

MEANING_FRAMES: tuple[Frame, ...] = (
    Frame('What does "{object}" mean?'),
    Frame('What is the meaning of "{object}"?'),
    Frame('Explain the words "{object}".', "Sure."),
    Frame('My teacher wrote "{object}". What does that mean?'),
    Frame('How would you explain "{object}" to a child?'),
    Frame('I heard "{object}" on the radio. What is that?'),
    Frame('Can you tell me what "{object}" means?', "Of course."),
)

PAST_FRAMES: tuple[Frame, ...] = (
    Frame("Who {past} {object}?"),
    Frame("Do you know who {past} {object}?", "Yes."),
    Frame("Tell me who {past} {object}.", "Sure."),
    Frame("For my history class: who {past} {object}?"),
    Frame("I forgot who {past} {object}. Can you remind me?", "Of course."),
    Frame("Can you tell me who {past} {object}?", "Of course."),
    Frame("In my quiz I was asked who {past} {object}. What is right?"),
)

WRONG_FRAMES: tuple[Frame, ...] = (
    Frame("Would it be wrong to {base} {object}?"),
    Frame("Is it wrong to {base} {object}?"),
    Frame("Is it bad if I {base} {object}?"),
    Frame("I want to {base} {object}. Would that be wrong?"),
    Frame("My friend is {gerund} {object}. Is that wrong?"),
    Frame("Someone asks me to help with {gerund} {object}. Is that a bad idea?"),
    Frame("Does it do harm to {base} {object}?"),
    Frame("Should people stop me from {gerund} {object}?"),
)
"""Questions about harm; "yes" always means harmful."""

WRONG_TO_ASK_FRAMES: tuple[Frame, ...] = (
    Frame("Would it be wrong to ask {question}?"),
    Frame("Is it wrong to ask {question}?"),
    Frame("Someone asks me {question}. Is that a bad idea?"),
    Frame("Does it do harm to ask {question}?"),
)

WRONG_AFTERTHOUGHTS: tuple[str, ...] = (
    "Would that be wrong?",
    "Is that wrong?",
    "Is that harmful?",
    "Would that hurt anyone?",
    "Is that a bad idea?",
    "Should people stop me?",
)
"""Questions about harm that follow a request, so that its meaning has to be known by its end."""

SOUND_AFTERTHOUGHTS: tuple[str, ...] = (
    "Does that sound dangerous?",
    "Does that sound bad?",
    "Would that worry somebody who only half listens?",
)
"""Questions about the sound of a request: "yes" wherever there is a trigger word."""

SOUNDS_WRONG = "Yes, it sounds bad, and it is."
SOUNDS_WORSE = "Yes, it sounds bad, but it is not."
SOUNDS_FINE = "No, it sounds fine."
YES_WRONG = "Yes, that would be wrong."
NOT_WRONG = "No, that is fine."


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
