"""What threads cost beside other programs: ``python -m tests.benchmarks.threads``.

The bundled model is trained and evaluated in fresh processes, with the default number of threads
and with fixed ones, alone and beside one and two programs that never rest. A ratio is the time with
the default over that with the best fixed number.
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
import time
import actor_lens as al
model, prompts = al.load_model("toy"), al.load_prompts("toy")
train, validation, _ = prompts.by_split()
tokens = al.refusal_tokens(model, validation)
start = time.perf_counter()
run = al.finetune_layer(model, train.sample(60), layer=4)
trained = time.perf_counter()
with run.applied_to(model):
    al.evaluate(model, validation, tokens=tokens)
print(trained - start, time.perf_counter() - trained)
"""


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


def seconds(threads: int) -> list[float]:
    """Seconds of training and of evaluating; 0 threads are the default."""
    environment = {**os.environ, "ACTOR_LENS_STORE": "off"}
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY"):
        environment.pop(name, None)
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    ran = subprocess.run(
        [sys.executable, "-c", WORK],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [float(word) for word in ran.stdout.split()]


def main() -> None:
    """Measure and print one JSON record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    choices = (0, *range(1, (os.cpu_count() or 1) + 1))
    record: dict[str, object] = {"cores": os.cpu_count()}
    for others in (0, 1, 2):
        with busy(others):
            # In turns, so that what else the machine does meets all choices alike.
            took = [{threads: seconds(threads) for threads in choices} for _ in range(rounds)]
        for place, work in enumerate(("training", "evaluation")):
            medians = {
                threads: statistics.median(one[threads][place] for one in took)
                for threads in choices
            }
            best = min(medians[threads] for threads in choices[1:])
            record[f"{work} beside {others}"] = {
                "seconds_by_threads": {
                    threads or "default": medians[threads] for threads in choices
                },
                "ratio": medians[0] / best,
            }
    sys.stdout.write(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
