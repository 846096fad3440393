"""Sets of labelled prompts, in the order in which every later stage keeps them.

Directions are fitted on `train`, the layer is chosen on `validation`, rates come from `test`;
`ood` marks prompts of kinds that occur in none of the three.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, overload

from actor_lens.errors import UserError
from actor_lens.files.paths import user_path
from actor_lens.files.saving import replacing
from actor_lens.prompts.rows import LABELS, SPLITS, Label, Prompt, Split, check_known
from actor_lens.results import Result, harmless_head, html_table
from actor_lens.text import escape, plural

if TYPE_CHECKING:
    import pandas as pd

_MAKE_PROMPTS = "give Prompt(text, label) for each, or read a file with load_prompts"
_EXAMPLES = 3
_IDENTITY = ("prompt", "label", "split", "category", "reply")


@dataclass(frozen=True, repr=False)
class PromptSet(Result):
    """Prompts in a fixed order; every result of a later stage keeps this order.

    Two sets are equal when they hold the same prompts in the same order, whatever their names.

    Attributes:
        prompts: The prompts; any sequence of them becomes a tuple.
        name: Where they are from.

    Raises:
        UserError: If something in it is no `Prompt`.
    """

    prompts: tuple[Prompt, ...]
    name: str = field(default="prompts", compare=False)

    _hint = "one split: prompts['test']; check them: al.prompts.check_prompts"

    def __post_init__(self) -> None:
        """Check the prompts, so that no later stage has to."""
        if isinstance(self.prompts, str) or not isinstance(self.prompts, Iterable):
            raise UserError(f"prompts are a {type(self.prompts).__name__}; {_MAKE_PROMPTS}")
        object.__setattr__(self, "prompts", tuple(self.prompts))
        for index, prompt in enumerate(self.prompts):
            if not isinstance(prompt, Prompt):
                kind = type(prompt).__name__
                raise UserError(f"prompt {index} is a {kind}, no Prompt; {_MAKE_PROMPTS}")

    def __len__(self) -> int:
        """The number of prompts."""
        return len(self.prompts)

    def __iter__(self) -> Iterator[Prompt]:
        """Each prompt in order."""
        return iter(self.prompts)

    def __contains__(self, item: object) -> bool:
        """Whether a prompt, or a prompt with this text, is among them."""
        return item in (self.texts if isinstance(item, str) else self.prompts)

    @overload
    def __getitem__(self, index: int) -> Prompt: ...
    @overload
    def __getitem__(self, index: slice | Split) -> PromptSet: ...
    def __getitem__(self, index: int | slice | str) -> Prompt | PromptSet:
        """One prompt by its place, or a set: a slice, or the prompts of a split by its name.

        Raises:
            UserError: If there is no split of that name, or the prompts are not split at all.
        """
        if isinstance(index, str):
            check_known("split", index, SPLITS)
            self._check_split()
            return self._keep(lambda prompt: prompt.split == index)
        if isinstance(index, slice):
            return replace(self, prompts=self.prompts[index])
        return self.prompts[index]

    @property
    def texts(self) -> tuple[str, ...]:
        """The text of each prompt."""
        return tuple(prompt.prompt for prompt in self.prompts)

    @property
    def labels(self) -> tuple[Label, ...]:
        """The label of each prompt."""
        return tuple(prompt.label for prompt in self.prompts)

    @property
    def twins(self) -> tuple[str | None, ...]:
        """What each prompt shares with its twins; None where it has none."""
        return tuple(prompt.twin for prompt in self.prompts)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the fields of every prompt in order (64 hex digits).

        The name is left out, and so are sources and twins, so that saying where prompts are from
        makes no other prompts of them: a model never sees it. Two sets with one fingerprint give
        the same results, but for the weights that a safety floor keeps: it looks at sources.
        """
        rows = [[getattr(p, name) for name in _IDENTITY] for p in self.prompts]
        return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()

    def select(self, indices: Iterable[int]) -> PromptSet:
        """The prompts at these indices, in the order of the indices."""
        return replace(self, prompts=tuple(self.prompts[int(index)] for index in indices))

    def where(
        self,
        label: Label | None = None,
        split: Split | None = None,
        category: str | None = None,
        source: str | None = None,
    ) -> PromptSet:
        """The prompts with this label, split, category and source; None takes all.

        Raises:
            UserError: If the label or split is not one there is; an unknown category or source
                matches none.
        """
        if label is not None:
            check_known("label", label, LABELS)
        if split is not None:
            check_known("split", split, SPLITS)
        return self._keep(
            lambda prompt: (
                label in (None, prompt.label)
                and split in (None, prompt.split)
                and category in (None, prompt.category)
                and source in (None, prompt.source)
            )
        )

    def _check_split(self) -> None:
        """Refuse prompts of which none has a split, before a stage finds too few of them."""
        if self.prompts and not any(prompt.split for prompt in self.prompts):
            raise UserError(
                f"{self.name}: the {plural(len(self), 'prompt')} have no splits; split them with "
                "al.prompts.split_prompts(prompts), or load them with load_prompts"
            )

    def _keep(self, condition: Callable[[Prompt], bool]) -> PromptSet:
        return replace(self, prompts=tuple(filter(condition, self.prompts)))

    def by_split(self) -> tuple[PromptSet, PromptSet, PromptSet]:
        """The prompts for training, for validation and for the test; any of them may be empty.

        Raises:
            UserError: If the prompts are not split at all.
        """
        return self["train"], self["validation"], self["test"]

    def for_testing(self) -> PromptSet:
        """The prompts of the splits `test` and `ood`, in their order here.

        Raises:
            UserError: If there are none, or the prompts are not split at all.
        """
        self._check_split()
        tested = self._keep(lambda prompt: prompt.split in ("test", "ood"))
        if not tested.prompts:
            raise UserError(f"{self.name}: no prompts in the test split; add some")
        return tested

    def for_experiment(
        self,
        per_label: int | Mapping[str, int] | None = None,
        test_per_label: int | Mapping[str, int] | None = None,
        seed: int = 0,
    ) -> tuple[PromptSet, PromptSet, PromptSet]:
        """Training, validation and test prompts, none of them empty; `ood` follows the test.

        Args:
            per_label: Most training prompts of each label, as `sample` takes them; None for all.
            test_per_label: Most prompts of each label of `test`, and of `ood`; None for all.
            seed: Seed of both samples.

        Raises:
            UserError: If one of the three splits has no prompts, or as `sample`.
        """
        train, validation, test = self.by_split()
        for split, part in (("train", train), ("validation", validation), ("test", test)):
            if not part.prompts:
                raise UserError(
                    f"{self.name}: no prompts of the split '{split}'; an experiment needs train, "
                    "validation and test prompts"
                )
        tested = [part.sample(test_per_label, seed) for part in (test, self["ood"])]
        joined = replace(self, prompts=tuple(prompt for part in tested for prompt in part))
        return train.sample(per_label, seed), validation, joined

    def sample(self, per_label: int | Mapping[str, int] | None, seed: int = 0) -> PromptSet:
        """At most so many prompts per label, spread evenly over categories, in their order here.

        With one seed a smaller sample is part of every larger one, so that results for 25 and for
        60 prompts differ by the added 35 alone.

        Args:
            per_label: One number for all labels, or one for each; a label that is not named keeps
                all its prompts, and None keeps all of every label.
            seed: Chooses which prompts; the order of the set plays no part in it.

        Raises:
            UserError: If a number is negative or a label unknown.
        """
        return self.select(sample_indices(self, per_label, seed))

    def counts(self) -> dict[str, int]:
        """The number of prompts per label, zero included."""
        labels = self.labels
        return {label: labels.count(label) for label in LABELS}

    def frame(self) -> pd.DataFrame:
        """One row per prompt, one column per field of `Prompt` (None for none)."""
        import pandas as pd

        columns = [f.name for f in fields(Prompt)]
        rows = [[getattr(prompt, name) for name in columns] for prompt in self.prompts]
        return pd.DataFrame(rows, columns=columns, dtype=object)

    def summary(self) -> dict[str, Any]:
        """Name, number, counts by label and by split, and fingerprint."""
        return {
            "name": self.name,
            "prompts": len(self),
            "labels": self.counts(),
            "splits": self._split_counts(),
            "fingerprint": self.fingerprint,
        }

    def _split_counts(self) -> dict[str, int]:
        """The number of prompts of each split that has some; "none" for those without a split."""
        splits = Counter(prompt.split for prompt in self.prompts)
        return {split or "none": splits[split] for split in (*SPLITS, None) if splits[split]}

    def _headline(self) -> str:
        labels = ", ".join(f"{count:,} {label}" for label, count in self.counts().items() if count)
        splits = ", ".join(f"{split} {count:,}" for split, count in self._split_counts().items())
        sizes = f" ({labels.replace('_', '-')}; {splits})" if self.prompts else ""
        return f"{self.name}: {plural(len(self), 'prompt')}{sizes}"

    def _count_table(self) -> pd.DataFrame:
        """One row a split, one column a label."""
        import pandas as pd

        frame = self.frame().fillna({"split": "none"})
        counts = pd.crosstab(frame["split"], frame["label"])
        splits = list(self._split_counts())
        return counts.reindex(index=splits, columns=list(LABELS), fill_value=0).reset_index()

    def _table(self) -> pd.DataFrame:
        return harmless_head(self.frame().drop(columns="reply"), _EXAMPLES)

    def _repr_html_(self) -> str:
        return (
            f"<p><b>{escape(self._headline())}</b></p>{html_table(self._count_table())}"
            f"<p>Examples:</p>{html_table(self._table())}<p>{escape(self._next())}</p>"
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a .jsonl file that `load_prompts` reads back; an old file is replaced whole.

        Raises:
            UserError: If the name does not end in .jsonl, there are no prompts, or the file cannot
                be written; an old file then stays as it was.
        """
        path = user_path(path)
        if path.suffix.lower() != ".jsonl":
            raise UserError(f"{path}: prompts are saved as JSON lines; end the name in .jsonl")
        if not self.prompts:
            raise UserError(f"{path}: there are no prompts to save")
        rows = (
            {key: value for key, value in asdict(prompt).items() if value is not None}
            for prompt in self.prompts
        )
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        with replacing(path) as temporary:
            temporary.write_bytes(text.encode())


def sample_indices(
    prompts: PromptSet, per_label: int | Mapping[str, int] | None, seed: int = 0
) -> list[int]:
    """Which prompts `PromptSet.sample` takes, in their order there.

    Raises:
        UserError: If a number is negative or a label unknown.
    """
    if per_label is None:
        return list(range(len(prompts)))
    limits = per_label if isinstance(per_label, Mapping) else dict.fromkeys(LABELS, per_label)
    for label, limit in limits.items():
        check_known("label", label, LABELS)
        if limit < 0:
            raise UserError(f"per_label={limit} for {label}: give a number from 0")
    chosen: list[int] = []
    for label in LABELS:
        chosen += _spread_over_categories(prompts, label, seed)[: limits.get(label)]
    return sorted(chosen)


def shuffle_key(seed: int, text: str) -> str:
    """A sort key that depends on the seed and the text alone, never on the order of a file."""
    return hashlib.sha256(f"{seed}\0{text}".encode()).hexdigest()


def require_labels(
    prompts: PromptSet,
    minimum: int,
    labels: Sequence[Label] = LABELS,
    split: Split | None = None,
) -> None:
    """Make sure that a stage has enough prompts of each label.

    Raises:
        UserError: If a label has fewer than `minimum` prompts.
    """
    place = f" in the {split} split" if split else ""
    counts = prompts.counts()
    for label in labels:
        check_known("label", label, LABELS)
        if counts[label] < minimum:
            raise UserError(
                f"{prompts.name}: {counts[label]} {label} prompts{place}, at least {minimum} "
                "needed; add prompts of that label"
            )


def check_anchors(anchors: PromptSet | None, tested: PromptSet | None = None) -> None:
    """Make sure that a direction can be made of anchors, and is not made of what is tested.

    Args:
        anchors: Prompts that R is made of; None passes.
        tested: Test prompts, none of which may be among them.

    Raises:
        UserError: If harmful or benign anchors are missing, or some are test prompts.
    """
    if anchors is None:
        return
    named = replace(anchors, name=f"anchors {anchors.name}")
    require_labels(named, 1, ("harmful", "benign"))
    shared = set(anchors.texts) & set(() if tested is None else tested.texts)
    if shared:
        raise UserError(
            f"{named.name}: {plural(len(shared), 'prompt')} of the test among them; take others, "
            "as a direction must not be made of what is tested"
        )


def replace_labels(prompts: PromptSet, anchors: PromptSet | None) -> PromptSet:
    """The prompts, but of each label that the anchors have the anchors instead."""
    if anchors is None:
        return prompts
    replaced = set(anchors.labels)
    kept = (one for one in prompts if one.label not in replaced)
    return replace(prompts, prompts=(*anchors, *kept))


def _spread_over_categories(prompts: PromptSet, label: str, seed: int) -> list[int]:
    """Indices with a label in drawing order: one of each category, then the next of each."""
    by_category: dict[str | None, list[int]] = defaultdict(list)
    indices = [index for index, prompt in enumerate(prompts) if prompt.label == label]
    for index in sorted(indices, key=lambda index: shuffle_key(seed, prompts[index].prompt)):
        by_category[prompts[index].category].append(index)
    rounds = zip_longest(*by_category.values())
    return [index for drawn in rounds for index in drawn if index is not None]
