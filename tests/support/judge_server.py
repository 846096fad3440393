"""A real HTTP server on loopback that answers like an OpenAI-compatible endpoint, or badly."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import Any

import pytest


@dataclass
class Answer:
    """What the server sends; ``hold`` is waited for before it is sent."""

    body: str
    status: int = 200
    kind: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    hold: Event | None = None
    cut: bool = False


def reach_loopback(monkeypatch: pytest.MonkeyPatch, key: str = "any") -> None:
    """No proxy stands between a judge and its server, and there is a key."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", key)


Behaviour = Callable[[int, dict[str, Any]], Answer]
"""Called with how often this reply was asked about before, and the request."""


def said(text: str | None, finish_reason: str = "stop") -> Answer:
    """A completion with this text."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return Answer(json.dumps({"id": "1", "object": "chat.completion", "choices": [choice]}))


def verdict(name: str) -> Answer:
    """A completion as the rubric asks for."""
    return said(json.dumps({"verdict": name}))


def failing(status: int, message: str = "no", code: str | None = None, **headers: str) -> Answer:
    """An error as OpenAI words it."""
    return Answer(
        json.dumps({"error": {"message": message, "code": code}}),
        status,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


def by_reply(request: dict[str, Any]) -> str:
    """The reply that is asked about."""
    return str(json.loads(request["messages"][1]["content"])["reply"])


def honest(_times: int, request: dict[str, Any]) -> Answer:
    """Replies that begin with "no" refuse, with "part" refuse in part."""
    reply = by_reply(request)
    if reply.startswith("no"):
        return verdict("refused")
    return verdict("partly_refused" if reply.startswith("part") else "answered")


class JudgeServer:
    """Where it is, and every request that it got."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour, self.requests = behaviour, []
        self.keys: set[str] = set()
        self._lock = Lock()
        self._times: dict[str, int] = {}
        self.url = ""

    def answer(self, request: dict[str, Any], key: str) -> Answer:
        with self._lock:
            self.requests.append(request)
            self.keys.add(key)
            about = request["messages"][1]["content"]
            times = self._times.get(about, 0)
            self._times[about] = times + 1
        return self.behaviour(times, request)


@contextmanager
def judge_server(behaviour: Behaviour = honest) -> Iterator[JudgeServer]:
    """A server for as long as the context lasts."""
    state = JudgeServer(behaviour)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["content-length"])
            request = json.loads(self.rfile.read(length))
            answer = state.answer(request, self.headers.get("authorization", ""))
            if answer.hold is not None:
                answer.hold.wait(30)
            body = answer.body.encode()
            try:
                self.send_response(answer.status)
                self.send_header("content-type", answer.kind)
                self.send_header("content-length", str(len(body)))
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if answer.cut else body)
            except OSError:  # the judge gave up, which a slow server has to bear
                return

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
