"""How text and numbers are written: one rule for what comes from outside, one for each number.

Prompts, replies and names may hold markup, control characters, and marks that turn the reading
direction of what follows. ``clean`` takes out what nobody sees; every page, figure, table and
message builds on it.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Sequence

# Controls but for tab and line ends, and what Unicode calls "default ignorable": marks and
# overrides of the reading direction, spaces and letters without width, soft hyphens, tags.
# Joiners and variation selectors are such too, but emoji and several scripts need them.
_UNSEEN = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e"
    "\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e00ff\U000e01f0-\U000e0fff]"
)
_SELECTORS, _JOINERS = "\u180b-\u180d\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef", "\u200c\u200d"
# After a character that is seen, one selector and one joiner have a meaning; more can only hide.
_MODIFIERS = re.compile(
    f"(?=[{_SELECTORS}{_JOINERS}])([{_SELECTORS}]?[{_JOINERS}]?)[{_SELECTORS}{_JOINERS}]*"
)
_LINE_ENDS = re.compile("[\x0b\x0c\x1c-\x1f\x85\u2028\u2029]")
NOT_MEASURED = "\u2013"


def clean(text: object) -> str:
    """Text without what nobody sees; unusual line ends become plain ones.

    Joiners and variation selectors, of which emoji are made, stay, one at a time. Halves of
    surrogate pairs, which no file can hold, become question marks.
    """
    seen = _UNSEEN.sub("", _LINE_ENDS.sub("\n", str(text)))
    return _MODIFIERS.sub(r"\1", seen).encode("utf-8", "replace").decode("utf-8")


def escape(text: object) -> str:
    """Clean text as HTML that shows it and does nothing else."""
    return html.escape(clean(text))


def one_line(text: object, most: int = 300) -> str:
    """Clean text without line breaks, cut off after ``most`` characters.

    Args:
        text: Any value; of an error, its message.
        most: Greatest length.
    """
    return " ".join(clean(text).split())[:most]


def clip(text: object, length: int) -> str:
    """The beginning of a long text, ending in an ellipsis where something was left out."""
    whole = str(text)
    # A joiner left at the end would change the emoji before it.
    return whole if len(whole) <= length else whole[: length - 1].rstrip(" \u200d\ufe0f") + "…"


def large(number: int) -> str:
    """A large number in words: "3.4 million"."""
    for size, name in ((10**9, "billion"), (10**6, "million")):
        if number >= size:
            return f"{number / size:.3g} {name}"
    return f"{number:,}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share as "12.3 %", or a dash where it is None or NaN."""
    if share is None or math.isnan(share):
        return NOT_MEASURED
    return f"{100 * share:.{digits}f} %"


def plural(count: int, one: str, many: str | None = None) -> str:
    """A count with its noun: "1 prompt", "1,200 prompts"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """First and last of each run of numbers that follow one another; in order."""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        follows = bool(found) and number == found[-1][1] + 1
        first = found.pop()[0] if follows else number
        found.append((first, number))
    return found


def spell(names: Sequence[object]) -> str:
    """Names in a sentence: "2", "2 and 3", "2, 3 and 4"."""
    *first, last = map(str, names)
    return f"{', '.join(first)} and {last}" if first else last
