"""Kernels of a class are forked: each is a kernel as any other, and ends with its launcher."""

import os
import re
import signal
import subprocess
import sys

import psutil
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from tests.support.jupyter_server import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux only")


@pytest.fixture
def specifications(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    process = subprocess.Popen(
        [sys.executable, "-m", "actor_lens", "class", "kernels"],
        env=os.environ | {"JUPYTER_RUNTIME_DIR": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process, process.stdout:
        place = re.search(r"JUPYTER_PATH=(\S+)", process.stdout.readline())[1]
        yield KernelSpecManager(kernel_dirs=[f"{place}/kernels"])
        process.send_signal(signal.SIGINT)


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


def test_a_forked_kernel_is_one_like_any_other(start, tmp_path):
    manager, client = start()
    there = "import os, sys; print(os.getcwd(), os.environ['OF_THE_CLASS'], 'torch' in sys.modules)"
    assert answer(client, there) == f"{tmp_path} 7 True"
    drawn = "import numpy, torch; print(numpy.random.rand(), torch.rand(1).item())"
    ours, theirs = answer(client, drawn).split(), answer(start()[1], drawn).split()
    assert set(ours).isdisjoint(theirs)

    kernel = psutil.Process(int(answer(client, "print(os.getpid())")))
    asked = client.execute("print('begun', flush=True)\nwhile True: pass")
    while client.get_iopub_msg(timeout=60)["msg_type"] != "stream":
        pass
    manager.interrupt_kernel()
    reply = client.get_shell_msg(timeout=60)
    assert reply["parent_header"]["msg_id"] == asked
    assert reply["content"]["ename"] == "KeyboardInterrupt"

    os.kill(manager.provisioner.pid, signal.SIGKILL)
    wait_until(lambda: not kernel.is_running(), 30, "the kernel ends with its launcher")
