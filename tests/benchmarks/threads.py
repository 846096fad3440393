"""What threads cost, alone and beside other programs: ``python -m tests.benchmarks.threads``.

A layer of ``--model`` is trained and prompts are read in fresh processes, with the default and with
other numbers of threads and ways of waiting, alone and beside one and two programs that never rest.
A ratio is the time with the default over that with the best fixed number. Prompts are read in the
main thread, and then in another one, with and without its helpers given back before.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

WORK = """
import sys, threading, time
import actor_lens as al
from actor_lens.models.threads import give_back_threads
model = al.load_model(sys.argv[1])
prompts = al.load_prompts("toy" if sys.argv[1] == "toy" else "starter,twins")
train = prompts.by_split()[0].sample(int(sys.argv[2]))

def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start

def read():
    al.collect_residuals(model, train, store=False)

def train_layer():
    layer = 3 * model.n_layers // 4
    al.finetune_layer(model, train, layer=layer, epochs=4, store=False)

def read_beside():
    thread = threading.Thread(target=read)
    thread.start()
    thread.join()

read()
measured = [seconds(work) for work in (train_layer, read, read_beside)]
give_back_threads()
print(*measured, seconds(read_beside))
"""
MEASURES = ("training", "reading", "reading in a thread", "the same, threads given back")
# Environments by name: 300,000 turns are what libgomp takes where it is told nothing.
WAITS = {
    "never spin": {"OMP_WAIT_POLICY": "PASSIVE"},
    "libgomp's own": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "300000"},
}


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many other programs that never rest."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def seconds(settings: dict[str, str], model: str, per_label: int) -> list[float]:
    """Seconds of each measure with an environment."""
    environment = {**os.environ, "ACTOR_LENS_STORE": "off"}
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        environment.pop(name, None)
    ran = subprocess.run(
        [sys.executable, "-c", WORK, model, str(per_label)],
        env=environment | settings,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [float(word) for word in ran.stdout.split()]


def main() -> None:
    """Measure and print one JSON record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="toy")
    parser.add_argument("--per-label", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--others", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    numbers = [str(number) for number in range(1, (os.cpu_count() or 1) + 1)]
    choices = {"default": {}, **{one: {"OMP_NUM_THREADS": one} for one in numbers}, **WAITS}
    record: dict[str, object] = {"cores": os.cpu_count()}
    for others in arguments.others:
        with busy(others):
            # In turns, so that what else the machine does meets all choices alike.
            took = [
                {
                    name: seconds(settings, arguments.model, arguments.per_label)
                    for name, settings in choices.items()
                }
                for _ in range(arguments.rounds)
            ]
        for place, measure in enumerate(MEASURES):
            medians = {
                name: statistics.median(one[name][place] for one in took) for name in choices
            }
            record[f"{measure} beside {others}"] = {
                "seconds": medians,
                "ratio": medians["default"] / min(medians[one] for one in numbers),
            }
    sys.stdout.write(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
