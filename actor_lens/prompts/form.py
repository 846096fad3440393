"""The form of prompts: what can be seen of them without understanding a word.

Where the labels differ in form, a probe, a direction and a fine-tune may follow a question mark in
the place of harm. ``balance_form`` keeps prompts whose forms occur equally often under every label.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from actor_lens.errors import UserError
from actor_lens.prompts.rows import Split
from actor_lens.prompts.sets import PromptSet, shuffle_key

FormPart = Literal["length", "last mark", "first word", "characters"]
FORM_PARTS: tuple[FormPart, ...] = get_args(FormPart)

# A first word that fewer prompts begin with tells of these prompts, not of their form.
_COMMON = 3
_QUESTION_WORDS = frozenset("how what when where which who whom whose why".split())
_AUXILIARIES = frozenset(
    "am are can could did do does has have is may might must shall should was were will "
    "would".split()
)
_LENGTH_BINS = 4


def form_features(texts: Sequence[str]) -> dict[FormPart, Float[np.ndarray, "prompt feature"]]:
    """What each part of the form of prompts says, as numbers.

    Args:
        texts: The prompts. Which first words are common is taken from them.

    Returns:
        ``length``: logarithms of the numbers of characters and words, and characters a word.
        ``last mark`` and ``first word``: one column for each that occurs, of words the common ones.
        ``characters``: whether the first letter is a capital; numbers of capitals, digits, marks
        by kind, quotation marks and line breaks; the share of marks.
    """
    rows = [text.strip() for text in texts]
    lengths = [
        [np.log1p(len(row)), np.log1p(_words(row)), len(row) / max(1, _words(row))] for row in rows
    ]
    characters = [
        [
            row[:1].isupper(),
            sum(map(str.isupper, row)),
            sum(map(str.isdigit, row)),
            *(row.count(mark) for mark in ",.?!:;()-\n"),
            sum(map(row.count, "'\"\u2018\u2019\u201c\u201d")),
            sum(not (one.isalnum() or one.isspace()) for one in row) / max(1, len(row)),
        ]
        for row in rows
    ]
    return {
        "length": np.array(lengths, dtype=float),
        "last mark": _one_hot([_last_mark(row) for row in rows], 1),
        "first word": _one_hot([_first_word(row) for row in rows], _COMMON),
        "characters": np.array(characters, dtype=float),
    }


def balance_form(
    prompts: PromptSet, *, splits: Sequence[Split] = ("train", "validation"), seed: int = 0
) -> PromptSet:
    """Prompts of which every form occurs equally often under each label.

    Within a split, prompts are matched by their last mark, the quarter of the split's lengths that
    theirs lies in, and what their first word is (a question word, an auxiliary verb, another). Of
    each such form as many prompts are kept of every label as the label with the fewest has; which
    ones depends on the seed and the texts alone. Other splits stay as they are: a rate is about the
    prompts as they come.

    Args:
        prompts: The prompts, with splits.
        splits: Splits to balance.
        seed: Seed of the choice.

    Raises:
        UserError: If fewer than two prompts of each label would be left in a split.
    """
    kept = {index for index, prompt in enumerate(prompts) if prompt.split not in splits}
    for split in splits:
        rows = [index for index, prompt in enumerate(prompts) if prompt.split == split]
        chosen = _match(prompts, rows, seed)
        if rows and len(chosen) < 2 * len({prompts[row].label for row in rows}):
            raise UserError(
                f"{prompts.name}: no two {split} prompts of each label share a form (last mark, "
                "length, kind of first word); give prompts of one form, such as twins"
            )
        kept.update(chosen)
    return replace(
        prompts, prompts=tuple(one for index, one in enumerate(prompts) if index in kept)
    )


def _match(prompts: PromptSet, rows: Sequence[int], seed: int) -> list[int]:
    lengths = [_words(prompts[row].prompt) for row in rows]
    if not rows:
        return []
    edges = np.quantile(lengths, np.linspace(0, 1, _LENGTH_BINS + 1)[1:-1])
    labels = {prompts[row].label for row in rows}
    forms: dict[tuple[str, int, str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row, length in zip(rows, lengths, strict=True):
        text = prompts[row].prompt.strip()
        form = (_last_mark(text), int(np.searchsorted(edges, length)), _kind(_first_word(text)))
        forms[form][prompts[row].label].append(row)
    chosen = []
    for by_label in forms.values():
        fewest = min(len(by_label[label]) for label in labels)
        for members in by_label.values():
            members.sort(key=lambda row: shuffle_key(seed, prompts[row].prompt))
            chosen += members[:fewest]
    return chosen


def _words(text: str) -> int:
    return len(text.split())


def _last_mark(text: str) -> str:
    """The last character where it is a mark; the name of no mark is empty."""
    return "" if not text or text[-1].isalnum() else text[-1]


def _first_word(text: str) -> str:
    found = re.search(r"[^\W_]+(?:['\u2019][^\W_]+)?", text)
    return found.group().lower() if found else ""


def _kind(word: str) -> str:
    if word in _QUESTION_WORDS:
        return "question word"
    return "auxiliary" if word in _AUXILIARIES else "another"


def _one_hot(values: Sequence[str], least: int) -> Float[np.ndarray, "prompt feature"]:
    """A column for each value that occurs at least so often."""
    common = sorted(value for value, count in Counter(values).items() if count >= least)
    return np.array([[value == one for one in common] for value in values], dtype=float).reshape(
        len(values), len(common)
    )
