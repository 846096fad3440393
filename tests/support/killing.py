"""Kill an operation at random moments, let it go on, and compare with one that was left alone.

Run as a program, because it forks: ``python -m tests.support.killing OPERATION KILLS SEED``, with a
model's folder after that for another than a tiny one. Each trial starts the operation in a child
process, kills it with SIGKILL at a random moment of its usual run, looks at what is left, and then
runs it to its end in another child. What is printed is one JSON object a trial: at what share of
the usual time it was killed, whether it was still running then, whether anything wrong was left,
whether anything complete was lost, how much of the work was found done, and whether the result is
that of the run that was left alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # a fork has none of its parent's threads
os.environ["ACTOR_LENS_STORE"] = "off"

import torch

from actor_lens.activations.residuals import collect_activations, collect_residuals
from actor_lens.activations.store import Store
from actor_lens.directions.layer_scores import score_layers
from actor_lens.directions.projections import project
from actor_lens.directions.refusal_directions import refusal_directions
from actor_lens.errors import UserError
from actor_lens.evaluation.evaluate import evaluate
from actor_lens.experiments.comparison.compare import compare as compare_methods
from actor_lens.experiments.sweep.layer_sweep import sweep_layers
from actor_lens.judges.first_token import RefusalTokens
from actor_lens.models.chat_model import load_model
from actor_lens.training.config import FinetuneConfig
from actor_lens.training.finetuning import finetune_layer
from actor_lens.training.run import TrainingRun
from tests.support.planted_methods import JUDGE, Planted
from tests.support.studies import planted_prompts
from tests.support.tiny_models import tiny_chat_model
from tests.support.tiny_runs import tiny_prompts

TOKENS = RefusalTokens(tuple(range(0, 300, 2)), ("",) * 150)
REAL = sys.argv[4] if len(sys.argv) > 4 else None
PROMPTS, HELD_OUT = tiny_prompts(6 if REAL else 40), tiny_prompts(6, offset=90)
MODEL = tiny_chat_model() if REAL is None else load_model(REAL)
_ = MODEL.bridge


def collect(folder: Path) -> str:
    """Residuals and the inputs of every block, four prompts at a time."""
    found = collect_activations(
        MODEL.with_batch_size(4), PROMPTS, block_inputs=range(4), store=Store(folder / "store")
    )
    assert found.residuals is not None
    inputs = [one for layer in range(4) for one in found.block_inputs[layer].hidden_states]
    return _hash([found.residuals.values, *inputs])


def train(folder: Path) -> str:
    """A fine-tune that saves itself at the end of every epoch."""
    settings = {"layer": 1, "epochs": 12, "batch_size": 8, "checkpoint_seconds": 0.0}

    def keep(run: TrainingRun) -> None:
        run.save(folder / "run")

    resume = _resumable(folder / "run")
    run = finetune_layer(MODEL, PROMPTS, **settings, resume=resume, store=False, on_checkpoint=keep)
    run.save(folder / "run")
    return _hash([run.state[name] for name in sorted(run.state)])


def sweep(folder: Path) -> str:
    """Every layer with two alphas."""
    result = sweep_layers(
        MODEL,
        PROMPTS,
        HELD_OUT,
        alphas=[0.5, 1.0],
        settings=FinetuneConfig(layer=0, epochs=1, batch_size=8),
        tokens=TOKENS,
        folder=folder / "sweep",
        store=Store(folder / "store"),
    )
    losses = torch.tensor([outcome.loss for outcome in result.outcomes])
    return _hash([losses, *(result.best.state[name] for name in sorted(result.best.state))])


def save(folder: Path) -> str:
    """A run written again and again over an older one; what is read is one of the two, whole."""
    runs = [finetune_layer(MODEL, PROMPTS, layer=1, epochs=n, store=False) for n in (1, 2)]
    for _ in range(30):
        for run in runs:
            run.save(folder / "run")
    return _saved(folder)


def compare(folder: Path) -> str:
    """Three methods with two seeds each; costs, which differ every time, are left out."""
    methods = [Planted(f"method-{n}", {"harmful": 0.2 * n}) for n in range(3)]
    board = compare_methods(
        *(MODEL, planted_prompts(3), methods),
        **{"seeds": (0, 1), "judge": JUDGE, "new_tokens": 1, "out": folder / "board"},
    )
    return hashlib.sha256(board.replies().to_csv().encode()).hexdigest()


def layers(folder: Path) -> str:
    """Scores of every layer, with every prompt moved to its target; four prompts at a time."""
    model, store = MODEL.with_batch_size(4), Store(folder / "store")
    fitted = refusal_directions(collect_residuals(model, PROMPTS, store=store))
    projections = project(collect_residuals(model, HELD_OUT, store=store), fitted)
    scores = score_layers(projections, model=model, tokens=TOKENS, rounds=5, store=store)
    return hashlib.sha256(scores.frame().round(9).to_csv().encode()).hexdigest()


def evaluation(folder: Path) -> str:
    """Replies and their verdicts; two prompts at a time."""
    done = evaluate(
        MODEL.with_batch_size(2),
        PROMPTS[:18],
        tokens=TOKENS,
        new_tokens=16,
        store=Store(folder / "store"),
    )
    scores = done.frame().round(4)
    return hashlib.sha256(scores.to_csv().encode()).hexdigest()


OPERATIONS: dict[str, Callable[[Path], str]] = {
    operation.__name__: operation
    for operation in (collect, layers, train, sweep, save, compare, evaluation)
}


def _resumable(folder: Path) -> TrainingRun | None:
    try:
        return TrainingRun.load(folder)
    except UserError as error:
        if "no run.json there" in str(error):  # nothing was saved yet
            return None
        raise


def _saved(folder: Path) -> str:
    run = TrainingRun.load(folder / "run")
    return _hash([run.state[name] for name in sorted(run.state)])


def _hash(tensors: list[torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def in_child(operation: Callable[[Path], str], folder: Path, kill_after: float | None) -> str:
    """Run an operation in a fork; its result, or an empty string where it was killed."""
    answer = folder / "answer"
    answer.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        try:
            text = operation(folder)
        except BaseException as error:
            text = f"error: {type(error).__name__}: {error}"
        answer.write_text(text, encoding="utf-8")
        os._exit(0)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return answer.read_text(encoding="utf-8") if answer.exists() else ""


def state_of(folder: Path) -> dict[str, object]:
    """What a killed operation left: faults, and what is complete."""
    entries = Store(folder / "store").verify()
    notes = folder / "sweep" / "sweep.jsonl"
    lines = notes.read_bytes().split(b"\n")[:-1] if notes.exists() else []
    board = folder / "board" / "outcomes.jsonl"
    finished = board.read_bytes().split(b"\n")[1:-1] if board.exists() else []
    return {
        "faults": [entry.fault for entry in entries if entry.fault],
        "entries": sorted(entry.key for entry in entries if entry.complete),
        "outcomes": len([line for line in lines if line.startswith(b'{"cell"')]) + len(finished),
    }


def _files(folder: Path) -> dict[str, str]:
    paths = (folder / "store").glob("*/array.bin") if (folder / "store").is_dir() else ()
    return {
        path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
        if not path.parent.name.endswith(".partial")
    }


def main() -> None:
    """Kill an operation so and so often."""
    name, kills, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    operation, moments = OPERATIONS[name], random.Random(seed)
    with tempfile.TemporaryDirectory() as place:
        alone = Path(place) / "alone"
        alone.mkdir()
        started = time.perf_counter()
        expected = in_child(operation, alone, None)
        assert not expected.startswith("error"), expected
        usual = time.perf_counter() - started
        for number in range(kills):
            folder = Path(place) / str(number)
            folder.mkdir()
            share = moments.random()
            killed = in_child(operation, folder, share * usual) == ""
            left, files = state_of(folder), _files(folder)
            result = in_child(operation, folder, None)
            after = _files(folder)
            sys.stdout.write(
                json.dumps(
                    {
                        "share": round(share, 3),
                        "killed": killed,
                        "faults": left["faults"],
                        "lost": [key for key, found in files.items() if after.get(key) != found],
                        "complete_entries": len(files),
                        "outcomes_noted": left["outcomes"],
                        "right": result == expected,
                        "said": result if result.startswith("error") else "",
                    }
                )
                + "\n"
            )
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
