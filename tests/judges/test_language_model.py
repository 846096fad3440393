"""A language model judges over a real HTTP server: no verdict is lost and none is invented.

A verdict is what the server said in exactly one of three words; anything else is asked for twice
and is then unreadable. Failures that waiting fixes are waited out, as long as the server says;
the others are one line. Whatever happens, verdicts that came are on disk, without prompts or
replies, and the next run asks for the others only, after a kill -9 too.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from threading import Event

import pytest

from actor_lens.errors import UserError
from actor_lens.judges.language_model import ANSWER_TOKENS, LanguageModelJudge
from actor_lens.judges.rubrics import HARMFUL_RUBRIC, HARMLESS_RUBRIC
from actor_lens.judges.verdict_cache import VerdictCache
from actor_lens.progress import reporting
from actor_lens.prompts.rows import Prompt
from actor_lens.prompts.sets import PromptSet
from tests.support.judge_server import (
    Answer,
    by_reply,
    failing,
    honest,
    judge_server,
    reach_loopback,
    said,
)
from tests.support.reports import Recorder

KEY = "sk-very-secret"
PROMPTS = PromptSet(
    tuple(Prompt(f"prompt {i}", ("harmful", "benign", "pseudo_harmful")[i % 3]) for i in range(6))
)
REPLIES = ("no 0", "yes 1", "part 2", "no 3", "yes 4", "yes 5")
TRUTH = ("refused", "answered", "partly_refused", "refused", "answered", "answered")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    reach_loopback(monkeypatch, KEY)


@pytest.fixture
def cache(tmp_path):
    return VerdictCache(tmp_path / "verdicts.sqlite")


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """The seconds that the openai client would have waited between tries."""
    seconds = []

    async def sleep(delay):
        seconds.append(delay)

    monkeypatch.setattr("anyio.sleep", sleep)
    return seconds


@pytest.fixture
def make(cache):
    """A judge at a server."""

    def judge(server, **settings):
        return LanguageModelJudge("toy-judge", server.url, cache=cache, **settings)

    return judge


# ---- What is asked ----


@pytest.mark.parametrize("refused", ["max_tokens", "temperature"])
def test_a_model_that_refuses_the_settings_is_asked_without_them(make, waits, refused):
    def behaviour(times, request):
        if refused not in request:
            return honest(times, request)
        return failing(400, f"'{refused}' is not supported", code="unsupported_parameter")

    with judge_server(behaviour) as server:
        judge = make(server, concurrency=2, retries=0)
        assert judge.verdicts(PROMPTS, REPLIES) == TRUTH
    assert waits == []
    asked = [request for request in server.requests if refused not in request]
    assert len(asked) == len(REPLIES)  # nothing is asked twice in the new way
    assert len(server.requests) - len(asked) <= 2  # and the old way was tried once a thread
    for request in asked:
        assert request["max_completion_tokens"] > ANSWER_TOKENS
        assert not {"max_tokens", "temperature"} & request.keys()


def test_a_model_that_refuses_both_ways_is_one_line(make):
    message = "'temperature' does not support 0"
    with (
        judge_server(lambda *_: failing(400, message)) as server,
        pytest.raises(UserError, match=r"refuses the request \(HTTP 400: 'temperature' does"),
    ):
        make(server).verdicts(PROMPTS[:1], REPLIES[:1])
    assert len(server.requests) == 2


def test_each_reply_gets_the_verdict_that_the_server_gave(make, waits):
    with judge_server() as server:
        judge = make(server)
        assert judge.verdicts(PROMPTS, REPLIES) == TRUTH
    assert waits == []
    assert len(server.requests) == len(REPLIES)
    assert server.keys == {f"Bearer {KEY}"}
    for request in server.requests:
        assert (request["model"], request["temperature"]) == ("toy-judge", 0)
        assert request["max_tokens"] == ANSWER_TOKENS


def test_harmful_prompts_are_judged_by_their_own_rubric(make):
    with judge_server() as server:
        make(server).verdicts(PROMPTS, REPLIES)
    for request in server.requests:
        about = json.loads(request["messages"][1]["content"])
        row = PROMPTS.texts.index(about["prompt"])
        rubric = HARMFUL_RUBRIC if PROMPTS.labels[row] == "harmful" else HARMLESS_RUBRIC
        assert request["messages"][0]["content"] == rubric.text
        assert about["reply"] == REPLIES[row]


def test_equal_replies_to_equal_prompts_are_asked_about_once(make):
    twice = PROMPTS.select([0, 0, 1])
    with judge_server() as server:
        assert make(server).verdicts(twice, ("no", "no", "yes")) == (
            *("refused", "refused"),
            "answered",
        )
    assert len(server.requests) == 2


def test_thoughts_are_not_sent_and_unfinished_ones_are_not_asked_about(make):
    replies = ("<think>yes</think>no 0", "<think>yes", *REPLIES[2:])
    with judge_server() as server:
        judge = make(server)
        assert judge.estimate(PROMPTS, replies).requests == 5
        assert judge.verdicts(PROMPTS, replies) == ("refused", "unreadable", *TRUTH[2:])
    assert sorted(map(by_reply, server.requests)) == sorted(("no 0", *REPLIES[2:]))


def test_requests_go_out_together_as_many_as_allowed(make):
    together, under_way, most = Event(), [], []

    def behaviour(times, request):
        under_way.append(1)
        most.append(len(under_way))
        if len(under_way) == 3:
            together.set()
        return replace(honest(times, request), hold=together)

    with judge_server(behaviour) as server:
        # Nothing is answered before three requests have come: one at a time would never end.
        assert make(server, concurrency=3, timeout=20.0).verdicts(PROMPTS, REPLIES) == TRUTH


# ---- Answers that are none ----


@pytest.mark.parametrize(
    "text",
    [
        "answered or refused",
        '{"verdict": "answered"} {"verdict": "refused"}',
        '{"verdict": "answered", "verdict": "refused"}',
        '{"verdict": ["answered", "refused"]}',
        '{"verdict": "safe"}',
        '{"verdict": "answered", "confidence": 0.5}',
        '{"verdict": "unreadable"}',
        '{"verdict": "answ',
        "The verdict is refused.",
        "1",
        "",
        None,
    ],
)
def test_an_answer_that_is_no_class_is_asked_for_again_and_then_unreadable(make, cache, text):
    def behaviour(times, request):
        return said(text) if by_reply(request) == "yes 1" else honest(times, request)

    with judge_server(behaviour) as server:
        judge = make(server)
        assert judge.verdicts(PROMPTS, REPLIES) == (TRUTH[0], "unreadable", *TRUTH[2:])
        assert len(server.requests) == len(REPLIES) + 1
        assert len(cache) == len(REPLIES) - 1
        server.behaviour = honest  # the next run asks for what could not be read, and no more
        assert judge.verdicts(PROMPTS, REPLIES) == TRUTH
        assert len(server.requests) == len(REPLIES) + 2


@pytest.mark.parametrize(
    "text", ["refused", "Refused.", '{"verdict": "refused"}', '```json\n{"verdict":"refused"}\n```']
)
def test_one_class_in_one_word_or_in_json_is_read(make, text):
    with judge_server(lambda *_: said(text)) as server:
        assert make(server).verdicts(PROMPTS, REPLIES) == ("refused",) * 6
    assert len(server.requests) == 6


def test_an_answer_that_was_cut_short_is_not_read_as_whole(make):
    with judge_server(lambda *_: said("answered", finish_reason="length")) as server:
        assert make(server).verdicts(PROMPTS, REPLIES) == ("unreadable",) * 6


def test_a_second_answer_that_can_be_read_counts(make):
    def behaviour(times, request):
        return honest(times, request) if times else said("both")

    with judge_server(behaviour) as server:
        assert make(server).verdicts(PROMPTS, REPLIES) == TRUTH
    assert len(server.requests) == 2 * len(REPLIES)


@pytest.mark.parametrize("body", ["{}", '{"choices": []}', "[]", '{"choices": [{}]}', "3"])
def test_json_that_is_no_completion_is_unreadable(make, body):
    with judge_server(lambda *_: Answer(body)) as server:
        assert make(server).verdicts(PROMPTS, REPLIES) == ("unreadable",) * 6


@pytest.mark.parametrize(
    "failure",
    [
        failing(400, code="context_length_exceeded"),
        failing(400, code="content_filter"),
        failing(
            400, "This model's maximum context length is 8 tokens. You requested 9 max_tokens."
        ),
    ],
)
def test_a_reply_that_the_judge_may_not_or_cannot_read_is_unreadable(make, failure):
    def behaviour(times, request):
        return failure if by_reply(request) == "part 2" else honest(times, request)

    with judge_server(behaviour) as server:
        found = make(server).verdicts(PROMPTS, REPLIES)
    assert found == (*TRUTH[:2], "unreadable", *TRUTH[3:])


# ---- Failures that waiting fixes ----


@pytest.mark.parametrize(
    "bad",
    [
        failing(500),
        failing(503),
        Answer("<html>Bad gateway</html>", 502, "text/html"),
        Answer(json.dumps({"choices": []}) + " " * 100, cut=True),
    ],
    ids=["500", "503", "502 html", "cut off"],
)
def test_what_fails_once_or_twice_is_asked_again_after_longer_and_longer_waits(make, waits, bad):
    def behaviour(times, request):
        return bad if times < 2 else honest(times, request)

    with judge_server(behaviour) as server:
        judge = make(server, concurrency=1)
        assert judge.verdicts(PROMPTS, REPLIES) == TRUTH
    assert len(server.requests) == 3 * len(REPLIES)
    assert len(waits) == 2 * len(REPLIES)
    assert all(first < second for first, second in zip(waits[::2], waits[1::2], strict=True))


def test_malformed_json_is_asked_for_again(make):
    def behaviour(times, request):
        return honest(times, request) if times else Answer('{"choices": [')

    with judge_server(behaviour) as server:
        assert make(server).verdicts(PROMPTS, REPLIES) == TRUTH


def test_a_rate_limit_is_waited_out_as_long_as_the_server_says(make, waits):
    def behaviour(times, request):
        return failing(429, retry_after="7") if not times else honest(times, request)

    with judge_server(behaviour) as server:
        judge = make(server)
        assert judge.verdicts(PROMPTS, REPLIES) == TRUTH
    assert waits == [7.0] * len(REPLIES)


def test_a_slow_answer_is_asked_for_again(make, waits):
    never = Event()

    def behaviour(times, request):
        answer = honest(times, request)
        return answer if times else replace(answer, hold=never)

    with judge_server(behaviour) as server:
        judge = make(server, timeout=0.5)
        assert judge.verdicts(PROMPTS, REPLIES) == TRUTH
        never.set()
    assert len(waits) == len(REPLIES)


# ---- Failures that it does not fix ----


def refused_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/v1"


@pytest.mark.parametrize(
    ("answer", "message", "most"),
    [
        (failing(401, f"bad key {KEY}"), r"key in OPENAI_API_KEY \(HTTP 401\)", 4),
        (failing(403), r"key in OPENAI_API_KEY \(HTTP 403\)", 4),
        (failing(404), r"\(HTTP 404\); check .* OPENAI_BASE_URL", 4),
        (failing(400, f"no max_tokens\nfor {KEY}"), r"HTTP 400: .*no max_tokens for \*\*\*", 4),
        (failing(429, code="insufficient_quota"), r"refuses the request \(HTTP 429", 12),
        (failing(429, retry_after="4000"), r"HTTP 429 .* wait 4000 s.*run again later", 4),
        (Answer("<!doctype html><p>Log in", 200, "text/html"), r"web page \(HTML\)", 4),
        (Answer("<html>", 200, "application/json"), r"web page \(HTML\)", 4),
        (failing(500), r"HTTP 500.* 2 retries; run again later", 12),
    ],
)
def test_it_is_one_line_and_what_came_before_is_kept(make, cache, answer, message, most):
    with judge_server() as server:
        judge = make(server, retries=2)
        first = judge.verdicts(PROMPTS.select([0, 1]), REPLIES[:2])
        server.behaviour = lambda *_: answer
        with pytest.raises(UserError, match=message) as raised:
            judge.verdicts(PROMPTS, REPLIES)
        assert "\n" not in str(raised.value)
        assert KEY not in str(raised.value)
        assert len(server.requests) <= 2 + most
        assert len(cache) == 2
        server.behaviour = honest
        assert judge.verdicts(PROMPTS, REPLIES) == TRUTH
        # A request that was cancelled may still arrive, but what was known is not asked again.
        assert sum(by_reply(request) in REPLIES[:2] for request in server.requests) == 2
    assert first == TRUTH[:2]


def test_verdicts_that_came_beside_a_failure_are_kept(make, cache):
    def behaviour(times, request):
        return failing(401) if by_reply(request) == "yes 5" else honest(times, request)

    with judge_server(behaviour) as server:
        judge = make(server, concurrency=1)
        with pytest.raises(UserError, match="rejects the key"):
            judge.verdicts(PROMPTS, REPLIES)
        assert len(cache) == 5
        server.behaviour = honest
        assert judge.verdicts(PROMPTS, REPLIES) == TRUTH
        assert len(server.requests) == len(REPLIES) + 1


def test_an_endpoint_that_is_not_there_is_an_error_at_once(cache, waits):
    judge = LanguageModelJudge("m", refused_port(), cache=cache)
    with pytest.raises(UserError, match=r"nothing answers at http://127\.0\.0\.1"):
        judge.verdicts(PROMPTS, REPLIES)
    assert waits == []


@pytest.mark.parametrize("key", [None, "", "  "])
def test_a_missing_key_is_an_error_before_anything_is_asked(monkeypatch, cache, key):
    monkeypatch.delenv("OPENAI_API_KEY")
    if key is not None:
        monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UserError, match="set OPENAI_API_KEY"):
        LanguageModelJudge("m", cache=cache)


@pytest.mark.parametrize("key", ["sk-\u00e9", "sk-1\nsk-2"])
def test_a_key_that_cannot_be_sent_is_an_error_that_does_not_show_it(monkeypatch, cache, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UserError, match=r"OPENAI_API_KEY .* copy the key again") as raised:
        LanguageModelJudge("m", cache=cache)
    assert "sk-" not in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": " "}, "no model name"),
        ({"concurrency": 0}, "concurrency 0 must be at least 1"),
        ({"timeout": 0.0}, "timeout 0 above 0"),
        ({"base_url": "localhost:8000"}, "no http or https address"),
        ({"base_url": "http://[half"}, "no http or https address"),
        ({"base_url": "http://localhost:port"}, "no http or https address"),
        ({"base_url": "http:///v1"}, "no http or https address"),
        ({"base_url": "me:hidden@localhost?key=hidden"}, "'localhost' is no http or https address"),
    ],
)
def test_settings_that_cannot_work_are_errors(cache, settings, message):
    with pytest.raises(UserError, match=message) as raised:
        LanguageModelJudge(**{"model": "m", "cache": cache, **settings})
    assert "hidden" not in str(raised.value)


def test_key_and_password_are_shown_nowhere(make, cache, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://user:hidden@127.0.0.1:1/v1")
    judge = LanguageModelJudge("m", cache=cache)
    with judge_server(lambda *_: failing(401)) as server:
        other = make(server)
        with pytest.raises(UserError):
            other.verdicts(PROMPTS, REPLIES)
    with pytest.raises(UserError) as raised:
        judge.verdicts(PROMPTS, REPLIES)
    shown = f"{judge!r} {judge.identity} {other!r} {raised.value}"
    assert KEY not in shown
    assert "hidden" not in shown


# ---- What is kept ----


def test_a_second_run_asks_nothing_and_another_model_or_reply_asks_anew(make, cache):
    with judge_server() as server:
        judge = make(server)
        judge.verdicts(PROMPTS, REPLIES)
        fresh = replace(judge, cache=VerdictCache(cache.path))
        assert fresh.verdicts(PROMPTS, REPLIES) == TRUTH
        assert len(server.requests) == 6
        replace(judge, model="other", name="other").verdicts(PROMPTS, REPLIES)
        assert len(server.requests) == 12
        fresh.verdicts(PROMPTS, ("no, again", *REPLIES[1:]))
        assert len(server.requests) == 13


def test_the_file_holds_neither_prompts_nor_replies_nor_the_key(make, cache):
    with judge_server() as server:
        make(server).verdicts(PROMPTS, REPLIES)
    content = cache.path.read_bytes()
    assert not any(text.encode() in content for text in (*PROMPTS.texts, *REPLIES, KEY))
    assert [path.name for path in cache.path.parent.iterdir()] == [cache.path.name]


CHILD = """
import sys
from actor_lens.judges.language_model import LanguageModelJudge
from actor_lens.judges.verdict_cache import VerdictCache
from tests.judges.test_language_model import PROMPTS, REPLIES
url, path = sys.argv[1:]
judge = LanguageModelJudge("toy-judge", url, concurrency=1, cache=VerdictCache(path))
try:
    judge.verdicts(PROMPTS, REPLIES)
except KeyboardInterrupt:
    sys.exit(7)
"""


def test_a_killed_run_goes_on_from_what_it_had(make, cache):
    fourth, release = Event(), Event()

    def behaviour(times, request):
        if by_reply(request) == REPLIES[3] and not release.is_set():
            fourth.set()
            return replace(honest(times, request), hold=release)
        return honest(times, request)

    with judge_server(behaviour) as server:
        child = subprocess.Popen([sys.executable, "-c", CHILD, server.url, str(cache.path)])
        try:
            assert fourth.wait(60)
            os.kill(child.pid, signal.SIGKILL)
        finally:
            child.kill()
            child.wait()
            release.set()
        before = len(server.requests)
        assert before == 4
        judge = make(server)
        assert judge.verdicts(PROMPTS, REPLIES) == TRUTH
        assert len(server.requests) - before == 3
    assert len(VerdictCache(cache.path)) == 6


@pytest.mark.parametrize("behaviour", ["holds", "asks to wait"])
def test_an_interrupted_run_ends_at_once_and_goes_on_from_what_it_had(make, cache, behaviour):
    fourth, release = Event(), Event()

    def reluctant(times, request):
        if by_reply(request) != REPLIES[3] or release.is_set():
            return honest(times, request)
        fourth.set()
        if behaviour == "holds":
            return replace(honest(times, request), hold=release)
        return failing(429, retry_after="100")

    with judge_server(reluctant) as server:
        child = subprocess.Popen([sys.executable, "-c", CHILD, server.url, str(cache.path)])
        try:
            assert fourth.wait(60)
            time.sleep(0.2)
            child.send_signal(signal.SIGINT)
            assert child.wait(10) == 7
        finally:
            child.kill()
            child.wait()
            release.set()
        assert len(cache) == 3
        assert make(server).verdicts(PROMPTS, REPLIES) == TRUTH


# ---- Estimates and progress ----


def test_the_estimate_counts_what_would_be_sent(make):
    estimates, recorder = [], Recorder()
    with judge_server() as server, reporting(recorder):
        judge = make(server, on_estimate=estimates.append)
        cost = judge.estimate(PROMPTS, REPLIES)
        assert server.requests == []
        assert (cost.requests, cost.cached, cost.tokens_out) == (6, 0, 6 * ANSWER_TOKENS)
        judge.verdicts(PROMPTS.select([0, 1]), REPLIES[:2])
        sent = sum(len(m["content"]) for request in server.requests for m in request["messages"])
        part = judge.estimate(PROMPTS.select([0, 1]), REPLIES[:2])
        assert (part.requests, part.cached) == (0, 2)
        left = judge.estimate(PROMPTS, REPLIES)
        judge.verdicts(PROMPTS, REPLIES)
    # Four messages, six tokens each beside their text; each text is rounded up.
    assert 0 <= cost.tokens_in - left.tokens_in - 4 * 6 - sent / 4 < 4
    assert [(one.requests, one.cached) for one in estimates] == [(2, 0), (4, 2)]
    assert recorder.parts("verdicts") == [(1, 2), (2, 2), (3, 6), (4, 6), (5, 6), (6, 6)]
    assert cost.frame()["requests"].tolist() == [6]
    assert repr(cost).startswith("JudgingCost: 6 replies to be judged, 0 known")
    assert len(repr(cost).splitlines()) == 2


def test_identity_goes_by_model_rubrics_and_endpoint_but_by_no_secret(cache):
    one = LanguageModelJudge("m", "http://a.example/v1", cache=cache)
    assert one.identity != replace(one, base_url="http://b.example/v1").identity
    assert one.identity != replace(one, model="n", name="").identity
    assert one.identity.startswith("llm:m:rubric-v1:")
    same = "http://user:pass@A.example/v1/?token=hidden"
    assert one.identity == replace(one, base_url=same).identity
    assert one.place == replace(one, base_url=same).place == "a.example"


def test_servers_with_one_model_name_share_no_verdicts(make, cache):
    def contrary(_times, request):
        return said("answered" if by_reply(request).startswith("no") else "refused")

    with judge_server() as one, judge_server(contrary) as other:
        assert make(one).verdicts(PROMPTS, REPLIES) == TRUTH
        second = make(other)
        assert second.estimate(PROMPTS, REPLIES).cached == 0
        assert second.verdicts(PROMPTS, REPLIES) == tuple(
            "answered" if reply.startswith("no") else "refused" for reply in REPLIES
        )
        # Each has kept its own; a password, a query or a last slash make no other server of one.
        for url in (one.url, f"{one.url}/", one.url.replace("//", "//me:word@") + "?key=k"):
            again = LanguageModelJudge("toy-judge", url, cache=VerdictCache(cache.path))
            assert again.verdicts(PROMPTS, REPLIES) == TRUTH
        assert (len(one.requests), len(other.requests)) == (6, 6)
