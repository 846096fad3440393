"""What was put is found again by another cache on the same file, whatever else is in it.

Writers in several processes at once lose nothing; lines that are cut short or foreign are passed
over, also when something is appended after them.
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
    path = tmp_path / "deep" / "verdicts.jsonl"
    cache = VerdictCache(path)
    assert len(cache) == 0
    for number, verdict in enumerate(VERDICTS):
        cache.put(f"key {number}", verdict)
    for one in (cache, VerdictCache(path)):
        assert [one.get(f"key {n}") for n in range(4)] == list(VERDICTS)
        assert one.get("another") is None


def test_another_cache_sees_it_after_a_refresh(tmp_path):
    one, other = (VerdictCache(tmp_path / "v.jsonl") for _ in range(2))
    one.put("a", "refused")
    other.put("b", "answered")
    one.refresh()
    assert (one.get("b"), other.get("a")) == ("answered", None)
    other.refresh()
    assert other.get("a") == "refused"


@pytest.mark.parametrize(
    "junk",
    [
        b'{"key": "c", "verd',
        b"\xff\xfe\x00",
        b"[1]\n",
        b'{"key": "c", "verdict": "perhaps"}\n',
        b'{"key": "c", "verdict": ["refused"]}\n',
        b"\n\n",
    ],
)
def test_junk_is_passed_over_and_what_follows_it_is_kept(tmp_path, junk):
    path = tmp_path / "v.jsonl"
    VerdictCache(path).put("a", "refused")
    with path.open("ab") as file:
        file.write(junk)
    cache = VerdictCache(path)
    cache.put("b", "answered")
    again = VerdictCache(path)
    assert [again.get(key) for key in "abc"] == ["refused", "answered", None]
    assert len(again) == 2


def test_a_line_that_is_still_being_written_is_read_when_it_is_whole(tmp_path):
    path = tmp_path / "v.jsonl"
    line = json.dumps({"key": "a", "verdict": "refused"}) + "\n"
    path.write_text(line[:20])
    cache = VerdictCache(path)
    assert cache.get("a") is None
    path.write_text(line)
    cache.refresh()
    assert cache.get("a") == "refused"


WRITER = """
import sys
from actor_lens.judges.verdict_cache import VerdictCache
cache = VerdictCache(sys.argv[1])
for number in range(40):
    cache.put(f"{sys.argv[2]} {number}", "refused")
"""


def test_several_processes_and_threads_lose_nothing(tmp_path):
    path = tmp_path / "v.jsonl"
    words = [sys.executable, "-c", WRITER, str(path)]
    writers = [subprocess.Popen([*words, name]) for name in ("one", "two")]
    cache = VerdictCache(path)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: cache.put(f"here {number}", "answered"), range(40)))
    assert [writer.wait() for writer in writers] == [0, 0]
    assert len(VerdictCache(path)) == 120
    assert len(path.read_bytes().splitlines()) == 120


def test_keys_know_where_one_part_ends():
    keys = {verdict_key(*parts) for parts in (("ab", "c"), ("a", "bc"), ("abc",), ("a", "b", "c"))}
    assert len(keys) == 4


def test_the_place_can_be_named(tmp_path, monkeypatch):
    monkeypatch.setenv("ACTOR_LENS_VERDICTS", str(tmp_path / "own.jsonl"))
    assert default_cache().path == tmp_path / "own.jsonl"


def test_a_place_that_cannot_be_used_is_told(tmp_path):
    with pytest.raises(UserError, match=r"verdict cache .* cannot be used: .*ACTOR_LENS_VERDICTS"):
        VerdictCache(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be used"):
        VerdictCache(tmp_path / "file" / "v.jsonl").put("a", "refused")
