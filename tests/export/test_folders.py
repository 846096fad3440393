"""An exported folder is the model with the run applied, and nothing else about it has changed.

What ``load_model`` reads from it says what the model says inside ``applied_to``; its tensors are,
bit for bit, those that ``save_pretrained`` writes of the untouched model, but for the trained
block. The delta is that block: the lines on its card put it into the base model, to the bit.
A folder is there as a whole or not at all, and nothing that was there is lost unasked.
"""

import contextlib
import json
import os
import resource
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from actor_lens.errors import UserError
from actor_lens.export.folders import delta_lines, export_delta, export_model
from actor_lens.models.chat_model import ChatModel, load_model
from actor_lens.training.run import TrainingRun
from tests.support.tiny_models import CHAT_TEMPLATE, SOME_ARCHITECTURES, tiny_chat_model
from tests.support.tiny_runs import copied_tensors, quick_run, same_bits, tiny_prompts

PROMPTS = tiny_prompts(2, offset=60)
LAYER = 2


@pytest.fixture(scope="module")
def model() -> ChatModel:
    return tiny_chat_model()


@pytest.fixture(scope="module")
def run(model: ChatModel) -> TrainingRun:
    return quick_run(model, layer=LAYER, lr=1e-2)


def logits(model: ChatModel) -> list[torch.Tensor]:
    """Of every token of every prompt, one prompt at a time."""
    with torch.no_grad():
        return [model.hf(torch.tensor([ids])).logits[0] for ids in model.tokenize(PROMPTS.texts)]


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


# ---- What is in the folder ----


@pytest.mark.parametrize("architecture", SOME_ARCHITECTURES)
def test_the_folder_is_the_model_with_the_run_applied(architecture: str, tmp_path: Path):
    model = tiny_chat_model(architecture)
    _ = model.bridge  # wrapping a twin takes fused weights apart; the model keeps its own
    run = quick_run(model, layer=LAYER, lr=1e-2)
    before = logits(model)
    with run.applied_to(model):
        expected = logits(model)
    assert export_model(model, run, tmp_path / "exported") == tmp_path / "exported"
    loaded = load_model(tmp_path / "exported")
    for found, inside, untrained in zip(logits(loaded), expected, before, strict=True):
        torch.testing.assert_close(found, inside, rtol=0, atol=1e-6)
        assert float((found - untrained).abs().max()) > 1e-3
    assert same_bits(
        {name: loaded.hf.state_dict()[name] for name in run.state},
        {name: tensor.float() for name, tensor in run.state.items()},
    )


@pytest.mark.parametrize("architecture", SOME_ARCHITECTURES)
def test_only_the_tensors_of_the_block_differ(architecture: str, tmp_path: Path):
    model = tiny_chat_model(architecture)
    run = quick_run(model, layer=LAYER, lr=1e-2)
    model.hf.save_pretrained(tmp_path / "untouched")
    export_model(model, run, tmp_path / "exported")
    theirs, ours = (
        load_file(tmp_path / name / "model.safetensors") for name in ("untouched", "exported")
    )
    assert theirs.keys() == ours.keys()
    differing = {name for name in ours if not torch.equal(ours[name], theirs[name])}
    assert differing == set(run.state)
    assert same_bits({name: ours[name] for name in run.state}, dict(run.state))
    outside = ours.keys() - differing
    assert same_bits({n: ours[n] for n in outside}, {n: theirs[n] for n in outside})
    config, other = ((tmp_path / n / "config.json").read_text() for n in ("untouched", "exported"))
    assert config == other


def test_tied_weights_are_written_once_and_tied_again(tmp_path: Path):
    model = tiny_chat_model("gpt2")
    export_model(model, quick_run(model), tmp_path / "exported")
    written = load_file(tmp_path / "exported" / "model.safetensors")
    assert "lm_head.weight" not in written
    loaded = load_model(tmp_path / "exported").hf
    assert loaded.lm_head.weight.data_ptr() == loaded.transformer.wte.weight.data_ptr()


def test_the_model_is_spoken_to_as_before(model: ChatModel, run: TrainingRun, tmp_path: Path):
    export_model(model, run, tmp_path / "exported")
    loaded = load_model(tmp_path / "exported")
    assert loaded.tokenizer.chat_template == CHAT_TEMPLATE
    assert loaded.tokenize(PROMPTS.texts) == model.tokenize(PROMPTS.texts)


def test_a_model_keeps_its_dtype(tmp_path: Path):
    model = tiny_chat_model()
    model.hf.to(torch.bfloat16)
    run = quick_run(model, lr=1e-2)
    export_model(model, run, tmp_path / "exported")
    written = load_file(tmp_path / "exported" / "model.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {torch.bfloat16}
    loaded = load_model(tmp_path / "exported", dtype="bfloat16")
    with run.applied_to(model):
        assert same_bits(copied_tensors(loaded), copied_tensors(model))


def test_the_model_in_memory_is_as_before(model: ChatModel, run: TrainingRun, tmp_path: Path):
    before = copied_tensors(model)
    export_model(model, run, tmp_path / "exported")
    assert same_bits(before, copied_tensors(model))


# ---- The block alone ----


def code_of(card: Path) -> list[str]:
    """The first block of Python on a model card."""
    return card.read_text().split("```python\n")[1].split("```")[0].splitlines()


@pytest.mark.parametrize("architecture", SOME_ARCHITECTURES)
def test_the_lines_on_the_card_make_the_model_with_the_run_applied(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for part in ("hf", "tokenizer"):
        getattr(tiny_chat_model(architecture), part).save_pretrained(tmp_path / "base")
    model = load_model(tmp_path / "base")
    run = quick_run(model, layer=LAYER, lr=1e-2)
    before = copied_tensors(model)
    assert export_delta(model, run, tmp_path / "delta") == tmp_path / "delta"
    assert same_bits(before, copied_tensors(model))
    lines = code_of(tmp_path / "delta" / "README.md")
    assert lines == delta_lines(model)
    assert lines == json.loads((tmp_path / "delta" / "delta.json").read_text())["load_with"]
    assert len([line for line in lines if line and "import" not in line]) == 3

    monkeypatch.chdir(tmp_path / "delta")
    names: dict[str, torch.nn.Module] = {}
    exec("\n".join(lines), names)
    loaded = names["model"]
    with run.applied_to(model):
        expected, inside = logits(model), copied_tensors(model)
    assert same_bits(dict(loaded.state_dict()), inside)
    loaded.set_attn_implementation("eager")
    for ids, wanted in zip(model.tokenize(PROMPTS.texts), expected, strict=True):
        with torch.no_grad():
            assert torch.equal(loaded(torch.tensor([ids])).logits[0], wanted)


def test_a_delta_holds_the_block_and_says_whose_it_is(
    model: ChatModel, run: TrainingRun, tmp_path: Path
):
    export_delta(model, run, tmp_path / "delta")
    written = load_file(tmp_path / "delta" / "delta.safetensors")
    assert same_bits(written, dict(run.state))
    assert all(name.startswith(f"model.layers.{LAYER}.") for name in written)
    card = json.loads((tmp_path / "delta" / "delta.json").read_text())
    assert card["base_fingerprint"] == model.fingerprint
    assert card["layer"] == LAYER
    assert card["holds"] == "replaced tensors"
    assert card["tensors"].keys() == run.state.keys()
    assert sorted(contents(tmp_path / "delta")) == ["README.md", "delta.json", "delta.safetensors"]


def test_a_delta_keeps_the_dtype_and_asks_for_it(tmp_path: Path):
    model = tiny_chat_model()
    model.hf.to(torch.bfloat16)
    run = quick_run(model, lr=1e-2)
    export_delta(model, run, tmp_path / "delta")
    written = load_file(tmp_path / "delta" / "delta.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {torch.bfloat16}
    assert any('dtype="bfloat16"' in line for line in delta_lines(model))


def test_the_lines_refuse_another_architecture(
    model: ChatModel, run: TrainingRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    export_delta(model, run, tmp_path / "delta")
    tiny_chat_model("gpt2").hf.save_pretrained(tmp_path / "gpt2")
    monkeypatch.chdir(tmp_path / "delta")
    lines = "\n".join(delta_lines(model)).replace("'tiny-llama'", repr(str(tmp_path / "gpt2")))
    with pytest.raises(AssertionError):
        exec(lines, {})


@pytest.mark.parametrize("export", [export_delta, export_model])
def test_a_quantised_block_is_refused(run: TrainingRun, tmp_path: Path, export):
    model = tiny_chat_model()
    weight = model.blocks[LAYER].mlp.down_proj
    weight.weight = torch.nn.Parameter(weight.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(UserError, match=r"is quantised .*down_proj.* load the model without"):
        export(model, run, tmp_path / "exported")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("export", [export_delta, export_model])
def test_one_kind_of_export_does_not_overwrite_another(
    model: ChatModel, run: TrainingRun, tmp_path: Path, export
):
    other = export_model if export is export_delta else export_delta
    other(model, run, tmp_path / "exported")
    before = contents(tmp_path)
    with pytest.raises(UserError, match="but other files, which overwriting would delete"):
        export(model, run, tmp_path / "exported", overwrite=True)
    assert contents(tmp_path) == before
    export(model, run, tmp_path / "own")
    export(model, replace(run, message="again"), tmp_path / "own", overwrite=True)


# ---- Where it may be written ----


@pytest.mark.parametrize("where", ["new", "new/below", "empty"])
def test_a_folder_that_is_new_or_empty_is_filled(
    model: ChatModel, run: TrainingRun, tmp_path: Path, where: str
):
    (tmp_path / "empty").mkdir()
    export_model(model, run, str(tmp_path / where))
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(
        os.listdir(tmp_path / where)
    )


def test_a_folder_with_content_is_left_alone(model: ChatModel, run: TrainingRun, tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty; give another folder, or overwrite=True"):
        export_model(model, run, tmp_path)
    assert contents(tmp_path) == {"notes.txt": b"mine"}


def test_a_model_is_overwritten_as_a_whole(model: ChatModel, run: TrainingRun, tmp_path: Path):
    folder = tmp_path / "exported"
    tiny_chat_model("gpt2").hf.save_pretrained(folder, max_shard_size="50KB")
    export_model(model, run, folder, overwrite=True)
    fresh = contents(export_model(model, run, tmp_path / "fresh"))
    assert contents(folder) == fresh
    assert sorted(os.listdir(tmp_path)) == ["exported", "fresh"]


def test_other_files_are_not_overwritten(model: ChatModel, run: TrainingRun, tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds no model \(no config.json\) but other files"):
        export_model(model, run, tmp_path, overwrite=True)
    assert contents(tmp_path) == {"thesis.txt": b"mine"}


def test_the_model_that_was_loaded_is_not_overwritten(
    model: ChatModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A run is no use without the weights that it was trained on."""
    for part in (model.hf, model.tokenizer):
        part.save_pretrained(tmp_path / "source")
    (tmp_path / "link").symlink_to(tmp_path / "source")
    before = contents(tmp_path / "source")
    monkeypatch.chdir(tmp_path)
    loaded = load_model("source")
    for folder in ("source", "link"):
        with pytest.raises(UserError, match="is what the model was loaded from"):
            export_model(loaded, quick_run(loaded), folder, overwrite=True)
    assert contents(tmp_path / "source") == before


@pytest.mark.parametrize("folder", ["file", "file/below"])
def test_a_file_is_no_folder(model: ChatModel, run: TrainingRun, tmp_path: Path, folder: str):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"cannot be used \(.*\); give another folder") as told:
        export_model(model, run, tmp_path / folder, overwrite=True)
    assert "\n" not in str(told.value)
    assert contents(tmp_path) == {"file": b"mine"}


def test_a_run_of_another_model_is_not_exported(run: TrainingRun, tmp_path: Path):
    with pytest.raises(UserError, match="trained on other weights"):
        export_model(tiny_chat_model(seed=1), run, tmp_path / "exported")
    assert os.listdir(tmp_path) == []


# ---- Writing that fails ----


@contextlib.contextmanager
def file_sizes_up_to(limit: int):
    """Writes beyond `limit` bytes fail, as on a full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.parametrize("there_before", [True, False])
@pytest.mark.parametrize("room", [0, 2_000, 100_000])
def test_disk_full_leaves_what_was_there(
    model: ChatModel, run: TrainingRun, tmp_path: Path, room: int, there_before: bool
):
    """The configuration takes a kilobyte, the weights take 300."""
    folder, tensors = tmp_path / "exported", copied_tensors(model)
    if there_before:
        tiny_chat_model("gpt2").hf.save_pretrained(folder)
    before, names = contents(tmp_path), os.listdir(tmp_path)
    with (
        file_sizes_up_to(room),
        pytest.raises(UserError, match=r"File too large.*nothing there was changed") as told,
    ):
        export_model(model, run, folder, overwrite=True)
    assert "\n" not in str(told.value)
    assert contents(tmp_path) == before
    assert os.listdir(tmp_path) == names
    assert same_bits(tensors, copied_tensors(model))


def test_a_disk_that_the_tokenizer_fills_is_told(
    model: ChatModel, run: TrainingRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It is written in Rust, which has an error of its own for that."""
    monkeypatch.setattr(type(model.hf), "save_pretrained", lambda *_: None)
    with file_sizes_up_to(1_500), pytest.raises(UserError, match="File too large") as told:
        export_model(model, run, tmp_path / "exported")
    assert "\n" not in str(told.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), ValueError("odd"), SystemExit])
@pytest.mark.parametrize("there_before", [True, False])
def test_an_export_that_is_cut_short_leaves_what_was_there(
    model: ChatModel,
    run: TrainingRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException | type[BaseException],
    there_before: bool,
):
    folder, tensors = tmp_path / "exported", copied_tensors(model)
    if there_before:
        tiny_chat_model("gpt2").hf.save_pretrained(folder)
    before, names = contents(tmp_path), os.listdir(tmp_path)
    seen = []

    def failing(_tokenizer: object, staging: Path) -> None:
        seen.append(sorted(os.listdir(staging)))
        raise error

    monkeypatch.setattr(type(model.tokenizer), "save_pretrained", failing)
    expected = UserError if isinstance(error, OSError) else (ValueError, SystemExit)
    with pytest.raises(expected):
        export_model(model, run, folder, overwrite=True)
    assert "model.safetensors" in seen[0]
    assert contents(tmp_path) == before
    assert os.listdir(tmp_path) == names
    assert same_bits(tensors, copied_tensors(model))
