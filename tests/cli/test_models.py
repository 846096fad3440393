"""``actor-lens models`` prints what ``describe`` finds; the flags for loading reach the loader."""

from __future__ import annotations

import argparse
import json

import pytest

import actor_lens as al
from actor_lens import cli
from actor_lens.diagnostics.description import SupportCheck
from tests.support.logs import transformers_log
from tests.support.tiny_models import tiny_chat_model


def run_cli(*words):
    """Exit code of a command, whichever way it ends."""
    try:
        return cli.main([str(word) for word in words])
    except SystemExit as stop:
        return stop.code


def test_without_a_model_it_lists_what_was_tried(capsys):
    assert run_cli("models") == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("llama", "gemma3_text", "gpt2", "Bundled: toy."))
    assert run_cli("models", "--json") == 0
    assert json.loads(capsys.readouterr().out)["bundled"] == ["toy"]


def test_it_prints_what_describe_finds(capsys):
    found = al.describe(al.load_model("toy"))
    assert run_cli("models", "--model", "toy", "--json", "--quiet") == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(found.summary()))
    assert run_cli("models", "--model", "toy", "--quiet") == 0
    printed = capsys.readouterr().out
    assert found.marked_example in printed
    assert f"{found.parameters:,}, float32" in printed
    assert "about " in printed
    assert all(f"{check}: agrees" in printed for check in ("Residuals", "Padding", "Training"))


def test_a_model_that_is_not_read_rightly_is_printed_and_then_an_error(capsys, monkeypatch):
    from dataclasses import replace

    found = al.describe(al.load_model("toy"))
    wrong = SupportCheck("padding", False, 0.5, "one batch against forward hooks")
    broken = replace(found, checks=(found.checks[0], wrong), warnings=("look out",))
    monkeypatch.setattr("actor_lens.diagnostics.description.describe", lambda _model: broken)
    assert run_cli("models", "--model", "toy", "--quiet") == 2
    printed = capsys.readouterr()
    assert "Padding: DIFFERS (5.0e-01" in printed.out
    assert "Warning: look out." in printed.out
    assert printed.err == (
        "actor-lens: error: model 'toy' is not supported: padding differ from Hugging Face; use "
        "another model\n"
    )


def test_a_model_that_could_not_be_compared_is_not_said_to_differ(capsys, monkeypatch):
    from dataclasses import replace

    found = al.describe(al.load_model("toy"))
    unknown = SupportCheck("residuals", None, float("nan"), "no room for the prompts.")
    untried = SupportCheck("training", None, float("nan"), "weights are quantised")
    broken = replace(found, checks=(unknown, untried))
    monkeypatch.setattr("actor_lens.diagnostics.description.describe", lambda _model: broken)
    assert run_cli("models", "--model", "toy", "--quiet") == 2
    assert capsys.readouterr().err == (
        "actor-lens: error: model 'toy' is not supported: it could not be compared (no room for "
        "the prompts); use another model\n"
    )
    failed = SupportCheck("padding", False, 0.5, "one batch")
    broken = replace(found, checks=(found.checks[0], failed, untried))
    assert run_cli("models", "--model", "toy", "--quiet") == 2
    assert "not supported: padding differ from" in capsys.readouterr().err


def test_a_model_that_cannot_be_loaded(capsys):
    assert run_cli("models", "--model", "no/such", "--quiet") == 2
    assert capsys.readouterr().err.startswith("actor-lens: error: model 'no/such' was not found")


def test_a_folder_of_a_user_that_there_is_not(capsys):
    assert run_cli("models", "--model", "~no user at all/model", "--quiet") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "'~no user at all/model'" in line


def test_the_flags_reach_the_loader_and_only_those_given(monkeypatch, tmp_path):
    asked = []

    def record(_name, **options):
        asked.append(options)
        raise al.UserError("enough")

    monkeypatch.setattr("actor_lens.models.chat_model.load_model", record)
    file = tmp_path / "system.txt"
    file.write_text("From a file\n", encoding="utf-8")
    new = ("--revision", "v1", "--quantization", "4bit", "--adapter", "lora", "--system-prompt")
    for command in ("models", "layers"):
        assert run_cli(command, "--model", "toy", "--quiet", *new, "Be kind") == 2
        assert run_cli(command, "--model", "toy", "--quiet", *new, file) == 2
        assert run_cli(command, "--model", "toy", "--quiet") == 2
    for given, from_file, nothing in (asked[:3], asked[3:]):
        assert (given["revision"], given["quantization"]) == ("v1", "4bit")
        assert given["adapter"] == "lora"
        assert given["system_prompt"] == "Be kind"
        assert from_file["system_prompt"] == "From a file"
        assert not {"revision", "adapter", "system_prompt", "device_map"} & set(nothing)


def test_every_command_that_takes_a_model_takes_an_adapter():
    parsers = {"": cli._parser()}
    with_model = []
    while parsers:
        name, parser = parsers.popitem()
        flags = set(parser._option_string_actions)
        if "--model" in flags and name != " prompts check":  # it counts tokens only
            with_model.append(name)
            assert "--adapter" in flags, name
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                parsers.update({f"{name} {key}": sub for key, sub in action.choices.items()})
    assert len(with_model) > 10


def test_a_system_prompt_file_that_is_no_text(capsys, tmp_path):
    (tmp_path / "system.txt").write_bytes(b"\xff\xfe\xff")
    words = ("models", "--model", "toy", "--quiet", "--system-prompt", tmp_path / "system.txt")
    assert run_cli(*words) == 2
    assert "cannot be read as UTF-8 text" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--quantization", "3bit"], "4bit, 8bit"),
        (["--revision", "v1"], "revision"),
        (["--device-map", "everywhere"], "auto, balanced, balanced_low_0, sequential"),
        (["--system-prompt", " "], "system prompt is empty"),
        (["--system-prompt", "bread " * 600], "shorten or remove it"),
    ],
)
def test_what_the_loader_refuses_is_one_line(words, hint, capsys):
    with transformers_log() as logged:
        assert run_cli("models", "--model", "toy", "--quiet", *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert hint in line
    assert logged == []


def test_what_a_model_was_loaded_with_is_in_the_summary(tmp_path):
    prompts = tmp_path / "few.jsonl"
    toy = al.load_prompts("toy")
    few = [toy.where(label=label, split="test")[0] for label in ("harmful", "benign")]
    al.PromptSet(tuple(few)).save(prompts)
    out = tmp_path / "out"
    words = ["--prompts", prompts, "--out", out, "--new-tokens", 2, "--quiet"]
    system = ["--system-prompt", "Be kind", "--quantization", "8bit"]
    assert run_cli("evaluate", *words, *system) == 0
    settings = json.loads((out / "summary.json").read_text())["model_settings"]
    expected = al.load_model("toy", system_prompt="Be kind", quantization="8bit")
    assert settings == {
        "revision": None,
        "adapter": None,
        "system_prompt": "Be kind",
        "quantization": "8bit",
        "dequantized": None,
        "dtype": "float32",
        "fingerprint": expected.fingerprint,
    }


def test_training_quantized_weights_is_refused_in_one_line(tmp_path, capsys):
    folder = tmp_path / "model"
    model = tiny_chat_model()
    model.hf.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    out = tmp_path / "out"
    words = ["--model", folder, "--prompts", "toy", "--layer", 1, "--out", out, "--quiet"]
    capsys.readouterr()
    assert run_cli("train", *words, "--quantization", "4bit") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "has 4bit weights" in line
    assert not list(out.iterdir())
