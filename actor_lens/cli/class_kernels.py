"""The command ``class kernels``: kernels of a class that hold once what all of them need.

Most of a kernel's memory is what torch and other libraries set up when they are imported, alike in
each. Here one process imports them, and kernels are forked from it: what none of them changes is
in memory once. Jupyter starts a launcher in place of a kernel, which asks for one, passes signals
on to it and ends with it.

Kernels are those of one user on one Linux machine, and each computes with one thread.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path

from actor_lens.errors import UserError

_SHARED = (
    "ipykernel.kernelapp",
    "actor_lens.widgets.dashboard",
    "sklearn.linear_model",
    "sklearn.metrics",
)


def kernels(_arguments: argparse.Namespace) -> None:
    """Import everything, say how Jupyter finds it, and fork kernels until Ctrl-C.

    Raises:
        UserError: If this is not Linux.
    """
    if sys.platform != "linux":
        raise UserError("kernels are shared on Linux only; here each kernel takes its own memory")
    from jupyter_core.paths import jupyter_runtime_dir

    import_shared()
    folder = Path(jupyter_runtime_dir()) / "actor-lens-class"
    specification, place = folder / "kernels" / "python3", folder / "socket"
    specification.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    code = f"import sys; from {__name__} import launch; launch(*sys.argv[1:])"
    words = [sys.executable, "-c", code, str(place), "{connection_file}"]
    text = json.dumps({"argv": words, "display_name": "Python 3 (shared)", "language": "python"})
    (specification / "kernel.json").write_text(text, encoding="utf-8")
    place.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen()
        print(
            f"Now start Jupyter: JUPYTER_PATH={folder} jupyter lab", "Ctrl-C ends this.", sep="\n"
        )
        sys.stdout.flush()
        line = wait_for_fork(listener)
    run_kernel(line)


def import_shared() -> None:
    """Load what a session on the bundled model needs, without starting a thread."""
    import plotly.graph_objects
    import torch

    from actor_lens.models.chat_model import load_model
    from actor_lens.prompts.loading import load_prompts

    torch.set_num_threads(1)  # threads do not outlive a fork
    for name in _SHARED:
        importlib.import_module(name)
    _ = plotly.graph_objects.FigureWidget  # imported when it is first named
    load_model("toy")
    load_prompts("toy")
    gc.collect()
    gc.freeze()  # else the first collection would write to all of it


def wait_for_fork(listener: socket.socket) -> socket.socket:
    """Fork for each launcher that asks.

    Args:
        listener: Where launchers ask.

    Returns:
        In each fork, and never here: its line to the launcher.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system clears forks away that have ended
    while True:
        line, _ = listener.accept()
        if os.fork() == 0:
            return line
        line.close()


def run_kernel(line: socket.socket) -> None:
    """Be the kernel that a launcher asked for, until it or the launcher ends."""
    import numpy as np
    import torch
    from ipykernel.kernelapp import IPKernelApp

    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, streams, _, _ = socket.recv_fds(line, 1, 3)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    with line.makefile() as told:
        request = json.loads(told.readline())
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    line.sendall(str(os.getpid()).encode())
    np.random.seed()
    torch.seed()
    threading.Thread(target=_end_with, args=[line], daemon=True).start()
    IPKernelApp.launch_instance(argv=["-f", request["file"]])


def _end_with(line: socket.socket) -> None:
    line.recv(1)  # nothing is sent: the launcher has ended
    os.kill(os.getpid(), signal.SIGKILL)


def launch(place: str, connection_file: str) -> None:
    """Stand for a kernel, for Jupyter: pass signals on, and end when it does.

    Args:
        place: Path of the socket at which kernels are forked. Where nobody listens any more, this
            becomes a kernel of its own.
        connection_file: Path of Jupyter's file about the kernel.
    """
    with socket.socket(socket.AF_UNIX) as line:
        try:
            line.connect(place)
        except OSError:
            words = [sys.executable, "-m", "ipykernel_launcher", "-f", connection_file]
            os.execv(sys.executable, words)
        request = {"file": connection_file, "folder": os.getcwd(), "environment": {**os.environ}}
        socket.send_fds(line, [b"\0"], [0, 1, 2])
        line.sendall(json.dumps(request).encode() + b"\n")
        kernel = int(line.recv(20))
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _frame: os.kill(kernel, number))
        line.recv(1)
