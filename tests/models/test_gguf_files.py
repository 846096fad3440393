"""A GGUF file is the Hugging Face model that it was made of, up to the packing of its weights.

Files are written by the package gguf itself, with the order of rows that llama.cpp uses.
"""

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType

import actor_lens as al
from actor_lens.models.chat_model import wrap_model
from actor_lens.models.gguf_files import own_folder
from actor_lens.models.replies import end_tokens, first_token_logits, generate_replies
from actor_lens.progress import reporting
from tests.support.gguf_writing import merging_tokenizer, write_gguf
from tests.support.reports import Recorder
from tests.support.tiny_models import CHAT_TEMPLATE, tiny_chat_model, tiny_tokenizer
from tests.support.tiny_runs import quick_run, tiny_prompts

TEXTS = ["Where is she?", "Bake a cake", "the"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The model in memory, its file in float32, its packed file, and what that should hold."""
    folder = tmp_path_factory.mktemp("gguf")
    hf = tiny_chat_model("llama").hf
    tokenizer = merging_tokenizer(300)
    write_gguf(folder / "tiny.gguf", hf, tokenizer)
    packing = GGMLQuantizationType.Q8_0
    expected = write_gguf(folder / "packed.gguf", hf, tokenizer, packing=packing)
    return wrap_model(hf, tokenizer), folder, expected


@pytest.fixture(scope="module")
def packed(written):
    return al.load_model(written[1] / "packed.gguf")


def test_a_file_is_the_model_that_it_was_made_of(written):
    truth, folder, _ = written
    model = al.load_model(str(folder / "tiny.gguf"))
    assert model.dequantized is None
    assert model.render("he") == truth.render("he")
    assert model.tokenize(TEXTS) == truth.tokenize(TEXTS)
    assert end_tokens(model)[:1] == (truth.tokenizer.eos_token_id,)
    assert torch.equal(first_token_logits(model, TEXTS), first_token_logits(truth, TEXTS))
    assert generate_replies(model, TEXTS, new_tokens=4) == generate_replies(
        truth, TEXTS, new_tokens=4
    )


def test_unpacking_is_a_stage_and_nothing_else_is_written(written, capfd):
    recorder = Recorder()
    with reporting(recorder):
        model = al.load_model(written[1] / "packed.gguf")
    n_tensors = len(model.hf.state_dict()) - model.hf.config.tie_word_embeddings
    steps = range(1, n_tensors + 1)
    assert recorder.stages == [("packed weights", done, n_tensors) for done in steps]
    assert capfd.readouterr().err == ""


def test_what_lies_beside_a_file_changes_nothing(written, tmp_path):
    truth, folder, _ = written
    shutil.copy(folder / "tiny.gguf", tmp_path)
    tiny_tokenizer("Foreign: " + CHAT_TEMPLATE).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("Foreign")
    model = al.load_model(tmp_path / "tiny.gguf")
    assert model.render("he") == truth.render("he")
    assert model.tokenize(TEXTS) == truth.tokenize(TEXTS)
    assert model.fingerprint == al.load_model(folder / "tiny.gguf").fingerprint
    assert model.source["name"] == str(tmp_path / "tiny.gguf")
    assert model.hf.name_or_path == model.tokenizer.name_or_path == str(tmp_path)


def test_a_disk_without_links_gets_a_copy_of_a_file_that_is_one(written, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr("os.symlink", refuse)
    monkeypatch.setattr("os.link", refuse)
    path = written[1] / "tiny.gguf"
    with own_folder(path) as (folder, _packed):
        assert (Path(folder) / path.name).read_bytes() == path.read_bytes()

    copies = []
    monkeypatch.setattr("shutil.copyfile", lambda *places: copies.append(places))
    other = tmp_path / "other.gguf"
    other.write_bytes(b"something else")
    with pytest.raises(al.UserError, match="is no GGUF file"), own_folder(other):
        pass
    assert copies == []


def test_packed_weights_are_read_in_full_precision_and_it_is_said(written, packed):
    _, folder, expected = written
    state = packed.hf.state_dict()
    assert set(state) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(state[name].numpy(), values, rtol=0, atol=1e-6)
    assert packed.quantization is None
    assert packed.dequantized == "Q8_0 (28 tensors)"
    assert packed.source["name"] == str(folder / "packed.gguf")
    described = al.describe(packed)
    assert described.supported
    assert described.dequantized == "Q8_0 (28 tensors)"


def test_a_run_on_a_file_is_exported_whole_and_as_a_delta(written, packed, tmp_path):
    _, folder, _ = written
    run = quick_run(packed, tiny_prompts(), layer=1, epochs=1)
    al.export_model(packed, run, tmp_path / "whole")
    whole = al.load_model(tmp_path / "whole")
    with run.applied_to(packed):
        assert torch.equal(first_token_logits(whole, TEXTS), first_token_logits(packed, TEXTS))
    assert "quantization_config" not in (tmp_path / "whole" / "config.json").read_text()
    al.export_delta(packed, run, tmp_path / "delta")
    card = (tmp_path / "delta" / "README.md").read_text(encoding="utf-8")
    assert f"from_pretrained({str(folder)!r}, gguf_file='packed.gguf', dtype=" in card


def test_a_run_on_a_file_is_exported_as_lora_and_put_back_on_it(written, packed, tmp_path):
    run = quick_run(packed, tiny_prompts(), layer=1, epochs=1)
    al.export_lora(packed, run, tmp_path / "lora", rank=32)
    again = al.load_model(written[1] / "packed.gguf", adapter=tmp_path / "lora")
    assert again.dequantized == packed.dequantized
    with run.applied_to(packed):
        changed = first_token_logits(packed, TEXTS)
    assert float((first_token_logits(again, TEXTS) - changed).abs().max()) < 1e-3


def refusal(load) -> str:
    with pytest.raises(al.UserError) as caught:
        load()
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("kept", [100, 0.5, 0.99])
def test_a_file_that_is_cut_off(kept, written, tmp_path):
    content = (written[1] / "packed.gguf").read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(content[: int(kept * len(content)) if kept < 1 else kept])
    message = refusal(lambda: al.load_model(path))
    assert message.startswith(f"model file '{path}' is damaged or not complete; download it again")


def test_files_that_are_something_else(written, tmp_path):
    text, pointer, part = (
        tmp_path / name for name in ("a.gguf", "b.gguf", "c-00001-of-00003.gguf")
    )
    text.write_text("hello")
    assert "is no GGUF file, whatever its name says" in refusal(lambda: al.load_model(text))
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "is a Git LFS pointer" in refusal(lambda: al.load_model(pointer))
    part.write_bytes((written[1] / "tiny.gguf").read_bytes())
    assert "llama-gguf-split --merge" in refusal(lambda: al.load_model(part))


def test_an_architecture_that_transformers_does_not_read(written, tmp_path):
    truth, _, _ = written
    path = tmp_path / "other.gguf"
    write_gguf(path, truth.hf, truth.tokenizer, architecture="squid")
    message = refusal(lambda: al.load_model(path))
    assert "transformers does not read the architecture 'squid' from GGUF files" in message


def test_a_file_without_a_template_takes_one(written, tmp_path):
    truth, _, _ = written
    tokenizer = merging_tokenizer(300)
    tokenizer.chat_template = None
    path = tmp_path / "plain.gguf"
    write_gguf(path, truth.hf, tokenizer)
    assert "has no chat template; pass one" in refusal(lambda: al.load_model(path))
    model = al.load_model(path, chat_template=truth.tokenizer.chat_template)
    assert model.render("he") == truth.render("he")


def test_settings_that_a_file_cannot_have(written):
    path = written[1] / "packed.gguf"
    message = refusal(lambda: al.load_model(path, quantization="8bit"))
    assert "packed weights are read in full precision" in message
    assert "no model of the hub" in refusal(lambda: al.load_model(path, revision="main"))


def test_without_the_package_its_extra_is_named(written, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    message = refusal(lambda: al.load_model(written[1] / "tiny.gguf"))
    assert re.search(r"a GGUF file needs gguf, .* pip install 'actor-lens\[gguf\]'", message)
