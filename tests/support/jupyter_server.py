"""One Jupyter server for the browser tests, with nothing of the user's own settings.

It serves JupyterLab (``/doc``) and Notebook 7 (``/notebooks``) on a free port of this machine, and
asks nothing of the network: no news, no updates, no extension manager.
"""

from __future__ import annotations

import ast
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.error import URLError
from urllib.request import ProxyHandler, Request, build_opener

from jupyter_client.blocking.client import BlockingKernelClient

REPOSITORY = Path(__file__).parents[2]
# A proxy that the environment names is for other machines.
_OPEN = build_opener(ProxyHandler({})).open
_SECONDS_TO_START = 60


@dataclass(frozen=True)
class JupyterServer:
    """A running server: its address without a last slash, its token and its folders."""

    url: str
    token: str
    root: Path
    runtime: Path
    log: Path

    def ask(self, path: str, method: str = "GET") -> Any:
        """Call the server's REST interface; the answer, or None where it is empty."""
        request = Request(f"{self.url}/api/{path}", method=method)
        request.add_header("Authorization", f"token {self.token}")
        with _OPEN(request, timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def kernel_of(self, notebook: str) -> str:
        """The id of the kernel that a notebook runs on."""
        return self._session_of(notebook)["kernel"]["id"]

    def tell_kernel(self, notebook: str, what: Literal["interrupt", "restart"]) -> None:
        """Interrupt or restart a notebook's kernel."""
        self.ask(f"kernels/{self.kernel_of(notebook)}/{what}", "POST")

    def end_kernel(self, notebook: str) -> None:
        """End a notebook's kernel."""
        self.ask(f"sessions/{self._session_of(notebook)['id']}", "DELETE")

    def _session_of(self, notebook: str) -> dict[str, Any]:
        found = [one for one in self.ask("sessions") if one["path"] == notebook]
        assert found, f"{notebook} has no kernel"
        return found[0]

    def kernel_value(self, notebook: str, expression: str, seconds: float = 30) -> Any:
        """What an expression is in a notebook's kernel, which must be a plain Python value.

        The kernel is asked directly, not through the page, and answers when it is free.
        """
        client = BlockingKernelClient()
        client.load_connection_file(str(self.runtime / f"kernel-{self.kernel_of(notebook)}.json"))
        client.start_channels(iopub=False, stdin=False, hb=False, control=False)
        try:
            asked = client.execute(
                "", silent=True, user_expressions={"value": f"repr({expression})"}
            )
            reply = _reply_to(client, asked, seconds)
        finally:
            client.stop_channels()
        return _plain(expression, reply["content"]["user_expressions"]["value"])

    def last_lines(self, number: int = 40) -> str:
        """The end of the server's log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-number:])


@contextmanager
def jupyter_server(folder: Path) -> Iterator[JupyterServer]:
    """A server whose files all lie in a folder; its log stays there when it has ended."""
    for part in ("notebooks", "config/labconfig", "data", "runtime", "ipython"):
        (folder / part).mkdir(parents=True)
    token = secrets.token_hex(16)
    _write_settings(folder, token)
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyter_server"],
            cwd=folder,
            env=_environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield _started(process, folder, token, log)
    finally:
        _end(process)


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Look at a condition again and again; fail, saying what was waited for, after the time."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)


def _write_settings(folder: Path, token: str) -> None:
    news = "@jupyterlab/apputils-extension:notification"
    written = {
        "jupyter_server_config.json": {
            "ServerApp": {
                "ip": "127.0.0.1",
                "port": 0,  # any free one; the server writes down which
                "open_browser": False,
                "allow_root": True,
                "root_dir": str(folder / "notebooks"),
                "jpserver_extensions": {"jupyterlab": True, "notebook": True},
            },
            "IdentityProvider": {"token": token},
            "LabApp": {
                "expose_app_in_browser": True,
                "news_url": None,
                "check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
                "extension_manager": "readonly",
            },
            "JupyterNotebookApp": {"expose_app_in_browser": True},
        },
        "labconfig/default_setting_overrides.json": {
            news: {"fetchNews": "false", "checkForUpdates": False}
        },
    }
    for name, settings in written.items():
        (folder / "config" / name).write_text(json.dumps(settings), encoding="utf-8")


def _environment(folder: Path) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JUPYTER", "IPYTHON"))
    }
    path = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    return kept | {
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "IPYTHONDIR": str(folder / "ipython"),
        "PYTHONPATH": os.pathsep.join(path),
        "HF_HUB_OFFLINE": "1",
        "ACTOR_LENS_STORE": "off",
    }


def _started(
    process: subprocess.Popen[bytes], folder: Path, token: str, log: Path
) -> JupyterServer:
    """The server once it answers."""
    note = folder / "runtime" / f"jpserver-{process.pid}.json"
    found: list[JupyterServer] = []

    def answers() -> bool:
        assert process.poll() is None, f"the Jupyter server ended:\n{log.read_text()}"
        try:
            url = json.loads(note.read_text())["url"].rstrip("/")
            server = JupyterServer(url, token, folder / "notebooks", folder / "runtime", log)
            server.ask("status")
        except (FileNotFoundError, json.JSONDecodeError, URLError):
            return False
        found.append(server)
        return True

    wait_until(answers, _SECONDS_TO_START, "an answer of the Jupyter server")
    return found[0]


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server, which ends its kernels."""
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _reply_to(client: BlockingKernelClient, asked: str, seconds: float) -> dict[str, Any]:
    # The channel is read as it is: the client's own reading starts an event loop, and one runs
    # already in the thread that Playwright is used from.
    until = time.monotonic() + seconds
    while True:
        reply = client.shell_channel.get_msg(timeout=max(0.0, until - time.monotonic()))
        if reply["parent_header"].get("msg_id") == asked:
            return reply


def _plain(expression: str, answer: dict[str, Any]) -> Any:
    """The value that a kernel's answer spells out."""
    if answer["status"] != "ok":
        raise AssertionError(f"{expression}: {answer['ename']}: {answer['evalue']}")
    text = ast.literal_eval(answer["data"]["text/plain"])
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError) as error:
        raise AssertionError(f"{expression} is no plain value but {text}") from error
