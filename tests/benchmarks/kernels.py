"""Memory of a class on one server: ``python -m tests.benchmarks.kernels``.

Kernels are started beside one another, and each opens the dashboard on the bundled model, as a
learner does; with ``--shared`` they are forked from one process, as ``actor-lens class kernels``
does. ``private`` is what one more kernel takes: pages that it shares with no other process.
``proportional`` counts shared pages too, divided by the number of processes that have them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

OPEN = """
import os
import actor_lens as al
from actor_lens import widgets
widgets.Dashboard(al.load_model("toy"), al.load_prompts("toy"), per_label=20)
print(os.getpid())
"""


def memory(pid: int) -> dict[str, int]:
    """Memory of a process in bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()[1:]
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    found = {
        "private": kilobytes["Private_Clean"] + kilobytes["Private_Dirty"],
        "proportional": kilobytes["Pss"],
        "resident": kilobytes["Rss"],
    }
    return {name: 1024 * size for name, size in found.items()}


@contextmanager
def forking() -> Iterator[KernelSpecManager]:
    """``actor-lens class kernels``, and the specification of its kernels."""
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "-m", "actor_lens", "class", "kernels"],
            env={**os.environ, "JUPYTER_RUNTIME_DIR": folder},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        with process, process.stdout:
            found = re.search(r"JUPYTER_PATH=(\S+)", process.stdout.readline())
            assert found is not None
            print("the process that is forked:", memory(process.pid))  # noqa: T201
            try:
                yield KernelSpecManager(kernel_dirs=[f"{found[1]}/kernels"])
            finally:
                process.send_signal(signal.SIGINT)


def start(specifications: KernelSpecManager | None) -> tuple[KernelManager, list[int]]:
    """A kernel with the dashboard open, and the processes that it consists of."""
    manager = KernelManager(**({"kernel_spec_manager": specifications} if specifications else {}))
    manager.start_kernel(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=120)
    said: list[str] = []

    def hear(message: dict[str, Any]) -> None:
        if message["msg_type"] == "stream":
            said.append(message["content"]["text"])

    reply = client.execute_interactive(OPEN, timeout=600, output_hook=hear)
    assert reply["content"]["status"] == "ok", reply["content"]
    client.stop_channels()
    own = int("".join(said).split()[-1])
    return manager, list({own, manager.provisioner.pid})


def measure(kernels: int, specifications: KernelSpecManager | None) -> dict[str, int]:
    """Start so many kernels; the median memory of one, in MB."""
    started = []
    try:
        started.extend(start(specifications) for _ in range(kernels))
        found = [[memory(pid) for pid in pids] for _, pids in started]
    finally:
        for manager, _ in started:
            manager.shutdown_kernel(now=True)
    return {
        name: round(statistics.median(sum(one[name] for one in own) for own in found) / 1e6)
        for name in found[0][0]
    }


def main() -> None:
    """Measure and print one JSON record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernels", type=int, default=4)
    parser.add_argument("--shared", action="store_true")
    words = parser.parse_args()
    with forking() if words.shared else nullcontext() as specifications:
        found = measure(words.kernels, specifications)
    print(json.dumps({**vars(words), **found}))  # noqa: T201


if __name__ == "__main__":
    main()
