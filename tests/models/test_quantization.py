"""Quantised weights are looked into and evaluated as Hugging Face runs them, and are not trained.

bitsandbytes runs on the CPU here: the same layers, the same packed tensors as on a GPU.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import actor_lens as al
from actor_lens.diagnostics.description import describe
from actor_lens.models.replies import generate_replies
from tests.support.tiny_runs import quick_run, tiny_prompts

bitsandbytes = pytest.importorskip("bitsandbytes")
KINDS = {"4bit": bitsandbytes.nn.Linear4bit, "8bit": bitsandbytes.nn.Linear8bitLt}
each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def quantized():
    return {kind: al.load_model("toy", quantization=kind) for kind in KINDS}


@each_kind
def test_the_blocks_are_quantized_and_the_rest_is_not(kind, quantized):
    model = quantized[kind]
    layers = [module for module in model.blocks.modules() if isinstance(module, torch.nn.Linear)]
    assert layers
    assert {type(layer) for layer in layers} == {KINDS[kind]}
    assert all(layer.weight.dtype in (torch.uint8, torch.int8) for layer in layers)
    assert model.hf.get_input_embeddings().weight.dtype == torch.float32
    assert model.quantization == model.source["quantization"] == kind
    full = al.load_model("toy")
    assert full.quantization is None
    assert model.fingerprint != full.fingerprint


@each_kind
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_residuals_are_those_of_hugging_face(kind, dtype):
    found = describe(al.load_model("toy", quantization=kind, dtype=dtype))
    assert found.supported
    assert {check.name: check.passed for check in found.checks} == {
        "residuals": True,
        "padding": True,
        "training": None,
    }
    assert found.memory.train is None


@each_kind
def test_weights_are_close_to_the_full_ones(kind, quantized):
    prompts = tiny_prompts()
    full = al.collect_residuals(al.load_model("toy"), prompts, store=False).values
    found = al.collect_residuals(quantized[kind], prompts, store=False).values
    apart = (found - full).norm(dim=-1) / full.norm(dim=-1)
    assert 1e-4 < float(apart.mean()) < 0.2


@each_kind
def test_running_it_changes_no_identity_and_the_twin_and_the_model_may_take_turns(kind, quantized):
    model = quantized[kind]
    identity = model.identity
    replies = generate_replies(model, ["How do I kill a process?"], new_tokens=8)
    al.collect_residuals(model, tiny_prompts(), store=False)
    assert generate_replies(model, ["How do I kill a process?"], new_tokens=8) == replies
    assert model.identity == identity
    assert al.load_model("toy", quantization=kind).fingerprint == model.fingerprint


@each_kind
def test_it_can_be_evaluated(kind, quantized):
    evaluation = al.evaluate(quantized[kind], tiny_prompts(), new_tokens=4)
    assert len(evaluation.frame()) == 9


@each_kind
@pytest.mark.parametrize("job", ["train", "sweep", "apply", "export"])
def test_it_is_not_trained_and_takes_no_trained_block(kind, job, quantized, tmp_path):
    model, prompts = quantized[kind], tiny_prompts()
    run = quick_run(al.load_model("toy"), epochs=1)

    def apply():
        with run.applied_to(model):
            pass

    jobs = {
        "train": lambda: quick_run(model, prompts),
        "sweep": lambda: al.sweep_layers(model, prompts, prompts),
        "apply": apply,
        "export": lambda: al.export_model(model, run, tmp_path / "exported"),
    }
    with pytest.raises(al.UserError, match=r"without (--)?quantization") as error:
        jobs[job]()
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_an_unknown_kind():
    with pytest.raises(al.UserError, match=r"quantization '2bit' .*4bit, 8bit"):
        al.load_model("toy", quantization="2bit")


def test_without_bitsandbytes(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(al.UserError, match=r"pip install 'actor-lens\[quantized\]'"):
        al.load_model("toy", quantization="4bit")


def test_it_says_nothing_on_the_error_stream():
    program = (
        "import actor_lens as al\n"
        "model = al.load_model('toy', quantization='8bit')\n"
        "al.describe(model)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
    assert "bitsandbytes" not in done.stderr
    assert "MatMul8bitLt" not in done.stderr
