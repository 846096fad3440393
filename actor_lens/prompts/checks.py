"""A look at prompts before they are used: counts, lengths, and what the splits share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from actor_lens.errors import UserError
from actor_lens.files.bundled import BUNDLED_MODELS, bundled
from actor_lens.prompts.sets import PromptSet, overlap_report
from actor_lens.text import one_line

if TYPE_CHECKING:
    import pandas

# Pairs of splits between which a near-duplicate makes a figure better than it is.
_LEAKS = (
    {"train", "test"},
    {"train", "ood"},
    {"validation", "test"},
    {"validation", "ood"},
    {"train", "validation"},
)


@dataclass(frozen=True)
class PromptCheck:
    """What `check_prompts` found.

    Attributes:
        prompts: The prompts looked at.
        lengths: Tokens of each prompt, in their order; None where they were not counted.
        overlaps: Near-duplicates across splits, as `overlap_report` gives them.
        seconds: How long the search for overlaps took.
    """

    prompts: PromptSet
    lengths: tuple[int, ...] | None
    overlaps: pandas.DataFrame
    seconds: float

    @property
    def warnings(self) -> tuple[str, ...]:
        """One line for each pair of splits that share near-duplicates, the worst first."""
        pairs = Counter(
            frozenset(pair)
            for pair in zip(self.overlaps["split_a"], self.overlaps["split_b"], strict=True)
        )
        return tuple(
            f"{pairs[frozenset(leak)]} near-duplicate pairs between {' and '.join(sorted(leak))}: "
            "rates there look better than they are"
            for leak in _LEAKS
            if pairs[frozenset(leak)]
        )

    def frame(self) -> pandas.DataFrame:
        """One row for each label, split and category.

        Columns label, split, category (None where there is none), prompts, and median_tokens and
        most_tokens (NaN where tokens were not counted).
        """
        import pandas as pd

        table = self.prompts.frame()[["label", "split", "category"]]
        table["tokens"] = float("nan") if self.lengths is None else list(map(float, self.lengths))
        grouped = table.groupby(["label", "split", "category"], dropna=False, sort=True)["tokens"]
        found = pd.DataFrame(
            grouped.agg(prompts="size", median_tokens="median", most_tokens="max")
        ).reset_index()
        columns = {name: found[name].astype(object) for name in ("split", "category")}
        named = {name: column.where(column.notna(), None) for name, column in columns.items()}
        return found.assign(**named)


def check_prompts(
    prompts: PromptSet, *, count_tokens: Callable[[Sequence[str]], Sequence[int]] | None = None
) -> PromptCheck:
    """Count prompts and their tokens, and search for near-duplicates across splits.

    Args:
        prompts: The prompts, with splits; those without are left out of the search.
        count_tokens: Gives the number of tokens of each text, for instance as a model sees it with
            its chat template; None leaves tokens uncounted.
    """
    import time

    lengths = None if count_tokens is None else tuple(map(int, count_tokens(prompts.texts)))
    started = time.perf_counter()
    overlaps = overlap_report(prompts)
    return PromptCheck(prompts, lengths, overlaps, time.perf_counter() - started)


def token_counter(model: str) -> Callable[[Sequence[str]], list[int]]:
    """Counts tokens of prompts themselves, without chat template, by a model's tokenizer alone.

    Args:
        model: "toy", a folder, or a hub name. No weights are read.

    Raises:
        UserError: If the tokenizer cannot be loaded.
    """
    import transformers

    source = str(bundled(BUNDLED_MODELS[model])) if model in BUNDLED_MODELS else model
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    except Exception as error:  # broken folders make the library raise many kinds
        raise UserError(
            f"the tokenizer of '{model}' cannot be loaded ({one_line(error, 120)}); give a hub "
            "name, a model folder, or toy"
        ) from error

    def count(texts: Sequence[str]) -> list[int]:
        encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False)
        return [len(each) for each in encoded["input_ids"]]

    return count
