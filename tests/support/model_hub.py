"""A model hub on loopback: a tiny model as real hubs serve it, and repositories that misbehave."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "maker/tiny"
# Repository to what the hub answers: status and error code.
REFUSED = {
    "maker/none": (404, "RepoNotFound"),
    "maker/broken": (500, ""),
}
# Its page is open to all, its files are not.
GATED = "maker/gated"
STALLING = "maker/stalling"


class _Hub(BaseHTTPRequestHandler):
    folder: Path
    over: threading.Event

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""

    def _answer(self, *, body: bool) -> None:
        path = self.path.split("?")[0].removeprefix("/api/models").strip("/")
        repository = "/".join(path.split("/")[:2])
        if repository == STALLING:
            self.over.wait(30)
            return
        if repository in REFUSED:
            self._refuse(*REFUSED[repository])
            return
        rest = path.split("/")[2:]
        revision = rest[1] if len(rest) > 1 else "main"
        if repository == GATED and rest[:1] == ["resolve"]:
            self._refuse(403, "GatedRepo")
        elif repository not in (REPOSITORY, GATED):
            self._refuse(404, "RepoNotFound")
        elif revision not in ("main", "v1", COMMIT):
            self._refuse(404, "RevisionNotFound")
        elif rest[:1] == ["resolve"]:
            self._send_file("/".join(rest[2:]), body=body)
        elif rest[:1] == ["tree"]:
            self._send(b"[]", body=body)  # of folders with more templates
        else:
            self._send_listing(body=body)

    def _send_listing(self, *, body: bool) -> None:
        names = [{"rfilename": path.name} for path in sorted(self.folder.iterdir())]
        listing = {"id": REPOSITORY, "modelId": REPOSITORY, "sha": COMMIT, "siblings": names}
        self._send(json.dumps(listing).encode(), body=body)

    def _send_file(self, name: str, *, body: bool) -> None:
        path = self.folder / name
        if not path.is_file():
            self._refuse(404, "EntryNotFound")
        else:
            self._send(path.read_bytes(), body=body)

    def _send(self, content: bytes, *, body: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()


@contextmanager
def model_hub(folder: Path) -> Iterator[str]:
    """The address of a hub that serves the model of a folder."""
    over = threading.Event()
    handler = type("Hub", (_Hub,), {"folder": folder, "over": over})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        over.set()
        server.shutdown()
        server.server_close()
        thread.join()
