"""A look at prompts before they are used: counts, lengths, and what the splits share."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from actor_lens.errors import UserError
from actor_lens.files.bundled import BUNDLED_MODELS, bundled
from actor_lens.prompts.near_duplicates import similar_pairs
from actor_lens.prompts.rows import LABELS
from actor_lens.prompts.sets import PromptSet
from actor_lens.results import Result
from actor_lens.text import clip, one_line, plural

if TYPE_CHECKING:
    import pandas as pd

# Pairs of splits between which a near-duplicate makes a figure better than it is.
_LEAKS = (
    {"train", "test"},
    {"train", "ood"},
    {"validation", "test"},
    {"validation", "ood"},
    {"train", "validation"},
)
# Measured on SmolLM2-135M-Instruct made cautious, 100 training prompts a label.
_ONE_SOURCE = (
    "safety may not carry over to others. On a real model refusals held on validation prompts of "
    "that source (97 %) and fell to 66-75 % on those of others; with half of the training prompts "
    "from several others 92-97 % were left. Add harmful prompts of other sources, and hold whole "
    "sources out with --split-by source"
)


@dataclass(frozen=True, eq=False, repr=False)
class OverlapReport(Result):
    """Near-duplicate pairs whose two prompts lie in different splits.

    Attributes:
        prompts: The prompts looked at.
        pairs: Indices of the two prompts of each pair, and their similarity; the most similar pair
            first.
    """

    prompts: PromptSet
    pairs: tuple[tuple[int, int, float], ...]

    def __len__(self) -> int:
        """The number of pairs; an honest test needs 0."""
        return len(self.pairs)

    def frame(self) -> pd.DataFrame:
        """One row a pair, the most similar first.

        Columns split_a, split_b, prompt_a, prompt_b, similarity (1.0: equal up to case,
        punctuation and function words).
        """
        import pandas as pd

        rows = [
            (a.split, b.split, a.prompt, b.prompt, similarity)
            for a, b, similarity in (
                (self.prompts[i], self.prompts[j], value) for i, j, value in self.pairs
            )
        ]
        columns = ["split_a", "split_b", "prompt_a", "prompt_b", "similarity"]
        return pd.DataFrame(rows, columns=columns).astype({"similarity": float})

    def counts(self) -> dict[str, int]:
        """The number of pairs by their two splits ("test and train"), the most first."""
        names = Counter(
            " and ".join(sorted({str(self.prompts[i].split), str(self.prompts[j].split)}))
            for i, j, _ in self.pairs
        )
        return dict(names.most_common())

    @property
    def warnings(self) -> tuple[str, ...]:
        """One line for each pair of splits whose overlap flatters a rate, the worst first."""
        counts = self.counts()
        names = (" and ".join(sorted(leak)) for leak in _LEAKS)
        return tuple(
            f"{counts[name]} near-duplicate pairs between {name}: rates there look better than "
            "they are"
            for name in names
            if name in counts
        )

    def summary(self) -> dict[str, Any]:
        """Name and number of the prompts, and the pairs by their splits."""
        return {"name": self.prompts.name, "prompts": len(self.prompts), "pairs": self.counts()}

    def _headline(self) -> str:
        counts = ", ".join(f"{name}: {count}" for name, count in self.counts().items())
        pairs = plural(len(self), "near-duplicate pair")
        return f"{self.prompts.name}: {pairs} across splits{f' ({counts})' if counts else ''}"

    def _table(self) -> pd.DataFrame:
        import pandas as pd

        # Counts only: either prompt of a pair may be harmful.
        return pd.DataFrame(list(self.counts().items()), columns=["splits", "pairs"])


@dataclass(frozen=True, eq=False, repr=False)
class PromptCheck(Result):
    """What `check_prompts` counted.

    Attributes:
        prompts: The prompts looked at.
        lengths: Tokens of each prompt, in their order; None where they were not counted.
        overlaps: Near-duplicates across splits.
        seconds: Duration of the search for overlaps.
    """

    prompts: PromptSet
    lengths: tuple[int, ...] | None
    overlaps: OverlapReport
    seconds: float

    @property
    def warnings(self) -> tuple[str, ...]:
        """One line for each pair of splits that share near-duplicates, the worst first; sources."""
        training = [i for i, one in enumerate(self.prompts) if one.split in ("train", None)]
        return (*self.overlaps.warnings, *source_warnings(self.prompts.select(training)))

    def frame(self) -> pd.DataFrame:
        """One row for each label, split and category.

        Columns label, split, category (None where there is none), prompts, and median_tokens and
        most_tokens (NaN where tokens were not counted).
        """
        import pandas as pd

        table = self.prompts.frame()[["label", "split", "category"]]
        table["tokens"] = float("nan") if self.lengths is None else list(map(float, self.lengths))
        grouped = table.groupby(["label", "split", "category"], dropna=False, sort=True)["tokens"]
        counts = pd.DataFrame(
            grouped.agg(prompts="size", median_tokens="median", most_tokens="max")
        ).reset_index()
        columns = {name: counts[name].astype(object) for name in ("split", "category")}
        return counts.assign(
            **{n: column.where(column.notna(), None) for n, column in columns.items()}
        )

    def summary(self) -> dict[str, Any]:
        """Counts of the prompts, tokens of the longest, and what the splits share."""
        most = None if not self.lengths else max(self.lengths)
        overlaps = {"overlaps": self.overlaps.counts(), "warnings": list(self.warnings)}
        return self.prompts.summary() | {"most_tokens": most} | overlaps

    def _headline(self) -> str:
        longest = f"; longest: {plural(max(self.lengths), 'token')}" if self.lengths else ""
        pairs = plural(len(self.overlaps), "near-duplicate pair")
        return f"{self.prompts._headline()}{longest}; {pairs} across splits"

    def _next(self) -> str:
        return "; ".join((*self.warnings, super()._next()))

    def _table(self) -> pd.DataFrame:
        return self.frame().head(12)  # counts: no prompt is in it


def source_warnings(prompts: PromptSet) -> tuple[str, ...]:
    """One line for each label whose training prompts come from one source, where that matters.

    It does for harmful prompts, and for others where those of another label are mixed. Labels with
    a prompt of no known source are passed over.

    Args:
        prompts: Training prompts.
    """
    sources = {label: {one.source for one in prompts.where(label=label)} for label in LABELS}
    known = {label: found for label, found in sources.items() if found and None not in found}
    mixed = any(len(found) > 1 for found in known.values())
    lines = []
    for label in (label for label, found in known.items() if len(found) == 1):
        start = f"all {label.replace('_', '-')} training prompts come from one source"
        (name,) = known[label]
        if label == "harmful":
            lines.append(f"{start} ({clip(one_line(name), 40)}): {_ONE_SOURCE}")
        elif mixed:
            lines.append(
                f"{start} ({clip(one_line(name), 40)}), those of another label do not: training "
                "may follow the source, not harm; add prompts of other sources"
            )
    return tuple(lines)


def overlap_report(prompts: PromptSet) -> OverlapReport:
    """Near-duplicate pairs whose two prompts lie in different splits, the most similar first.

    An empty report is what an honest test needs. Paraphrases in other words are not found, and
    prompts without a split are left out.
    """
    indices = [index for index, prompt in enumerate(prompts) if prompt.split is not None]
    texts = [prompts[index].prompt for index in indices]
    splits = [prompts[index].split for index in indices]
    pairs = sorted(
        similar_pairs(texts, family=lambda i: splits.index(splits[i])),
        key=lambda pair: (-pair[2], texts[pair[0]], texts[pair[1]]),
    )
    return OverlapReport(prompts, tuple((indices[i], indices[j], value) for i, j, value in pairs))


def check_prompts(
    prompts: PromptSet, *, count_tokens: Callable[[Sequence[str]], Sequence[int]] | None = None
) -> PromptCheck:
    """Count prompts and their tokens, and search for near-duplicates across splits.

    Args:
        prompts: The prompts, with splits; those without are left out of the search.
        count_tokens: Gives the number of tokens of each text, for instance as a model sees it with
            its chat template; None leaves tokens uncounted.
    """
    lengths = None if count_tokens is None else tuple(map(int, count_tokens(prompts.texts)))
    start = time.perf_counter()
    overlaps = overlap_report(prompts)
    return PromptCheck(prompts, lengths, overlaps, time.perf_counter() - start)


def token_counter(model: str) -> Callable[[Sequence[str]], list[int]]:
    """A function that counts tokens of prompts, without chat template, by a model's tokenizer.

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
        return [len(ids) for ids in encoded["input_ids"]]

    return count
