"""SIGKILL at any moment: the next run goes on, reads nothing wrong and loses nothing complete.

It ends bit for bit where a run that was left alone ends. (``python -m tests.support.killing`` kills
more often.)
"""

import json
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "operation", ["collect", "train", "sweep", "save", "compare", "evaluation"]
)
def test_a_killed_run_is_resumed_to_the_same_result(operation):
    words = [sys.executable, "-m", "tests.support.killing", operation, "4", "1"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    trials = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(trials) == 4
    assert any(trial["killed"] for trial in trials)
    for trial in trials:
        assert trial["right"], trial
        assert trial["faults"] == []
        assert trial["lost"] == []
