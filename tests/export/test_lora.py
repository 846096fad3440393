"""An adapter is the run, as far as its rank goes, and nothing outside the block knows of it.

PEFT itself reads the adapters. At full rank what it says is what the run says, on the fly and
merged into the weights; at a lower rank the error is what numpy's singular values leave out, and
the closest matrix of that rank is what is written.
"""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from actor_lens.errors import UserError
from actor_lens.export.lora import ALL_MODULES, LoraExport, export_lora
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.replies import first_token_logits
from actor_lens.training.run import TrainingRun
from tests.support.tiny_models import SOME_ARCHITECTURES, tiny_chat_model
from tests.support.tiny_runs import copied_tensors, quick_run, same_bits, tiny_prompts

# PEFT 0.21 still asks transformers 5.23 by the old name.
OLD_NAME = "`is_gradient_checkpointing` is deprecated"
pytestmark = pytest.mark.filterwarnings(f"ignore:{OLD_NAME}:FutureWarning")

PROMPTS = tiny_prompts(2, offset=60)
LAYER = 2


@pytest.fixture(scope="module")
def model() -> ChatModel:
    return tiny_chat_model()


@pytest.fixture(scope="module")
def run(model: ChatModel) -> TrainingRun:
    return quick_run(model, layer=LAYER, lr=1e-2)


def logits(model: ChatModel, hf: torch.nn.Module | None = None) -> list[torch.Tensor]:
    """Of every token of every prompt, one prompt at a time."""
    asked = model.hf if hf is None else hf
    with torch.no_grad():
        return [asked(torch.tensor([ids])).logits[0] for ids in model.tokenize(PROMPTS.texts)]


def changes(model: ChatModel, run: TrainingRun) -> dict[str, np.ndarray]:
    tensors = model.hf.state_dict()
    return {
        name: run.state[name].numpy().astype(np.float64) - tensors[name].numpy().astype(np.float64)
        for name in run.state
    }


@pytest.mark.parametrize("architecture", SOME_ARCHITECTURES)
def test_at_full_rank_peft_says_what_the_run_says(architecture: str, tmp_path: Path):
    model = tiny_chat_model(architecture)
    run = quick_run(model, layer=LAYER, lr=1e-2)
    untouched, before = logits(model), copied_tensors(model)
    with run.applied_to(model):
        expected, trained = logits(model), copied_tensors(model)
    found = export_lora(model, run, tmp_path / "lora", rank=10_000)
    assert found.rank == found.full_rank == 32
    assert found.error.relative_error == 0.0
    assert same_bits(before, copied_tensors(model))

    fresh = tiny_chat_model(architecture)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        adapted = PeftModel.from_pretrained(fresh.hf, tmp_path / "lora")
    assert [w for w in map(str, (each.message for each in told)) if OLD_NAME not in w] == []
    for one, other, base in zip(logits(model, adapted), expected, untouched, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
        assert float((one - base).abs().max()) > 1e-2
    with adapted.disable_adapter():
        for one, base in zip(logits(model, adapted), untouched, strict=True):
            assert torch.equal(one, base)
    merged = adapted.merge_and_unload()
    for one, other in zip(logits(model, merged), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    tensors = merged.state_dict()
    assert tensors.keys() == before.keys()
    for name, tensor in tensors.items():
        if name in run.state:
            torch.testing.assert_close(tensor, trained[name], rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("architecture", SOME_ARCHITECTURES)
def test_only_the_trained_block_gets_adapters(architecture: str, tmp_path: Path):
    model = tiny_chat_model(architecture)
    export_lora(model, quick_run(model, layer=LAYER, lr=1e-2), tmp_path / "lora", rank=2)
    prefix = f"base_model.model.{model.block_prefix(LAYER)}"
    assert all(name.startswith(prefix) for name in load_file(tmp_path / "lora" / FILE))
    adapted = PeftModel.from_pretrained(tiny_chat_model(architecture).hf, tmp_path / "lora")
    names = {name for name, _ in adapted.named_modules() if "lora_A" in name or "to_save" in name}
    assert names
    assert all(name.startswith(prefix) for name in names)


FILE = "adapter_model.safetensors"


def test_a_rank_loses_what_numpys_singular_values_leave_out(
    model: ChatModel, run: TrainingRun, tmp_path: Path
):
    found = export_lora(model, run, tmp_path / "lora", rank=3)
    table = found.frame().set_index(["rank", "module"])["relative_error"]
    ranks = sorted({rank for rank, _ in table.index})
    assert ranks == [1, 2, 3, 4, 8, 16, 32]
    spectra = {
        name.removesuffix(".weight"): np.linalg.svd(change, compute_uv=False)
        for name, change in changes(model, run).items()
        if change.ndim == 2
    }
    assert len(spectra) == 7
    whole = sum((values**2).sum() for values in spectra.values())
    for rank in ranks:
        for name, values in spectra.items():
            lost = np.sqrt((values[rank:] ** 2).sum() / (values**2).sum())
            assert table[rank, name] == pytest.approx(lost, rel=1e-6, abs=1e-12)
        lost = np.sqrt(sum((values[rank:] ** 2).sum() for values in spectra.values()) / whole)
        assert table[rank, ALL_MODULES] == pytest.approx(lost, rel=1e-6, abs=1e-12)
    written = load_file(tmp_path / "lora" / FILE)
    for name, change in changes(model, run).items():
        if change.ndim == 2:
            key = f"base_model.model.{name.removesuffix('.weight')}"
            a, b = written[f"{key}.lora_A.weight"], written[f"{key}.lora_B.weight"]
            assert a.shape[0] == b.shape[1] == 3
            left, values, right = np.linalg.svd(change, full_matrices=False)
            closest = (left[:, :3] * values[:3]) @ right[:3]
            np.testing.assert_allclose(b.numpy() @ a.numpy(), closest, atol=1e-6)


@pytest.mark.parametrize("error", [0.5, 0.2, 0.01])
def test_auto_is_the_smallest_rank_within_the_error(
    model: ChatModel, run: TrainingRun, tmp_path: Path, error: float
):
    found = export_lora(model, run, tmp_path / "lora", rank="auto", error=error)
    assert found.error.relative_error <= error
    assert 1 < found.rank < found.full_rank
    less = export_lora(model, run, tmp_path / "less", rank=found.rank - 1)
    assert less.error.relative_error > error


def test_the_error_in_the_logits_is_that_of_the_adapter(
    model: ChatModel, run: TrainingRun, tmp_path: Path
):
    """As a share of how far the run moved them: of PEFT's model, not of what was reckoned."""
    found = export_lora(model, run, tmp_path / "lora", rank=2, prompts=PROMPTS)
    one_by_one = model.with_batch_size(1)
    base = first_token_logits(one_by_one, PROMPTS.texts)
    with run.applied_to(model):
        wanted = first_token_logits(one_by_one, PROMPTS.texts)
    adapted = PeftModel.from_pretrained(tiny_chat_model().hf, tmp_path / "lora")
    said = torch.stack([each[-1] for each in logits(model, adapted)])
    expected = float((said - wanted).norm() / (wanted - base).norm())
    assert found.error.logit_error == pytest.approx(expected, rel=1e-2)
    assert 0.01 < expected < 1
    full = [each for each in found.errors if each.rank == 32 and each.module == ALL_MODULES]
    assert full[0].logit_error < 1e-4
    assert found.without_held > 1e-4  # the norms were trained too


def test_without_prompts_no_error_in_the_logits_is_claimed(
    model: ChatModel, run: TrainingRun, tmp_path: Path
):
    found = export_lora(model, run, tmp_path / "lora")
    assert np.isnan(found.error.logit_error)
    assert np.isnan(found.without_held)


def held(architecture: str, tmp_path: Path) -> tuple[LoraExport, dict[str, object]]:
    model = tiny_chat_model(architecture)
    found = export_lora(model, quick_run(model, layer=LAYER, lr=1e-2), tmp_path / architecture)
    config = json.loads((tmp_path / architecture / "adapter_config.json").read_text())
    return found, config


def test_what_a_low_rank_cannot_hold_is_kept_whole_and_told(tmp_path: Path):
    llama, config = held("llama", tmp_path)
    norms = ("input_layernorm", "post_attention_layernorm")
    assert llama.held_whole == tuple(f"model.layers.2.{norm}" for norm in norms)
    assert not config["lora_bias"]
    # Every linear of GPT-2 has a bias, which the adapters then have too.
    gpt2, config = held("gpt2", tmp_path)
    assert gpt2.held_whole == ("transformer.h.2.ln_1", "transformer.h.2.ln_2")
    assert config["lora_bias"]
    assert config["fan_in_fan_out"]
    # Of Qwen2's only some have one: those are kept whole.
    qwen2, config = held("qwen2", tmp_path)
    assert {f"model.layers.2.self_attn.{name}_proj" for name in "qkv"} <= set(qwen2.held_whole)
    assert not config["lora_bias"]
    assert "self_attn.q_proj" not in str(config["target_modules"])
    for found in (llama, gpt2, qwen2):
        card = (found.folder / "README.md").read_text()
        assert all(f"`{name}`" in card for name in found.held_whole)


def test_fused_weights_are_decomposed_as_they_are(tmp_path: Path):
    found, config = held("phi3", tmp_path)
    ends = {name.rpartition(".")[2] for name in config["target_modules"]}
    assert ends == {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}
    assert found.rank == 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank is 0; give a whole number of at least 1, or auto"),
        ({"rank": "best"}, "rank is 'best'; give"),
        ({"rank": "auto", "error": 0.0}, "error is 0; give a number between 0 and 1"),
        ({"rank": "auto", "error": 1.5}, "error is 1.5; give"),
    ],
)
def test_impossible_settings_are_told_before_any_work(
    model: ChatModel, run: TrainingRun, tmp_path: Path, settings: dict[str, object], message: str
):
    with pytest.raises(UserError, match=message):
        export_lora(model, run, tmp_path / "lora", **settings)
    assert not (tmp_path / "lora").exists()


def test_a_run_that_changed_nothing_is_told(model: ChatModel, tmp_path: Path):
    untrained = quick_run(model, should_stop=lambda: True)
    with pytest.raises(UserError, match="changed no linear layer of block 1"):
        export_lora(model, untrained, tmp_path / "lora")


def test_a_missing_library_is_named(
    model: ChatModel, run: TrainingRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(UserError, match=r"pip install 'actor-lens\[lora\]'"):
        export_lora(model, run, tmp_path / "lora")
