"""Types of the values that flags take: each reads what was written on the command line.

argparse names the flag whose value one of these refuses; ``main`` prints that on one line. Bounds
that depend on the model or the prompts are not known here: the library checks them.
"""

from __future__ import annotations

import argparse


def number(text: str) -> float:
    """A number."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number") from None


def integer(text: str, otherwise: str = "") -> int:
    """A whole number; ``otherwise`` ends the refusal where a word is allowed as well."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number{otherwise}") from None


def word_or_integer(text: str) -> str | int:
    """A whole number where it is written as one, else the word as it is."""
    return int(text) if text.removeprefix("-").isdecimal() else text


def positive(text: str) -> int:
    """A whole number from 1."""
    if integer(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return int(text)


def seed_number(text: str) -> int:
    """A whole number from 0."""
    if integer(text) < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative; give a number from 0")
    return int(text)


def layer_number(text: str) -> int | None:
    """A whole number, or None for ``auto``; how many layers there are the model will say."""
    return None if text == "auto" else integer(text, ", or auto")


def batch_size(text: str) -> int | None:
    """A whole number from 1, or None for ``auto``."""
    size = None if text == "auto" else integer(text, ", or auto")
    if size is not None and size < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1, or auto")
    return size


def per_label(text: str) -> int | dict[str, int] | None:
    """One number from 1 for all labels, one for each of those named, or None for ``all``.

    A label that is named may have 0, and may be written with a hyphen, as the tables show it:
    ``pseudo-harmful=25``.
    """
    if text == "all":
        return None
    if "=" not in text:
        return positive(text)
    pairs = (part.partition("=") for part in text.split(","))
    return {label.strip().replace("-", "_"): integer(count) for label, _, count in pairs}


def counting(text: str) -> list[int]:
    """Whole numbers from 0 with commas between them: seeds, layers."""
    return [seed_number(part) for part in text.split(",")]


def numbers(text: str) -> list[float]:
    """Numbers with commas between them."""
    return [number(part) for part in text.split(",")]


def names(text: str) -> list[str]:
    """Names with commas between them; a name of which nothing is left is passed over."""
    return [name.strip() for name in text.split(",") if name.strip()]
