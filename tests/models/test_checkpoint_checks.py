"""A checkpoint whose files would change a model without a word is refused in one line."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from actor_lens.diagnostics.description import describe
from actor_lens.errors import UserError
from actor_lens.evaluation.perplexity import perplexity
from actor_lens.export.folders import export_model
from actor_lens.models.chat_model import load_model, wrap_model
from actor_lens.models.checkpoint_checks import check_not_packed
from tests.support.tiny_models import (
    CHAT_TEMPLATE,
    shared_tiny_model,
    tiny_chat_model,
    tiny_tokenizer,
)
from tests.support.tiny_runs import quick_run

FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}


@pytest.fixture
def folder(tmp_path):
    model = shared_tiny_model()
    model.hf.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def refusal(act):
    with pytest.raises(UserError) as error:
        act()
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def test_an_adapter_beside_whole_weights_is_not_applied(folder):
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "base"}')
    message = refusal(lambda: load_model(folder))
    assert "adapter" in message
    assert "move adapter_*" in message


@pytest.mark.parametrize(
    ("card", "base"), [('{"base_model_name_or_path": "org/base"}', "org/base"), ("x", "not name")]
)
def test_an_adapter_alone_names_its_base(folder, card, base):
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text(card)
    message = refusal(lambda: load_model(folder))
    assert "adapter alone" in message
    assert base in message


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_pointer_of_git_lfs_is_told_from_a_file(name, folder):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    (folder / name).write_text(pointer)
    message = refusal(lambda: load_model(folder))
    assert "git lfs pull" in message
    assert name in message


def packed(folder):
    """Weights as 8-bit floats, each with the number that it is to be multiplied by."""
    path, tensors = folder / "model.safetensors", {}
    for name, tensor in load_file(path).items():
        tensors[name] = tensor
        if "proj" in name:
            scale = tensor.abs().max() / 448
            tensors[name] = (tensor / scale).to(torch.float8_e4m3fn)
            tensors[f"{name}_scale_inv"] = scale.reshape(1, 1)
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("dtype", ["auto", "bfloat16", "float32"])
def test_packed_weights_are_not_read_without_their_scales(folder, dtype):
    packed(folder)
    message = refusal(lambda: load_model(folder, dtype=dtype))
    assert "quantised" in message
    assert "F8_E4M3" in message


def test_packed_weights_are_not_read_as_whole_numbers_either(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.0.mlp.up_proj.weight_scale"] = torch.ones(1)
    save_file(tensors, path, metadata={"format": "pt"})
    assert "weight_scale" in refusal(lambda: load_model(folder))


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("up_proj.weight_scale_inv", True),
        ("up_proj.scales", True),
        ("up_proj.qzeros", True),
        ("logit_scale", False),
        ("layer_scale.gamma", False),
        ("k_scale", False),
    ],
)
def test_scales_of_quantised_weights_are_told_from_others(name, refused):
    said = refusal(lambda: check_not_packed("x", None, [name])) if refused else None
    assert (name in said) if refused else check_not_packed("x", None, [name]) is None


def test_what_is_no_readable_file_beside_the_weights(folder):
    (folder / "more.json").mkdir()
    load_model(folder)
    (folder / "gone.json").symlink_to(folder / "nowhere")
    assert "gone.json: cannot be read (No such file" in refusal(lambda: load_model(folder))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_weights_that_are_unpacked_have_one_number_format_and_are_exported_in_it(folder, dtype):
    packed(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": FP8}))
    model = load_model(folder, dtype=dtype, device="cpu")
    assert {parameter.dtype for parameter in model.hf.parameters()} == {getattr(torch, dtype)}
    run = quick_run(model, epochs=1)
    again = load_model(export_model(model, run, folder.parent / "out"), dtype=dtype)
    with run.applied_to(model):
        own = model.hf.state_dict()
        assert all(torch.equal(own[key], tensor) for key, tensor in again.hf.state_dict().items())


@pytest.mark.parametrize("spoil", ["dtype", "value", "missing"])
def test_an_export_that_would_be_read_back_otherwise_does_not_count(spoil, tmp_path, monkeypatch):
    model = tiny_chat_model()
    run = quick_run(model, epochs=1)
    write = model.hf.save_pretrained

    def spoilt(folder):
        write(folder)
        path = folder / "model.safetensors"
        tensors = load_file(path)
        name = next(iter(tensors))
        if spoil == "missing":
            tensors.pop(name)
        else:
            tensors[name] = tensors[name].half() if spoil == "dtype" else tensors[name] + 1
        save_file(tensors, path, metadata={"format": "pt"})

    monkeypatch.setattr(model.hf, "save_pretrained", spoilt)
    assert "as delta" in refusal(lambda: export_model(model, run, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def with_more_tokens(template):
    tokenizer = tiny_tokenizer(template)
    tokenizer.add_tokens([f"<more {index}>" for index in range(60)])
    return tokenizer


def test_a_template_with_tokens_that_have_no_embedding_is_refused_at_loading(folder):
    with_more_tokens("<more 59>" + CHAT_TEMPLATE).save_pretrained(folder)
    message = refusal(lambda: load_model(folder))
    assert "<more 59>" in message
    assert "resize_token_embeddings" in message


def test_a_prompt_with_a_token_that_has_no_embedding_is_refused():
    model = wrap_model(shared_tiny_model().hf, with_more_tokens(CHAT_TEMPLATE), name="m")
    assert "<more 58>" in refusal(lambda: model.tokenize(["Hi <more 58>"]))
    assert "<more 58>" in refusal(lambda: perplexity(model, "Hi <more 58>"))
    assert model.tokenize(["Hi <more 1>"])
    assert any("no embedding" in warning for warning in describe(model).warnings)
