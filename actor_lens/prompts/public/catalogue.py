"""The public prompt sets: where each is, its licence, and which label its rows get and why.

They are listed in `catalogue.yaml`; none of them is bundled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from actor_lens.errors import UserError, did_you_mean
from actor_lens.prompts.public.rows import READERS, TWINS, Reader, Twins, all_are
from actor_lens.prompts.rows import LABELS, Label, check_known, shown
from actor_lens.results import Result
from actor_lens.text import plural, spell

if TYPE_CHECKING:
    import pandas as pd

_FILE = "catalogue.yaml"


@dataclass(frozen=True, eq=False, repr=False)
class BenchmarkSet(Result):
    """One public prompt set.

    Attributes:
        name: Name of the set here.
        title: Name that its authors gave it.
        labels: Labels of its rows.
        why: Reason for these labels.
        licence: Licence, as its authors state it.
        citation: Authors, year and source.
        page: Page where it is downloaded, and where a gated one is asked for.
        read: Reader that makes a prompt of a row.
        columns: Columns of which one must be there, as they name the prompt; empty for any.
        signs: Columns by which its files are recognised; none where they have nothing of their own.
        hub: Dataset on the hub; "" where it is none.
        config: Configuration on the hub.
        splits: Splits that are taken from the hub; empty for all.
        url: A file elsewhere, with `{revision}` in it, used where there is no hub dataset that is
            open to all.
        files: Patterns of its files in a downloaded folder.
        rows: Number of its rows; None where this differs between versions.
        gated: Whether the hub asks for a licence click.
        header: Whether its CSV files begin with the names of the columns.
        usual: Prompts a label that are drawn where no limit is given; None for all.
        first_rows: Number of rows of a split that are read, streamed, of a set too large to fetch
            whole; None for all.
        repeats: Whether prompts occur several times as a rule, so that it is no fault.
        kinds: Kinds of row that are left out unless asked for, as `include` or NAME+KIND.
        twins: Which rows must lie on one side of a split; None where near-duplicates are all.
        notes: Remarks that a user should read.
        other_names: Further names under which it is found.
    """

    name: str
    title: str
    labels: tuple[Label, ...]
    why: str
    licence: str
    citation: str
    page: str
    read: Reader
    columns: tuple[str, ...] = ()
    signs: tuple[str, ...] = ()
    hub: str = ""
    config: str | None = None
    splits: tuple[str, ...] = ()
    url: str = ""
    files: tuple[str, ...] = ()
    rows: int | None = None
    gated: bool = False
    header: bool = True
    usual: int | None = None
    first_rows: int | None = None
    repeats: bool = False
    kinds: tuple[str, ...] = ()
    twins: Twins | None = None
    notes: str = ""
    other_names: tuple[str, ...] = ()

    _values = (
        "name", "title", "labels", "why", "licence", "citation", "page", "hub", "config", "rows",
        "gated", "usual", "notes",
    )  # fmt: skip

    def _table(self) -> pd.DataFrame:
        return self.frame()[["labels", "why", "notes"]]

    def _headline(self) -> str:
        rows = "" if self.rows is None else f", {plural(self.rows, 'row')}"
        labels = spell([label.replace("_", "-") for label in self.labels])
        return f"{self.title}: {labels} prompts{rows}; licence: {self.licence}"

    def _next(self) -> str:
        return f"{self.page}; load it: al.benchmark('{self.name}')"


@dataclass(frozen=True, eq=False, repr=False)
class Catalogue(Result):
    """All public prompt sets.

    Attributes:
        sets: The sets, over-refusal sets first, harmful ones next, benign ones last.
    """

    sets: tuple[BenchmarkSet, ...]

    _hint = "load a set: al.benchmark(NAME)"

    def __len__(self) -> int:
        """The number of sets."""
        return len(self.sets)

    def __iter__(self) -> Iterator[BenchmarkSet]:
        """Each set."""
        return iter(self.sets)

    def frame(self) -> pd.DataFrame:
        """One row a set; a column for each value of its summary."""
        import pandas as pd

        return pd.DataFrame([one.summary() for one in self.sets])

    def summary(self) -> dict[str, Any]:
        """The number of sets and their names."""
        return {"sets": len(self), "names": [one.name for one in self.sets]}

    def _table(self) -> pd.DataFrame:
        return self.frame()[["name", "labels", "rows", "licence"]]

    def _headline(self) -> str:
        return f"{plural(len(self), 'public prompt set')}: {', '.join(s.name for s in self.sets)}"


@cache
def catalogue() -> Catalogue:
    """All public prompt sets that `benchmark` loads by name.

    Raises:
        ValueError: If the file that lists them holds a mistake.
    """
    import yaml

    text = resources.files(__package__).joinpath(_FILE).read_text(encoding="utf-8")
    return Catalogue(tuple(_set(name, values) for name, values in yaml.safe_load(text).items()))


def _set(name: str, values: Mapping[str, Any]) -> BenchmarkSet:
    """A set from its entry in the file."""
    try:
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        for label in fields["labels"]:
            check_known("label", label, LABELS)
        category = fields.pop("category", ())
        if "reader" in fields:
            fields["read"] = READERS[fields.pop("reader")]
        else:
            (label,) = fields["labels"]
            fields["read"] = all_are(label, *fields["columns"], category=category)
        if "twins" in fields:
            fields["twins"] = TWINS[fields["twins"]]
        return BenchmarkSet(name=name, **fields)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{_FILE}, {name}: {type(error).__name__}: {error}") from error


@cache
def _by_name() -> dict[str, BenchmarkSet]:
    """The sets by all their names, their own ones first."""
    sets = catalogue().sets
    other = {name: each for each in sets for name in each.other_names}
    return {each.name: each for each in sets} | other


def find_benchmark(name: str) -> BenchmarkSet | None:
    """The set of that name, whatever its case, with `_` or spaces for `-`; None for none."""
    return _by_name().get(plain_name(name))


def plain_name(name: str) -> str:
    """A name in small letters, with `-` for `_` and spaces."""
    return name.strip().casefold().replace("_", "-").replace(" ", "-")


def known_benchmark(name: str, others: Sequence[str] = ()) -> BenchmarkSet:
    """The set of that name.

    Args:
        name: Name of a public prompt set.
        others: Names of other prompts, one of which may be meant.

    Raises:
        UserError: If there is none; the message names the nearest and lists all.
    """
    benchmark = find_benchmark(name)
    if benchmark is not None:
        return benchmark
    meant = did_you_mean(name, [*_by_name(), *others]) or ";"
    names = ", ".join(each.name for each in catalogue())
    raise UserError(f"no public prompt set {shown(name)}{meant} there are: {names}")
