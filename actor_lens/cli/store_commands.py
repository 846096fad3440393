"""The commands ``store list``, ``store verify`` and ``store prune``.

The store keeps activations on disk, so that the same model and prompts are collected once. Its
folder is that of ``--store``, else ``$ACTOR_LENS_STORE``, else in the user's cache folder. At its
limit it makes room on its own: ``prune`` is for making room now.

``verify`` reads everything and removes nothing; its exit code is 2 where an entry is damaged. Only
``prune`` removes, whole entries at a time. Ctrl-C between two of them does no harm.

Examples:
    actor-lens store list
    actor-lens store list --json
    actor-lens store verify --store ./activations
    actor-lens store prune --limit 5GB
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from actor_lens.cli.arguments import add_command, add_flags, add_group
from actor_lens.cli.printing import print_json, print_table, say
from actor_lens.errors import UserError

if TYPE_CHECKING:
    from actor_lens.activations.store import Store
    from actor_lens.activations.store_entries import StoreEntry


def add_commands(commands: Any) -> None:
    """Register ``store`` and what is below it."""
    inner = add_group(commands, "store", "the activations that are kept on disk")
    _add(inner, "list", list_entries, "show what is there, the last used first")
    _add(inner, "verify", verify, "compare everything with its checksums; removes nothing")
    prune_parser = _add(inner, "prune", prune, "remove the least recently used entries")
    prune_parser.add_argument(
        "--limit",
        metavar="SIZE",
        help="keep at most this much, for instance 5GB; 0 removes everything; default: the limit "
        "of the store",
    )


def _add(
    commands: Any, name: str, function: Callable[[argparse.Namespace], None], text: str
) -> argparse.ArgumentParser:
    parser = add_command(commands, name, function, text)
    add_flags(parser, "--store", "--json")
    return parser


def list_entries(arguments: argparse.Namespace) -> None:
    """Show every entry, the last used first.

    Raises:
        UserError: If the store is off.
    """
    store = _store()
    _show(arguments, store, store.entries(), "entries")


def verify(arguments: argparse.Namespace) -> None:
    """Compare every entry with its checksums.

    Raises:
        UserError: If an entry is damaged, once all are shown, or the store is off.
    """
    store = _store()
    entries = store.verify()
    _show(arguments, store, entries, "entries")
    damaged = [entry for entry in entries if entry.fault]
    if damaged:
        raise UserError(
            f"{len(damaged)} of {len(entries)} entries are damaged, the first is {damaged[0].key} "
            f"({damaged[0].fault}); it is removed and computed again when it is next needed"
        )


def prune(arguments: argparse.Namespace) -> None:
    """Remove the least recently used entries until the store is below a limit.

    Raises:
        UserError: If the limit is no size, there is none, or the store is off.
    """
    from actor_lens.files.sizes import parse_size

    store = _store()
    limit = store.limit if arguments.limit is None else parse_size(arguments.limit)
    if limit is None:
        raise UserError("the store has no limit; say how much to keep, for instance --limit 5GB")
    _show(arguments, store, store.prune(limit), "removed")


def _store() -> Store:
    """The store that ``$ACTOR_LENS_STORE`` names, where ``main`` has put ``--store``.

    Raises:
        UserError: If it is off.
    """
    from actor_lens.activations.store import default_store

    store = default_store()
    if store is None:
        raise UserError("ACTOR_LENS_STORE is off; name a folder with --store")
    return store


def _show(
    arguments: argparse.Namespace, store: Store, entries: Sequence[StoreEntry], what: str
) -> None:
    """Print entries and their size in all.

    Args:
        arguments: ``json`` is read.
        store: Store that holds, or has held, the entries.
        entries: Entries to show.
        what: What they are, in words and as a key of the JSON: ``"entries"`` or ``"removed"``.
    """
    from actor_lens.files.sizes import format_size

    total = sum(entry.nbytes for entry in entries)
    if arguments.json:
        records = [_record(entry) for entry in entries]
        folder = str(store.folder)
        print_json({"folder": folder, "limit": store.limit, what: records, "bytes": total})
        return
    if entries:
        print_table(
            str(store.folder),
            ("entry", "holds", "state", "used (UTC)", "prompts", "size"),
            (
                [
                    entry.key[:12],
                    _holds(entry),
                    entry.fault or ("whole" if entry.complete else "unfinished"),
                    f"{entry.used:%Y-%m-%d %H:%M}",
                    str(entry.identity.get("prompts", "")),
                    format_size(entry.nbytes),
                ]
                for entry in entries
            ),
            texts=3,
        )
    limit = "none" if store.limit is None else format_size(store.limit)
    say(f"{len(entries)} {what}, {format_size(total)}; {store.folder}, limit {limit}")


def _holds(entry: StoreEntry) -> str:
    """What an entry holds in words, such as ``block inputs, layer 3, toy``."""
    layer = entry.identity.get("layer")
    where = "" if layer is None else f", layer {layer}"
    return f"{entry.kind.replace('_', ' ')}{where}, {entry.identity.get('model_name', '?')}"


def _record(entry: StoreEntry) -> dict[str, Any]:
    """An entry as plain values; ``used`` is a time in UTC, ``fault`` None where it is whole."""
    return {
        "key": entry.key,
        "identity": dict(entry.identity),
        "bytes": entry.nbytes,
        "used": entry.used.isoformat(timespec="seconds"),
        "complete": entry.complete,
        "fault": entry.fault,
    }
