"""A Ray cluster gives the outcomes of the local engine to the bit, also when workers are killed.

In a process of its own: Ray starts servers, which a test process should not keep.
"""

import json
import subprocess
import sys

import pytest

from actor_lens.errors import UserError
from actor_lens.experiments.sweep.layer_sweep import sweep_layers
from tests.support.tiny_models import tiny_chat_model
from tests.support.tiny_runs import tiny_prompts

pytest.importorskip("ray")
SCRIPT = """
import json, os, signal, sys, warnings
warnings.simplefilter("ignore")
import ray
import actor_lens as al
from actor_lens.experiments.sweep import workers as ray_engine
from actor_lens.training.config import FinetuneConfig

model, prompts = al.load_model(sys.argv[1]), al.load_prompts("toy")
train, validation, _ = prompts.by_split()
grid = dict(
    layers=[3, 6],
    alphas=[0.5, 1.0],
    settings=FinetuneConfig(layer=0, epochs=1),
    store=False,
)
train, validation = train.sample(6), validation.sample(20)
local = al.sweep_layers(model, train, validation, **grid)

marker = sys.argv[2]
real = ray_engine._on_worker

def dies_once(task, cell, *inputs):
    # The first try of one cell ends as if the machine had gone.
    if (cell.layer, cell.alpha) == (6, 1.0) and not os.path.exists(marker):
        open(marker, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return real(task, cell, *inputs)

ray_engine._on_worker = dies_once
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
spread = al.sweep_layers(model, train, validation, engine="ray", **grid)
ray.shutdown()

def told(sweep):
    return [[vars(o.cell), o.status, o.message, o.loss, dict(o.refused)] for o in sweep.outcomes]

same_weights = all(
    bool((spread.best.state[name] == tensor).all()) for name, tensor in local.best.state.items()
)
print(json.dumps({
    "local": told(local),
    "ray": told(spread),
    "same_weights": same_weights,
    "killed": os.path.exists(marker),
    "before": [dict(local.refused_before), dict(spread.refused_before)],
}))
"""


def test_two_workers_give_what_the_local_engine_gives(tmp_path):
    words = [sys.executable, "-c", SCRIPT, "toy", str(tmp_path / "killed")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["killed"]
    assert len(found["local"]) == 4
    assert found["ray"] == found["local"]
    assert found["same_weights"]
    assert found["before"][0] == found["before"][1]


def test_a_model_made_in_memory_cannot_be_loaded_by_workers():
    with pytest.raises(UserError, match="load it by name or folder"):
        sweep_layers(tiny_chat_model(), tiny_prompts(), engine="ray")
