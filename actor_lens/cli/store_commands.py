"""The commands ``store list``, ``store verify`` and ``store prune``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from actor_lens.cli.arguments import add_command
from actor_lens.cli.printing import print_json, print_table, say
from actor_lens.errors import UserError

if TYPE_CHECKING:
    from actor_lens.activations.store import Store
    from actor_lens.activations.store_entries import StoreEntry


def add_commands(commands: Any) -> None:
    """Register ``store`` and what is below it."""
    text = "the activations that are kept on disk"
    parser = commands.add_parser("store", help=text, description=f"{text.capitalize()}.")
    inner = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
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
    parser.add_argument(
        "--store",
        metavar="DIR",
        help="folder of the store; default: $ACTOR_LENS_STORE or the user's cache folder",
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    return parser


def list_entries(arguments: argparse.Namespace) -> None:
    """Show every entry."""
    store = _store()
    _show(arguments, store, store.entries(), "entries")


def verify(arguments: argparse.Namespace) -> None:
    """Check every entry; a fault is an error.

    Raises:
        UserError: If an entry is damaged.
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
    """Remove entries."""
    from actor_lens.files.sizes import parse_size

    store = _store()
    limit = store.limit if arguments.limit is None else parse_size(arguments.limit)
    if limit is None:
        raise UserError("the store has no limit; say how much to keep, for instance --limit 5GB")
    _show(arguments, store, store.prune(limit), "removed")


def _store() -> Store:
    from actor_lens.activations.store import default_store

    store = default_store()
    if store is None:
        raise UserError("ACTOR_LENS_STORE is off; name a folder with --store")
    return store


def _show(
    arguments: argparse.Namespace, store: Store, entries: Sequence[StoreEntry], what: str
) -> None:
    from actor_lens.files.sizes import format_size

    total = sum(entry.nbytes for entry in entries)
    if arguments.json:
        print_json(
            {
                "folder": str(store.folder),
                "limit": store.limit,
                what: [_record(entry) for entry in entries],
                "bytes": total,
            }
        )
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
    layer = entry.identity.get("layer")
    where = "" if layer is None else f", layer {layer}"
    return f"{entry.kind.replace('_', ' ')}{where}, {entry.identity.get('model_name', '?')}"


def _record(entry: StoreEntry) -> dict[str, Any]:
    return {
        "key": entry.key,
        "identity": dict(entry.identity),
        "bytes": entry.nbytes,
        "used": entry.used.isoformat(timespec="seconds"),
        "complete": entry.complete,
        "fault": entry.fault,
    }
