"""A base and an adapter are what PEFT makes of them, and whatever does not fit is one line.

PEFT's own model, with the adapter beside the weights, is the truth: its logits and, merged by it,
its tensors.
"""

import json
import warnings

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

import actor_lens as al
from actor_lens.cli import main
from actor_lens.diagnostics.description import describe
from actor_lens.errors import UserError
from actor_lens.export.folders import export_delta, export_model
from actor_lens.export.lora import export_lora
from actor_lens.models.chat_model import load_model
from tests.support.tiny_models import (
    CHAT_TEMPLATE,
    shared_tiny_model,
    tiny_chat_model,
    tiny_tokenizer,
)
from tests.support.tiny_runs import quick_run

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
IDS = torch.arange(20)[None]


def save_base(folder, architecture="llama"):
    model = shared_tiny_model(architecture)
    model.hf.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


def save_adapter(folder, base, architecture="llama", **settings):
    """A random adapter, and the logits of PEFT's own model with it."""
    settings = {"target_modules": ["q_proj", "down_proj"], "r": 4, **settings}
    torch.manual_seed(1)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        init_lora_weights=False,
        base_model_name_or_path=str(base),
        **settings,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tied embeddings
        adapted = peft.PeftModel(tiny_chat_model(architecture).hf, config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "modules_to_save" in name:
                parameter.mul_(1.5)
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    with torch.no_grad():
        return adapted(input_ids=IDS).logits


@pytest.fixture
def base(tmp_path):
    return save_base(tmp_path / "base")


def refusal(act):
    with pytest.raises(UserError) as error:
        act()
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def logits(model):
    with torch.no_grad():
        return model.hf(input_ids=IDS).logits


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("llama", {}),
        ("llama", {"use_rslora": True, "use_dora": True}),
        ("llama", {"target_modules": "all-linear", "modules_to_save": ["norm"]}),
        ("gpt2", {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}),
        ("phi3", {"target_modules": ["qkv_proj"]}),
    ],
)
def test_base_and_adapter_say_what_peft_says(architecture, settings, tmp_path):
    base = save_base(tmp_path / "base", architecture)
    expected = save_adapter(tmp_path / "lora", base, architecture, **settings)
    before = torch.random.get_rng_state()
    model = load_model(base, adapter=tmp_path / "lora")
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
    assert float((logits(load_model(base)) - expected).abs().max()) > 1e-2
    assert model.fingerprint != load_model(base).fingerprint
    assert set(model.hf.state_dict()) == set(load_model(base).hf.state_dict())


def test_a_run_on_base_and_adapter_opens_with_both(base, tmp_path):
    save_adapter(tmp_path / "lora", base)
    model = load_model(base, adapter=tmp_path / "lora")
    run = quick_run(model, epochs=1)
    run.save(tmp_path / "run")
    run = al.TrainingRun.load(tmp_path / "run")
    again = load_model(run.model_name, **run.load_settings)
    with run.applied_to(again):
        applied = logits(again)
    merged = load_model(export_model(model, run, tmp_path / "out"))
    assert torch.equal(logits(merged), applied)
    for export in (export_delta, export_lora):
        assert "as model" in refusal(lambda export=export: export(model, run, tmp_path / "part"))
    with pytest.raises(UserError, match="other weights"):
        run.check_belongs_to(load_model(base))


def test_an_adapter_alone_is_said_to_be_one_with_the_command_that_loads_it(base, tmp_path, capsys):
    folder = tmp_path / "lora"
    save_adapter(folder, base)
    message = refusal(lambda: load_model(folder))
    assert "adapter alone" in message
    assert f"--model {base} --adapter {folder}" in message
    assert main(["models", "--model", str(folder), "--quiet"]) == 2
    assert "adapter alone" in capsys.readouterr().err
    arguments = ["models", "--model", str(base), "--adapter", str(folder), "--quiet", "--json"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["supported"]


def test_the_description_says_where_the_base_has_another_name(base, tmp_path):
    save_adapter(tmp_path / "lora", "org/another-base")
    assert any(
        "another-base" in warning
        for warning in describe(load_model(base, adapter=tmp_path / "lora")).warnings
    )
    save_adapter(tmp_path / "own", f"org/{base.name}")
    assert describe(load_model(base, adapter=tmp_path / "own")).warnings == ()


def test_a_tokenizer_that_the_adapter_brings_is_used(base, tmp_path):
    save_adapter(tmp_path / "lora", base)
    tiny_tokenizer("Own: " + CHAT_TEMPLATE).save_pretrained(tmp_path / "lora")
    assert load_model(base, adapter=tmp_path / "lora").render("Hi").startswith("Own: ")


def truncated(folder, _base):
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:100])


def without_a_tensor(folder, _base):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors.pop(next(iter(tensors)))
    save_file(tensors, path)


def with_a_layer_more(folder, _base):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if ".layers.0." in name)
    tensors[name.replace(".layers.0.", ".layers.9.")] = tensors[name].clone()
    save_file(tensors, path)


def not_finite(folder, _base):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values())).fill_(float("nan"))
    save_file(tensors, path)


def of_other_shapes(folder, _base):
    path = folder / "adapter_model.safetensors"
    save_file({name: t.repeat(2, 1) for name, t in load_file(path).items()}, path)


def of_other_modules(folder, _base):
    path = folder / "adapter_config.json"
    card = json.loads(path.read_text())
    path.write_text(json.dumps({**card, "target_modules": ["query_key_value"]}))


def pickled(folder, _base):
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def a_pointer(folder, _base):
    (folder / "adapter_model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    )


def a_whole_model(folder, base):
    (folder / "adapter_config.json").unlink()
    (folder / "config.json").write_bytes((base / "config.json").read_bytes())


def a_broken_card(folder, _base):
    (folder / "adapter_config.json").write_text("{")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (truncated, "does not fit"),
        (without_a_tensor, "too few"),
        (with_a_layer_more, "has no place"),
        (not_finite, "does not fit"),
        (of_other_shapes, "size mismatch"),
        (of_other_modules, "query_key_value"),
        (pickled, "pickled weights are not read"),
        (a_pointer, "git lfs pull"),
        (a_whole_model, "whole model"),
        (a_broken_card, "adapter"),
    ],
)
def test_what_does_not_fit_is_one_line(spoil, words, base, tmp_path):
    save_adapter(tmp_path / "lora", "org/the-base")
    spoil(tmp_path / "lora", base)
    assert words in refusal(lambda: load_model(base, adapter=tmp_path / "lora"))


def test_an_adapter_of_a_wider_model_names_its_base(tmp_path):
    save_adapter(tmp_path / "lora", "org/the-base")
    message = refusal(lambda: load_model("toy", adapter=tmp_path / "lora"))
    assert "org/the-base" in message
    assert "does not fit" in message


def test_an_adapter_of_tied_embeddings_is_not_merged_into_both(tmp_path):
    base = save_base(tmp_path / "base", "gemma2")
    save_adapter(tmp_path / "lora", base, "gemma2", target_modules=["embed_tokens"])
    assert "tied" in refusal(lambda: load_model(base, adapter=tmp_path / "lora"))


def test_a_learned_prompt_is_no_part_of_the_weights(base, tmp_path):
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    peft.get_peft_model(tiny_chat_model().hf, config).save_pretrained(tmp_path / "prompt")
    assert "PROMPT_TUNING" in refusal(lambda: load_model(base, adapter=tmp_path / "prompt"))


def test_other_misuse_is_one_line(base, tmp_path, monkeypatch):
    save_adapter(tmp_path / "lora", base)
    nowhere = refusal(lambda: load_model(base, adapter=tmp_path / "none"))
    assert "neither a folder" in nowhere
    both = refusal(lambda: load_model(base, adapter=tmp_path / "lora", quantization="8bit"))
    assert "leave the quantization out" in both
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    assert "actor-lens[lora]" in refusal(lambda: load_model(base, adapter=tmp_path / "lora"))


def test_an_adapter_of_the_hub_is_recorded_by_its_commit(base, tmp_path, monkeypatch):
    commit, asked = "0123abcd" * 5, []
    save_adapter(tmp_path / "snapshots" / commit, base)

    def download(name, *, revision, **_):
        asked.append((name, revision))
        return str(tmp_path / "snapshots" / commit)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    model = load_model(base, adapter="org/lora")
    assert model.source["adapter"] == f"org/lora@{commit}"
    again = load_model(base, adapter=model.source["adapter"])
    assert again.source == model.source
    assert asked == [("org/lora", None), ("org/lora", commit)]
