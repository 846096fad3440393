"""The command ``class kernels``: kernels of a class that hold once what all of them need.

Most of a kernel's memory is what torch and other libraries set up when they are imported, alike in
each. Here one process imports them, and kernels are forked from it: what none of them changes is
in memory once. Jupyter starts a launcher in place of a kernel, which asks for one, passes signals
on to it and ends with it.

Kernels are those of one user on one Linux machine, and each computes on the CPU with one thread.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import shlex
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from actor_lens.cli.printing import warn
from actor_lens.errors import UserError
from actor_lens.text import one_line

_SHARED = (
    "ipykernel.kernelapp",
    "actor_lens.widgets.dashboard",
    "sklearn.linear_model",
    "sklearn.metrics",
)
# Neither threads nor a GPU in use outlive a fork: there are none before it, and none are waited for
# after it.
_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def kernels(_arguments: argparse.Namespace) -> None:
    """Import everything, say how Jupyter finds it, and fork kernels until Ctrl-C.

    Raises:
        UserError: If this is not Linux, kernels are forked already, or no socket can be made.
    """
    if sys.platform != "linux":
        raise UserError("kernels are shared on Linux only; here each kernel takes its own memory")
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_core.paths import jupyter_runtime_dir

    folder = Path(jupyter_runtime_dir()) / "actor-lens-class"
    specification, place = folder / "kernels" / "python3", folder / "socket"
    specification.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    code = f"import sys; from {__name__} import launch; launch(*sys.argv[1:])"
    words = [sys.executable, "-c", code, str(place), "{connection_file}"]
    ours = {**get_kernel_dict(), "argv": words, "display_name": "Python 3 (shared)"}
    # A shell that starts it in the background has it ignore Ctrl-C, and every kernel with it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with socket.socket(socket.AF_UNIX) as listener:
        claim(listener, place)
        (specification / "kernel.json").write_text(json.dumps(ours), encoding="utf-8")
        import_shared()
        print(f"Now start Jupyter: JUPYTER_PATH={shlex.quote(str(folder))} jupyter lab")
        print("Ctrl-C ends this.", flush=True)
        line = wait_for_fork(listener)
    run_kernel(line)


def claim(listener: socket.socket, place: Path) -> None:
    """Listen at a path where nobody else does.

    Args:
        listener: What is to listen.
        place: The path; a socket that was left behind there is replaced.

    Raises:
        UserError: If somebody answers there, or no socket can be made, as where the path is longer
            than 107 bytes.
    """
    try:
        with socket.socket(socket.AF_UNIX) as line:
            taken = line.connect_ex(str(place)) == 0
        if not taken:
            place.unlink(missing_ok=True)
            listener.bind(str(place))
            listener.listen()
    except OSError as error:
        raise UserError(
            f"no socket can be made at {one_line(place, 150)} ({one_line(error, 100)}); "
            "name a folder with a short path in JUPYTER_RUNTIME_DIR"
        ) from error
    if taken:
        raise UserError(
            f"kernels are forked already, at {one_line(place, 150)}; end that process first"
        )


def import_shared() -> None:
    """Load what a session on the bundled model needs.

    No GPU is asked for, and torch, numpy and tokenizers start no thread. One that remains, of
    pyarrow's allocator, only tidies up: kernels do without it.
    """
    os.environ.update(_ENVIRONMENT)
    import plotly.graph_objects
    import torch

    from actor_lens.models.chat_model import load_model
    from actor_lens.prompts.loading import load_prompts

    torch.set_num_threads(1)
    for name in _SHARED:
        importlib.import_module(name)
    _ = plotly.graph_objects.FigureWidget  # imported when it is first named
    load_model("toy", device="cpu")
    load_prompts("toy")
    gc.collect()
    gc.freeze()  # else the first collection would write to all of it


def wait_for_fork(listener: socket.socket) -> socket.socket:
    """Fork for each launcher that asks; where the system has no more to give, go on without.

    Args:
        listener: Where launchers ask.

    Returns:
        In each fork, and never here: its line to the launcher.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system clears forks away that have ended
    while True:
        try:
            line, _ = listener.accept()
        except OSError as error:  # as with too many open files
            warn(f"no launcher can be heard: {one_line(error, 100)}")
            time.sleep(1)
            continue
        try:
            if os.fork() == 0:
                return line
        except OSError as error:  # as with too little memory
            warn(f"no kernel could be forked: {one_line(error, 100)}")
        line.close()


def run_kernel(line: socket.socket) -> None:
    """Be the kernel that a launcher asked for, until it or the launcher ends."""
    from ipykernel.kernelapp import IPKernelApp

    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, streams, _, _ = socket.recv_fds(line, 1, 3)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    if not streams:
        return  # no launcher: another process looked whether somebody listens
    with line.makefile() as told:
        request = json.loads(told.readline())
    os.environ.clear()
    os.environ.update(request["environment"] | _ENVIRONMENT)
    os.chdir(request["folder"])
    line.sendall(str(os.getpid()).encode())
    begin_anew()
    threading.Thread(target=_end_with, args=[line], daemon=True).start()
    IPKernelApp.launch_instance(argv=["-f", request["file"]])


def begin_anew() -> None:
    """Give a fork random numbers and a pool of threads of its own.

    torch makes that pool at its next call, and fails where several threads come to it at once, as
    those that load a model do.
    """
    import numpy as np
    import torch

    np.random.seed()
    torch.seed()
    torch.set_num_threads(1)


def _end_with(line: socket.socket) -> None:
    line.recv(1)  # nothing is sent: the launcher has ended
    os.killpg(0, signal.SIGKILL)


def launch(place: str, connection_file: str) -> None:
    """Stand for a kernel, for Jupyter: pass signals on, and end when it does.

    Args:
        place: Path of the socket at which kernels are forked. Where none can be had any more, this
            becomes a kernel of its own.
        connection_file: Path of Jupyter's file about the kernel.
    """
    request = {"file": connection_file, "folder": os.getcwd(), "environment": {**os.environ}}
    with socket.socket(socket.AF_UNIX) as line:
        try:
            line.connect(place)
            socket.send_fds(line, [b"\0"], [0, 1, 2])
            line.sendall(json.dumps(request).encode() + b"\n")
            kernel = int(line.recv(20))
        except (OSError, ValueError):  # nobody listens, or nothing was said
            words = [sys.executable, "-m", "ipykernel_launcher", "-f", connection_file]
            os.execv(sys.executable, words)
        for number in (signal.SIGINT, signal.SIGTERM):  # for its children too
            signal.signal(number, lambda number, _frame: os.killpg(kernel, number))
        line.recv(1)
