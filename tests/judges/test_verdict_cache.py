"""Law: what was put is found again by another cache on the same file, JSON lines of old too.

Writers in several processes at once lose nothing, and a file that is no cache is left as it is.
"""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from actor_lens.errors import UserError
from actor_lens.judges.base import VERDICTS
from actor_lens.judges.verdict_cache import VerdictCache, default_cache, verdict_key


def test_what_was_put_is_found_again(tmp_path):
    path = tmp_path / "deep" / "verdicts.sqlite"
    cache = VerdictCache(path)
    assert not path.parent.exists()
    keys = [f"key {number}" for number in range(len(VERDICTS))]
    for key, verdict in zip(keys, VERDICTS, strict=True):
        cache.put(key, verdict)
    for same in (cache, VerdictCache(path)):
        assert same.known([*keys, "another"]) == dict(zip(keys, VERDICTS, strict=True))
        assert len(same) == len(VERDICTS)


def test_a_new_verdict_takes_the_place_of_the_old_one_in_every_cache(tmp_path):
    one, other = (VerdictCache(tmp_path / "v.sqlite") for _ in range(2))
    one.put("a", "refused")
    other.put("a", "answered")
    assert one.known("ab") == other.known("ab") == {"a": "answered"}


def line(key, verdict):
    return json.dumps({"key": key, "verdict": verdict}).encode() + b"\n"


OLDER = line("a", "answered") + line("a", "refused") + line("b", "partly_refused")
JUNK = (
    b'{"key": "c", "verd',
    b"\xff\xfe\x00",
    b"[1]\n",
    line("c", "perhaps"),
    line("c", ["refused"]),
    b"\n\n",
)


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("name", ["v.jsonl", "verdicts", "v.sqlite"])
def test_verdicts_of_an_earlier_version_are_taken_over_and_their_file_is_left(tmp_path, name, junk):
    older = tmp_path / (name if name != "v.sqlite" else "v.jsonl")
    older.write_bytes(OLDER + junk)
    cache = VerdictCache(tmp_path / name)
    assert cache.known("abc") == {"a": "refused", "b": "partly_refused"}
    cache.put("b", "answered")
    assert VerdictCache(tmp_path / name).known("abc") == {"a": "refused", "b": "answered"}
    assert older.read_bytes() == OLDER + junk


def test_every_cache_is_an_sqlite_file(tmp_path):
    VerdictCache(tmp_path / "v.jsonl").put("a", "refused")
    assert VerdictCache(tmp_path / "v.sqlite").known("a") == {"a": "refused"}
    assert [path.name for path in tmp_path.iterdir()] == ["v.sqlite"]


WRITER = """
import sys
from actor_lens.judges.verdict_cache import VerdictCache
cache = VerdictCache(sys.argv[1])
for number in range(40):
    cache.put(f"{sys.argv[2]} {number}", "refused")
"""


def test_several_processes_and_threads_lose_nothing(tmp_path):
    path = tmp_path / "v.sqlite"
    (tmp_path / "v.jsonl").write_bytes(OLDER)
    words = [sys.executable, "-c", WRITER, str(path)]
    writers = [subprocess.Popen([*words, name]) for name in ("one", "two")]
    cache = VerdictCache(path)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: cache.put(f"here {number}", "answered"), range(40)))
    assert [writer.wait() for writer in writers] == [0, 0]
    assert len(VerdictCache(path)) == 122


def test_keys_know_where_one_part_ends():
    keys = {verdict_key(*parts) for parts in (("ab", "c"), ("a", "bc"), ("abc",), ("a", "b", "c"))}
    assert len(keys) == 4


def test_the_place_can_be_named(tmp_path, monkeypatch):
    monkeypatch.setenv("ACTOR_LENS_VERDICTS", str(tmp_path / "own.sqlite"))
    assert default_cache().path == tmp_path / "own.sqlite"


def test_a_place_that_cannot_be_used_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"verdict cache .* cannot be used: .*ACTOR_LENS_VERDICTS"):
        VerdictCache(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be used"):
        VerdictCache(tmp_path / "file" / "v.sqlite").put("a", "refused")
    for content in (b"SQLite format 3\0" + b"\1" * 5000, OLDER):
        (tmp_path / "broken.sqlite").write_bytes(content)
        with pytest.raises(UserError, match="cannot be used"):
            VerdictCache(tmp_path / "broken.sqlite")
