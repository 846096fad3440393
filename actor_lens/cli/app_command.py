"""The command ``app``: the dashboard alone in a browser, full screen, without a notebook to write.

JupyterLab serves it from a temporary folder, on this machine only and behind a token, as it serves
notebooks: a kernel holds the model, so a page that is reloaded shows the same dashboard. What is
saved there goes into the folder that the command was called in.

Ctrl-C ends it, and what was not saved is lost.

Examples:
    actor-lens app
    actor-lens app --model smollm2-cautious --per-label 20
    actor-lens app --run runs/a --no-browser
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import tempfile
from typing import TYPE_CHECKING, Any

from actor_lens.cli.arguments import add_command, add_count, add_flags, add_inputs
from actor_lens.cli.inputs import load_model_and_prompts, load_run, open_progress
from actor_lens.errors import UserError

if TYPE_CHECKING:
    from actor_lens.widgets import Dashboard

_NAME, _WIDGET = "dashboard.ipynb", "application/vnd.jupyter.widget-view+json"
# The dashboard alone: over the rest of JupyterLab's page, whose layout would clip it.
_STYLE = """<style>
#main, #main :has(.actor-lens) { contain: none !important; }
#jp-top-panel, #jp-menu-panel, #jp-bottom-panel, .jp-SideBar, .jp-Toolbar, .Toastify {
  display: none !important;
}
.jp-OutputArea-output:has(> .actor-lens) {
  position: fixed !important; inset: 0; z-index: 1000; overflow: auto !important;
  padding: 8px 16px !important; background: var(--jp-layout-color0);
}
</style>"""


def add_commands(commands: Any) -> None:
    """Register ``app``."""
    text = "open the dashboard alone in a browser, on any model"
    parser = add_command(commands, "app", app, text)
    add_inputs(parser, seed=None)
    add_flags(parser, "--run")
    add_flags(parser, "--layer", help="block to begin with; default: auto, the recommended one")
    add_flags(parser, "--per-label")
    add_count(parser, "--port", 0, "port to serve at, 0 for a free one")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    parser.set_defaults(json=False, quiet=False)


def app(arguments: argparse.Namespace) -> None:
    """Serve the dashboard until Ctrl-C.

    Raises:
        UserError: If the model, the prompts or the run cannot be used, or the port is taken.
    """
    if arguments.run is not None:
        load_run(arguments.run)  # before a server and a kernel are started
    with tempfile.TemporaryDirectory(prefix="actor-lens-app-") as folder:
        server = _start_server(folder, arguments.port)
        try:
            address = server.io_loop.run_sync(lambda: _show_dashboard(server, vars(arguments)))
            print(f"Dashboard: {address}", "Ctrl-C ends it.", sep="\n", flush=True)
            server.open_browser = not arguments.no_browser
            # An exception would arrive in any task, and again in the cleanup if that awaits it.
            wake = server.io_loop.asyncio_loop.call_soon_threadsafe
            signal.signal(signal.SIGINT, lambda *_: wake(server.io_loop.stop))
            server.start()
            signal.signal(signal.SIGINT, signal.default_int_handler)
        finally:
            server.io_loop.run_sync(server._cleanup)


def make_dashboard(settings: dict[str, Any]) -> Dashboard:
    """Load what the command line named, in the kernel.

    Args:
        settings: Values of the flags of ``app``.

    Raises:
        UserError: If the model, the prompts or the run cannot be used.
    """
    from actor_lens.widgets import Dashboard

    arguments = argparse.Namespace(**settings)
    with open_progress(arguments):
        run = None if arguments.run is None else load_run(arguments.run)
        model, prompts, _ = load_model_and_prompts(arguments, run)
        return Dashboard(
            model,
            prompts,
            layer=arguments.layer,
            per_label=arguments.per_label,
            run=run,
            seed=arguments.seed,
        )


def _start_server(folder: str, port: int) -> Any:
    """JupyterLab's server on this machine, without its questions and news; it serves a folder.

    Raises:
        UserError: If the port is taken.
    """
    import zmq
    from jupyterlab.labapp import LabApp

    try:
        socket.create_server(("127.0.0.1", port)).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"port {port} cannot be used; give another with --port") from error
    settings: dict[str, dict[str, Any]] = {
        "ServerApp": {
            "ip": "127.0.0.1",
            "port": port,
            "port_retries": 0,
            "root_dir": folder,
            "open_browser": False,
            "allow_root": True,  # as in containers
            "log_level": "CRITICAL",
        },
        # Else the kernel warns that others on this machine could listen.
        "KernelManager": {"transport_encryption": "auto" if zmq.has("curve") else "disabled"},
        "LabApp": {
            "log_level": "CRITICAL",
            "news_url": None,
            "check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
            "extension_manager": "readonly",
            "workspaces_dir": os.path.join(folder, ".workspaces"),
        },
    }
    words = [
        f"--{name}.{key}={value}" for name, of in settings.items() for key, value in of.items()
    ]
    server = LabApp.initialize_server(words)
    # The browser opens this file, which leads on: words of its command line are for all to see.
    server.browser_open_file = os.path.join(folder, ".open.html")
    server.default_url = f"{server.base_url}doc/tree/{_NAME}"
    server.log.setLevel(sys.maxsize)  # the address is printed when something is to be seen there
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Jupyter would ask whether to end
    return server


async def _show_dashboard(server: Any, settings: dict[str, Any]) -> str:
    """Make the dashboard in a kernel of the server, and a notebook that shows it.

    Args:
        server: The server.
        settings: Values of the flags of ``app``.

    Returns:
        The address of the page.

    Raises:
        UserError: If the kernel raised one.
    """
    import nbformat
    from nbformat import v4 as notebooks

    session = await server.session_manager.create_session(
        path=_NAME, name=_NAME, type="notebook", kernel_name="python3"
    )
    client = server.kernel_manager.get_kernel(session["kernel"]["id"]).client()
    client.start_channels()
    await client.wait_for_ready()
    plain = {name: value for name, value in settings.items() if not callable(value)}
    code = (
        f"import os\nos.chdir({os.getcwd()!r})\n"
        "from actor_lens.cli.app_command import make_dashboard\n"
        f"dashboard = make_dashboard({plain!r})\ndashboard"
    )
    shown = [notebooks.new_output("display_data", {"text/html": _STYLE})]

    def hear(message: dict[str, Any]) -> None:
        if message["msg_type"] == "stream":  # progress and warnings
            sys.stderr.write(message["content"]["text"])
        elif _WIDGET in message["content"].get("data", ()):
            shown.append(notebooks.output_from_msg(message))

    reply = await client.execute_interactive(code, output_hook=hear, allow_stdin=False)
    client.stop_channels()
    answer = reply["content"]
    if answer["status"] != "ok":
        name = "" if answer["ename"] == "UserError" else f"{answer['ename']}: "
        raise UserError(f"{name}{answer['evalue']}")
    notebook = notebooks.new_notebook(cells=[notebooks.new_code_cell(code, outputs=shown)])
    server.contents_manager.notary.sign(notebook)
    nbformat.write(notebook, os.path.join(server.root_dir, _NAME))
    return f"{server.connection_url}doc/tree/{_NAME}?token={server.identity_provider.token}"
