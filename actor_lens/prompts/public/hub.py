"""The rows of a public prompt set from the hub, through the library `datasets`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from actor_lens.errors import UserError, causes, require
from actor_lens.prompts.public.catalogue import BenchmarkSet
from actor_lens.prompts.public.rows import Row
from actor_lens.text import one_line


def hub_rows(
    benchmark: BenchmarkSet, *, revision: str | None = None, split: str | None = None
) -> tuple[list[Row], str]:
    """Fetch a set, or take it from the library's cache. Arguments as in `benchmark`.

    Returns:
        The rows, and the revision they are of, at most 12 characters of it: the commit where the
        hub tells it.

    Raises:
        UserError: If `datasets` is not installed, the set is gated, gone or renamed, or the hub
            does not answer; the message says what to do.
    """
    require("datasets", "hub", f"{benchmark.name}: fetching it", f"or {_by_hand(benchmark)}")
    with _in_one_line(benchmark, revision):
        commit = _commit(benchmark, revision) if benchmark.hub else revision or "main"
        parts = _load(benchmark, commit)
        rows = [
            Row(values, part, f"{benchmark.hub or benchmark.name}, {part} row {number}")
            for part in _choose(benchmark, parts, split)
            for number, values in enumerate(islice(parts[part], benchmark.first_rows), start=1)
        ]
        return rows, commit[:12] if commit else "from the cache"


def _commit(benchmark: BenchmarkSet, revision: str | None) -> str | None:
    """The full commit of a revision; what was asked for where the hub is switched off."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        info = HfApi().dataset_info(
            benchmark.hub, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
    except OfflineModeIsEnabled:
        return revision  # what was fetched before may still be in the cache
    return info.sha or revision


def _load(benchmark: BenchmarkSet, revision: str | None) -> dict[str, Any]:
    """Rows by split: downloaded, or streamed where only the first are read."""
    from datasets import load_dataset

    # With a name of our own, the library does not take the first prompt for the column's name.
    options: dict[str, Any] = {} if benchmark.header else {"names": ["prompt"]}
    streaming = benchmark.first_rows is not None
    if benchmark.hub:
        parts = load_dataset(
            benchmark.hub, benchmark.config, revision=revision, streaming=streaming, **options
        )
    else:
        url = benchmark.url.format(revision=revision)
        kind = "text" if url.endswith(".txt") else "csv"
        parts = load_dataset(kind, data_files=url)
    return dict(parts)


def _choose(benchmark: BenchmarkSet, parts: dict[str, Any], split: str | None) -> list[str]:
    """The splits to take; where the hub has one only, its name does not matter."""
    names = [split] if split is not None else list(benchmark.splits)
    missing = [name for name in names if name not in parts]
    if not missing:
        return names or list(parts)
    if split is None and len(parts) == 1 == len(names):
        return list(parts)
    raise UserError(
        f"{benchmark.name}: the hub has no split {', '.join(missing)} (there are: "
        f"{', '.join(parts)}); name one with hub_split, or pin an older revision"
    )


@contextmanager
def _in_one_line(benchmark: BenchmarkSet, revision: str | None) -> Iterator[None]:
    """What the hub's libraries raise, as one line that says what to do."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the libraries raise their own, those of httpx and of aiohttp
        raise UserError(f"{benchmark.name}: {_reason(benchmark, revision, error)}") from error


def _reason(benchmark: BenchmarkSet, revision: str | None, error: Exception) -> str:
    from datasets.exceptions import DataFilesNotFoundError
    from huggingface_hub.errors import OfflineModeIsEnabled, RevisionNotFoundError

    by_hand = _by_hand(benchmark)
    chain = list(causes(error))
    text = " ".join(f"{type(each).__name__} {each}" for each in chain)
    status = next((code for each in chain if (code := _status(each)) is not None), None)
    where = benchmark.hub or benchmark.url.format(revision=revision or "main")
    if "Gated" in text or "gated dataset" in text or (benchmark.gated and status in (401, 403)):
        return (
            f"{where} is gated; accept its terms at {benchmark.page}, then set HF_TOKEN to a token "
            f"of that account, or {by_hand}"
        )
    if any(isinstance(each, RevisionNotFoundError) for each in chain):
        return f"{where} has no revision '{revision}'; look at {benchmark.page}"
    if any(isinstance(each, OfflineModeIsEnabled) for each in chain) or _offline():
        return (
            f"the hub is switched off (HF_HUB_OFFLINE) and the set is not in the cache; {by_hand}"
        )
    if "imeout" in text or "timed out" in text:
        return f"{where} did not answer in time; try again later, or {by_hand}"
    if "BuilderConfig" in text:
        return (
            f"{where} has no configuration '{benchmark.config}' any more; pin an older revision, "
            f"or {by_hand}"
        )
    if status in (401, 403):
        return f"{where} is private, gated or gone (HTTP {status}); {by_hand}"
    if status == 404 or isinstance(error, DataFilesNotFoundError):
        return f"{where} is not there (renamed or removed?); {by_hand}"
    if status is not None:
        return f"{where} answered HTTP {status}; try again later, or {by_hand}"
    short = f"{type(error).__name__}: {one_line(error, 160)}"
    return f"{where} cannot be fetched ({short}); {by_hand}"


def _by_hand(benchmark: BenchmarkSet) -> str:
    return f"download it from {benchmark.page} and give {benchmark.name}=PATH"


def _status(error: BaseException) -> int | None:
    """The HTTP status that an exception speaks of, whichever library raised it."""
    response = getattr(error, "response", None)
    for code in (getattr(response, "status_code", None), getattr(error, "status", None)):
        if isinstance(code, int):
            return code
    return None


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)
