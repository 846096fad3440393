"""Kernels of a class are forked: each is a kernel as any other, and ends with its launcher."""

import argparse
import errno
import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from actor_lens.cli import class_kernels
from actor_lens.errors import UserError
from tests.support.jupyter_server import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux only")


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    return tmp_path_factory.mktemp("of one user") / "run"


@pytest.fixture(scope="module")
def forker(runtime):
    """The process that is forked, started once; the last test ends it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "actor_lens", "class", "kernels"],
        env=os.environ | {"JUPYTER_RUNTIME_DIR": str(runtime), "OMP_NUM_THREADS": "2"},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process
        process.send_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def specifications(forker):
    words = shlex.split(forker.stdout.readline())
    (place,) = (word.partition("=")[2] for word in words if word.startswith("JUPYTER_PATH="))
    return KernelSpecManager(kernel_dirs=[f"{place}/kernels"])


def answer(client, code, timeout=60):
    """What a cell printed, or the name of its error."""
    said = []
    reply = client.execute_interactive(
        code,
        timeout=timeout,
        output_hook=lambda message: said.append(message["content"].get("text", "")),
    )["content"]
    return reply["ename"] if reply["status"] == "error" else "".join(said).strip()


@pytest.fixture
def start(specifications, tmp_path):
    """Start kernels, each with a client; they end with the test."""
    started = []

    def start_one():
        manager = KernelManager(kernel_spec_manager=specifications)
        manager.start_kernel(cwd=str(tmp_path), env=os.environ | {"OF_THE_CLASS": "7"})
        client = manager.client()
        client.start_channels()
        started.append((manager, client))
        client.wait_for_ready(timeout=60)
        return manager, client

    yield start_one
    for manager, client in started:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_a_forked_kernel_is_one_like_any_other(start, specifications, tmp_path):
    manager, client = start()
    there = "import os, sys; print(os.getcwd(), os.environ['OF_THE_CLASS'], 'torch' in sys.modules)"
    assert answer(client, there) == f"{tmp_path} 7 True"
    drawn = "import numpy, torch; print(numpy.random.rand(), torch.rand(1).item())"
    ours, theirs = answer(client, drawn).split(), answer(start()[1], drawn).split()
    assert set(ours).isdisjoint(theirs)
    metadata = specifications.get_kernel_spec("python3").metadata
    assert metadata == get_kernel_dict()["metadata"]

    asked = client.execute(
        "import subprocess; child = subprocess.Popen(['sleep', '600'])\n"
        "print('begun', flush=True)\n"
        "while True: pass",
        stop_on_error=False,  # else what follows at once may be aborted with it
    )
    while client.get_iopub_msg(timeout=60)["msg_type"] != "stream":
        pass
    manager.interrupt_kernel()
    reply = client.get_shell_msg(timeout=60)
    assert reply["parent_header"]["msg_id"] == asked
    assert reply["content"]["ename"] == "KeyboardInterrupt"
    assert answer(client, "print(child.wait(60))") == str(-signal.SIGINT)


def test_a_kernel_and_its_launcher_end_together(start):
    manager, client = start()
    kernel = psutil.Process(int(answer(client, "import os; print(os.getpid())")))
    os.kill(manager.provisioner.pid, signal.SIGKILL)
    wait_until(lambda: not kernel.is_running(), 30, "the kernel ends with its launcher")

    manager, client = start()
    os.kill(int(answer(client, "import os; print(os.getpid())")), signal.SIGKILL)
    wait_until(lambda: not manager.is_alive(), 30, "the launcher ends with its kernel")


def test_neither_threads_nor_a_gpu_are_in_use_when_kernels_are_forked(forker, start):
    """Either would be broken in a kernel, which is for the CPU."""
    settings = "os.environ['CUDA_VISIBLE_DEVICES'] == '', torch.get_num_threads()"
    assert answer(start()[1], f"import os, torch; print({settings})") == "True 1"
    tasks = Path(f"/proc/{forker.pid}/task").glob("*/comm")
    names = [task.read_text() for task in tasks]
    own = Path(f"/proc/{forker.pid}/comm").read_text()
    assert names.count(own) == 1  # threads of the libraries have its name, pyarrow's its own


# Without a beginning of its own about one fork in five fails here.
FORKS = """
import os, sys, threading
import torch
from actor_lens.cli.class_kernels import begin_anew

torch.set_num_threads(1)
torch.ones(300_000, device="cpu").double()  # the pool that forks must not use
for _ in range(40):
    if os.fork() == 0:
        begin_anew()
        together, wrong = threading.Barrier(24), []
        def work():
            together.wait()
            try:
                torch.ones(300_000, device="cpu").double()
            except RuntimeError as error:
                wrong.append(error)
        threads = [threading.Thread(target=work) for _ in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        os._exit(len(wrong))
    _, status = os.wait()
    assert status == 0
"""


def test_threads_of_a_fork_come_to_torch_at_once():
    subprocess.run([sys.executable, "-c", FORKS], check=True, timeout=300)


def test_a_second_process_is_refused_and_the_first_goes_on(start, runtime, monkeypatch):
    start()
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(runtime))
    with pytest.raises(UserError, match=r"kernels are forked already, at .*socket; end"):
        class_kernels.kernels(argparse.Namespace())
    _, client = start()
    assert answer(client, "import sys; print('torch' in sys.modules)") == "True"


def test_a_path_too_long_for_a_socket_is_an_error_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / ("long" * 30)))
    with pytest.raises(UserError, match=r"no socket .* short path in JUPYTER_RUNTIME_DIR"):
        class_kernels.kernels(argparse.Namespace())


def test_where_no_process_can_be_forked_the_next_launcher_is_heard(tmp_path, monkeypatch, capsys):
    forks = iter([OSError(errno.ENOMEM, "no memory"), 0])

    def fork():
        found = next(forks)
        if found:
            raise found
        return found

    monkeypatch.setattr(os, "fork", fork)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with (
        socket.socket(socket.AF_UNIX) as listener,
        socket.socket(socket.AF_UNIX) as first,
        socket.socket(socket.AF_UNIX) as second,
    ):
        class_kernels.claim(listener, tmp_path / "socket")
        first.connect(str(tmp_path / "socket"))
        second.connect(str(tmp_path / "socket"))
        with class_kernels.wait_for_fork(listener) as line:
            line.sendall(b"forked")
        assert (first.recv(6), second.recv(6)) == (b"", b"forked")
    assert "no memory" in "".join(capsys.readouterr())


def test_where_no_launcher_can_be_heard_it_is_said_and_the_next_is_forked(
    tmp_path, monkeypatch, capsys
):
    """As with too many open files, for as long as there are too many."""
    failing, waited, accept = iter(range(2)), [], socket.socket.accept

    def failing_at_first(listener):
        if next(failing, None) is not None:
            raise OSError(errno.EMFILE, "too many open files")
        return accept(listener)

    monkeypatch.setattr(socket.socket, "accept", failing_at_first)
    monkeypatch.setattr(class_kernels.time, "sleep", waited.append)
    monkeypatch.setattr(os, "fork", lambda: 0)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with (
        socket.socket(socket.AF_UNIX) as listener,
        socket.socket(socket.AF_UNIX) as launcher,
    ):
        class_kernels.claim(listener, tmp_path / "socket")
        launcher.connect(str(tmp_path / "socket"))
        with class_kernels.wait_for_fork(listener) as line:
            line.sendall(b"forked")
        assert launcher.recv(6) == b"forked"
    assert waited == [1, 1]
    assert "".join(capsys.readouterr()).count("too many open files") == 2


def test_kernels_go_on_without_the_forked_process_and_later_ones_are_their_own(forker, start):
    _, client = start()
    forker.send_signal(signal.SIGINT)
    forker.wait(timeout=60)
    assert answer(client, "print(6 * 7)") == "42"
    _, client = start()
    assert answer(client, "import sys; print('torch' in sys.modules)") == "False"
