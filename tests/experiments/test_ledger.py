"""What a ledger has taken is there after any crash; other work in its place is refused."""

import json
import math
from dataclasses import dataclass

import pytest

from actor_lens.errors import UserError
from actor_lens.experiments.ledger import FORMAT, Ledger

ABOUT = {"model": "toy", "judge": None, "settings": {"lr": 0.1}, "ids": (1, 2)}


@dataclass(frozen=True)
class Cell:
    layer: int
    alpha: float


@dataclass(frozen=True)
class Entry:
    cell: Cell
    loss: float
    verdicts: tuple[str, ...] = ()


ENTRIES = [Entry(Cell(0, math.inf), math.nan), Entry(Cell(1, 0.5), 2.0, ("refused", "é\ud800"))]


def ledger(path, about=ABOUT, **options):
    return Ledger(path, about, Entry, lambda entry: entry.cell, work="sweep", **options)


def filled(path):
    book = ledger(path)
    for entry in ENTRIES:
        book.add(entry)
    return book


def test_entries_come_back_as_they_were_from_valid_json(tmp_path):
    path = tmp_path / "deep" / "book.jsonl"
    assert repr(filled(path).entries) == repr(ledger(path).entries)
    assert repr(list(ledger(path).entries.values())) == repr(ENTRIES)  # NaN does not equal itself

    def refuse(name):
        raise AssertionError(name)

    for line in path.read_text().splitlines():
        json.loads(line, parse_constant=refuse)


def test_without_a_path_entries_are_kept_in_memory():
    assert list(filled(None).entries.values()) == ENTRIES


def test_the_last_entry_of_a_key_counts(tmp_path):
    book = filled(tmp_path / "book.jsonl")
    again = Entry(Cell(1, 0.5), 3.0)
    book.add(again)
    assert ledger(tmp_path / "book.jsonl").entries[again.cell] == again


def test_a_file_cut_off_anywhere_is_read_to_the_last_whole_line_and_goes_on(tmp_path):
    path = tmp_path / "book.jsonl"
    filled(path)
    data = path.read_bytes()
    header = data.index(b"\n") + 1
    second = data.index(b"\n", header) + 1
    for end in range(header, len(data)):
        path.write_bytes(data[:end])
        book = ledger(path)
        assert len(book.entries) == sum(end >= whole - 1 for whole in (second, len(data)))
        book.add(ENTRIES[1])
        assert list(ledger(path).entries)[-1] == ENTRIES[1].cell


@pytest.mark.parametrize(
    ("changes", "name"),
    [({"model": "x"}, "model"), ({"settings": {"lr": 1.0}}, "settings"), ({"extra": 1}, "extra")],
)
def test_other_work_is_refused_and_named(tmp_path, changes, name):
    filled(tmp_path / "book.jsonl")
    with pytest.raises(UserError, match=rf"book.jsonl: belongs to another sweep .*{name}\)"):
        ledger(tmp_path / "book.jsonl", {**ABOUT, **changes})
    assert len(ledger(tmp_path / "book.jsonl").entries) == 2


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]\n",
        '{"format": 2}\n',
        json.dumps({"format": FORMAT + 1, "about": {}}) + "\n",
        'HEADER\n{"cell": 1}\n',
        'HEADER\n{"cell": {"layer": 0, "alpha": 1.0}, "loss": 1.0, "new": 0}\n',
        "HEADER\n[1]\n",
    ],
)
def test_what_is_no_ledger_is_named_and_left_alone(tmp_path, text):
    path = tmp_path / "book.jsonl"
    ledger(path)
    path.write_text(text.replace("HEADER", path.read_text().strip()))
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"book\.jsonl: cannot be read"):
        ledger(path)
    assert path.read_bytes() == before


def test_a_ledger_of_an_older_version_goes_on(tmp_path):
    path = tmp_path / "book.jsonl"
    old = {"cell": {"layer": 0, "alpha": 1.0}, "loss": math.nan}
    about = json.loads(json.dumps(ABOUT))
    path.write_text("\n".join(json.dumps(line) for line in ({"sweep": about}, old)) + "\n")
    book = ledger(path)
    book.add(ENTRIES[1])
    assert [entry.cell.layer for entry in ledger(path).entries.values()] == [0, 1]


def test_older_files_are_copied_into_a_new_ledger_once(tmp_path):
    about, record = json.loads(json.dumps(ABOUT)), {"cell": {"layer": 5, "alpha": 1.0}, "loss": 0.5}
    older = [({**about, "model": "other"}, {}), (about, record)]
    book = ledger(tmp_path / "book.jsonl", older=lambda: older)
    assert [cell.layer for cell in book.entries] == [5]
    assert ledger(tmp_path / "book.jsonl", older=lambda: 1 / 0).entries == book.entries
    with pytest.raises(UserError, match=r"another sweep .*model"):
        ledger(tmp_path / "new.jsonl", older=lambda: older[:1])


def test_where_nothing_can_be_written_the_error_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="another folder"):
        ledger(tmp_path / "file" / "book.jsonl")
    book = filled(tmp_path / "book.jsonl")
    (tmp_path / "book.jsonl").unlink()
    (tmp_path / "book.jsonl").mkdir()
    with pytest.raises(UserError, match="same folder again"):
        book.add(ENTRIES[0])
