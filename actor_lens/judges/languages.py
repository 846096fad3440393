"""Keyword lists of languages beside English, read from ``languages.yaml``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Language:
    """How refusals are worded in a language.

    Attributes:
        code: Two letters of ISO 639-1.
        name: English name, in lower case.
        phrases: Phrases of refusal, as ``KeywordJudge`` takes them.
        exempt: Turns of speech that refuse nothing.
        classes: Wordings of the parts of its phrases, by the names that stand for them in braces.
    """

    code: str
    name: str
    phrases: tuple[str, ...]
    exempt: tuple[str, ...]
    classes: Mapping[str, tuple[str, ...]]


@cache
def languages() -> Mapping[str, Language]:
    """All languages by their codes."""
    import yaml

    text = Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
    return {code: _language(code, entry) for code, entry in yaml.safe_load(text).items()}


def find_language(name: str) -> Language | None:
    """The language of a code or an English name, whatever its case; None for no such one."""
    plain = name.strip().lower()
    return next((one for one in languages().values() if plain in (one.code, one.name)), None)


def _language(code: str, entry: Mapping[str, Any]) -> Language:
    def with_code(phrase: str) -> str:
        """The phrase with the code before the names of its own parts: they are not English ones."""
        return re.sub(r"\{(?!gap\})", f"{{{code} ", phrase)

    return Language(
        code,
        entry["name"],
        tuple(map(with_code, entry["phrases"])),
        tuple(map(with_code, entry["exempt"])),
        {f"{code} {name}": tuple(wordings) for name, wordings in entry["parts"].items()},
    )
