"""A default dtype or device that the user has set changes nothing: the same bits come out.

No tensor on the device ``meta`` holds numbers, so a default of that kind is felt wherever a tensor
is made without saying where.
"""

import ast
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import actor_lens
from actor_lens.activations.residuals import collect_residuals
from actor_lens.directions.projections import project, token_projections
from actor_lens.directions.refusal_directions import refusal_directions
from actor_lens.evaluation.evaluate import evaluate
from actor_lens.methods.lora_sft import lora_trainee
from actor_lens.methods.loreft import Edit
from actor_lens.models.chat_model import load_model
from actor_lens.models.replies import first_token_logits
from tests.support.tiny_models import tiny_chat_model
from tests.support.tiny_runs import quick_run, same_bits, tiny_prompts


@contextmanager
def default(dtype=torch.float32, device="cpu"):
    torch.set_default_dtype(dtype)
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


OTHERS = [
    {"dtype": torch.float64},
    {"dtype": torch.bfloat16},
    {"device": "meta"},
]
each_default = pytest.mark.parametrize("other", OTHERS, ids=str)


@pytest.fixture(scope="module")
def model():
    return tiny_chat_model()


def stages(model):
    """Tensors and tables of the stages, each by its name."""
    prompts = tiny_prompts(4)
    residuals = collect_residuals(model, prompts, store=False)
    directions = refusal_directions(residuals)
    run = quick_run(model, prompts, epochs=1)
    tensors = {
        "residuals": residuals.values,
        "logits": first_token_logits(model, prompts.texts),
        **run.state,
    }
    tables = {
        "directions": directions.frame(),
        "projections": project(residuals, directions).frame(),
        "tokens": token_projections(model, "Say hi", directions).frame(),
        "history": run.frame().drop(columns="seconds"),
        "replies": evaluate(model, prompts[:3], new_tokens=4).frame(),
    }
    return tensors, tables


@pytest.fixture(scope="module")
def expected(model):
    return stages(model)


@each_default
def test_the_stages_give_the_same_bits(other, model, expected):
    with default(**other):
        tensors, tables = stages(model)
    assert same_bits(tensors, expected[0])
    for name, table in tables.items():
        assert table.equals(expected[1][name]), name


@each_default
def test_a_model_is_loaded_the_same(other):
    with default(**other):
        loaded = load_model("toy", device="cpu")
    assert same_bits(loaded.hf.state_dict(), load_model("toy", device="cpu").hf.state_dict())


def adapters(model):
    torch.manual_seed(0)
    trained = lora_trainee(model, rank=2, scale=4.0, seed=0).parameters
    torch.manual_seed(0)
    edits = Edit(model.d_model, 2).parameters()
    return {str(index): tensor for index, tensor in enumerate([*trained, *edits])}


@each_default
def test_trained_parts_begin_the_same(other, model):
    with default(**other):
        made = adapters(model)
    assert same_bits(made, adapters(model))


MADE = {"zeros", "ones", "empty", "full", "tensor", "arange", "randn", "randint", "randperm"}
OF_FLOATS = {"zeros", "ones", "empty", "randn"}


def vague_calls(path):
    """Lines that make a tensor without saying where, or, of floats, of which kind."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("torch."):
            name = ast.unparse(node.func).removeprefix("torch.")
            told = {keyword.arg for keyword in node.keywords}
            if name in MADE and "device" not in told:
                yield node.lineno
            if name in OF_FLOATS and "dtype" not in told:
                yield node.lineno


def test_every_tensor_says_of_which_kind_it_is_and_where():
    package = Path(actor_lens.__file__).parent
    paths = [path for path in package.rglob("*.py") if path.parent.name != "toy"]
    vague = {str(path.relative_to(package)): list(vague_calls(path)) for path in paths}
    assert {path: lines for path, lines in vague.items() if lines} == {}
