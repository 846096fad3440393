"""A server on loopback that answers as the model hub does, for data sets of a few files."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, files: Mapping[str, bytes], fault: str) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.files, self.fault = dict(files), fault
        self.released = threading.Event()


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        fault = self.server.fault
        if fault == "silent":  # answers nothing until the test is over
            self.server.released.wait()
            self.close_connection = True
        elif fault == "gone":
            self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif fault == "broken":
            self._send(500, {"error": "Internal error"})
        elif path.startswith("/api/datasets/") and path.count("/") > 3:
            self._answer_about(path.split("/", 5)[5:])
        elif "/resolve/" in path:
            self._send_file(path.split("/resolve/")[1].partition("/")[2])
        else:
            self._send(404, {"error": "Not found"})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            wanted = json.loads(body).get("paths", [])
        except ValueError:
            from urllib.parse import parse_qs

            wanted = parse_qs(body.decode()).get("paths", [])
        entries = [each for each in self._entries() if each["path"] in wanted]
        self._send(200, entries)

    def _answer_about(self, rest: list[str]) -> None:
        action = rest[0] if rest else ""
        if action.startswith("tree/"):
            folder = "/".join(action.split("/")[2:])
            inside = [each for each in self._entries() if _folder(each["path"]) == folder]
            self._send(200, inside)
        else:
            siblings = [{"rfilename": name} for name in self.server.files]
            self._send(200, {
                "id": "owner/set", "sha": COMMIT, "private": False, "disabled": False,
                "gated": "manual" if self.server.fault == "gated" else False,
                "downloads": 0, "likes": 0, "tags": [], "siblings": siblings,
            })  # fmt: skip

    def _entries(self) -> list[dict[str, object]]:
        """Files and folders, each by its path."""
        files = [
            {"type": "file", "path": name, "size": len(content), "oid": _etag(content)}
            for name, content in self.server.files.items()
        ]
        folders = {name.rpartition("/")[0] for name in self.server.files} - {""}
        return files + [
            {"type": "directory", "path": name, "oid": _etag(name.encode())} for name in folders
        ]

    def _send_file(self, name: str) -> None:
        if self.server.fault == "gated":
            self._send(401, {"error": "Access is restricted"}, {"X-Error-Code": "GatedRepo"})
        elif name in self.server.files:
            content = self.server.files[name]
            self._send(200, content, {"ETag": f'"{_etag(content)}"'})
        else:
            self._send(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})

    def _send(self, status: int, body: object, headers: Mapping[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Repo-Commit", COMMIT)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _folder(path: object) -> str:
    return str(path).rpartition("/")[0]


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextmanager
def hub_stand_in(files: Mapping[str, bytes], fault: str = "") -> Iterator[str]:
    """Serve files as every data set there is; yields the address for HF_ENDPOINT.

    Args:
        files: Contents by path in the repository.
        fault: "gated", "gone", "broken", "silent" or "" for none.
    """
    server = _Hub(files, fault)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
