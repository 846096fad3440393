"""A run comes back from disk as it was, and goes in and out of a model without a trace.

Inside ``applied_to`` the model and its TransformerLens twin hold the run's tensors, after it the
model's own, bit for bit, however it is left. A folder holds one whole run, the old one or the new
one, and anything else is refused in one line. A single bit that changed outside the block is
found.
"""

import contextlib
import hashlib
import json
import os
import resource
from dataclasses import fields, replace

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from actor_lens.errors import UserError
from actor_lens.training.run import (
    TrainingRun,
    TrainingStep,
    parameters_changed_outside,
    tensor_digests,
)
from tests.support.tiny_models import tiny_chat_model
from tests.support.tiny_runs import copied_tensors, quick_run, same_bits

COLUMNS = (
    "step epoch loss loss_harmful loss_pseudo_harmful loss_benign projection_harmful "
    "projection_pseudo_harmful projection_benign held_out_projection_harmful "
    "held_out_projection_pseudo_harmful held_out_projection_benign direction_cosine "
    "refused_harmful refused_pseudo_harmful refused_benign seconds"
).split()


@pytest.fixture(scope="module")
def model():
    return tiny_chat_model()


@pytest.fixture(scope="module")
def run(model):
    return with_checks(quick_run(model, lr=1e-2))


def with_checks(run):
    """As if validation prompts had been checked at the end of every epoch."""
    shares = {"harmful": 1.0, "pseudo_harmful": 1 / 3, "benign": 0.0}
    places = {"harmful": 2.5, "pseudo_harmful": -1 / 3, "benign": -1e-3}
    history = tuple(
        replace(step, refused=shares, held_out_projections=places) if step.step % 3 == 0 else step
        for step in run.history
    )
    return replace(run, history=history, refused_before=shares)


def assert_same_run(one, other):
    for field in fields(TrainingRun):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if field.name == "state":
            assert same_bits(a, b)
        elif field.name == "resume_state":
            assert (a is None) == (b is None)
            assert a is None or (a.step == b.step and same_bits(a.tensors, b.tensors))
        else:
            assert a == b, field.name


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ---- In and out of the model ----


def test_applied_block_is_in_place_and_leaves_no_trace(model, run):
    before = copied_tensors(model)
    with run.applied_to(model) as applied:
        assert applied is model
        inside = copied_tensors(model)
    assert same_bits(before, copied_tensors(model))
    assert same_bits({name: inside[name] for name in run.state}, run.state)
    outside = [name for name in before if name not in run.state]
    assert same_bits({n: before[n] for n in outside}, {n: inside[n] for n in outside})
    assert not any(torch.equal(before[name], inside[name]) for name in run.state)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_any_exit_restores_the_model(model, run, error):
    before = copied_tensors(model)
    with pytest.raises(error), run.applied_to(model):
        raise error
    assert same_bits(before, copied_tensors(model))


def test_applying_that_fails_half_way_restores_the_model(model, run):
    """A broken tensor in the run must not leave the ones before it in the model."""
    before = copied_tensors(model)
    last = list(run.state)[-1]
    broken = replace(run, state={**run.state, last: run.state[last].to("meta")})
    with pytest.raises((NotImplementedError, RuntimeError)), broken.applied_to(model):
        raise AssertionError("never reached")
    assert same_bits(before, copied_tensors(model))


def test_nested_runs_are_taken_out_in_turn(model, run):
    before = copied_tensors(model)
    other = quick_run(model, layer=2)
    doubled = replace(run, state={name: 2 * tensor for name, tensor in run.state.items()})
    with run.applied_to(model):
        first = copied_tensors(model)
        with other.applied_to(model), doubled.applied_to(model):
            inside = copied_tensors(model)
            assert same_bits({name: inside[name] for name in run.state}, doubled.state)
            assert same_bits({name: inside[name] for name in other.state}, other.state)
        assert same_bits(first, copied_tensors(model))
    assert same_bits(before, copied_tensors(model))


def test_the_transformerlens_twin_sees_the_block(model, run):
    ids = torch.tensor(model.tokenize(["How do I stop it?"]))

    def logits():
        with torch.no_grad():
            return model.hf(ids).logits, model.bridge(ids, attention_mask=torch.ones_like(ids))

    before, bridge_before = logits()
    with run.applied_to(model):
        inside, bridge_inside = logits()
    after, bridge_after = logits()
    torch.testing.assert_close(bridge_inside, inside, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(inside, before, atol=1e-2)
    assert torch.equal(after, before)
    assert torch.equal(bridge_after, bridge_before)


def test_a_model_of_other_shapes_is_refused(run):
    other = tiny_chat_model("gemma3_text")
    with pytest.raises(
        UserError, match=r"trained on 'tiny-llama' and does not fit 'tiny-gemma3_text'"
    ):
        run.check_belongs_to(other)
    gpt2 = tiny_chat_model("gpt2")
    with pytest.raises(UserError, match="no such tensor"), run.applied_to(gpt2):
        raise AssertionError("never reached")


def test_a_model_of_other_weights_is_refused(run):
    other = tiny_chat_model(seed=1)
    before = copied_tensors(other)
    with pytest.raises(UserError, match="trained on other weights"), run.applied_to(other):
        raise AssertionError("never reached")
    assert same_bits(before, copied_tensors(other))


# ---- To disk and back ----


def test_a_run_comes_back_as_it_was(tmp_path, run):
    assert run.save(tmp_path / "new" / "folder") == tmp_path / "new" / "folder"
    assert_same_run(TrainingRun.load(tmp_path / "new" / "folder"), run)


def test_odd_runs_come_back_too(tmp_path, run):
    """One without history, of bfloat16, that cannot be resumed, with text of all kinds."""
    odd = replace(
        run,
        state={name: tensor.bfloat16() for name, tensor in run.state.items()},
        history=(),
        status="diverged",
        message='Schritt 1: "über" <b>,\n二',
        best_step=0,
        resume_state=None,
        refused_before={},
    )
    odd.save(tmp_path)
    assert_same_run(TrainingRun.load(tmp_path), odd)


def test_files_have_the_names_that_others_look_for(tmp_path, run):
    run.save(tmp_path)
    assert set(contents(tmp_path)) == {
        "block.safetensors",
        "resume.safetensors",
        "run.json",
        "history.csv",
    }
    assert same_bits(load_file(tmp_path / "block.safetensors"), run.state)
    assert all(name.startswith("model.layers.1.") for name in run.state)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["trained_parameters"] == sum(t.numel() for t in run.state.values())
    assert record["config"]["layer"] == 1
    assert list(pd.read_csv(tmp_path / "history.csv").columns) == COLUMNS


def test_a_run_replaces_another_whole(tmp_path, model, run):
    run.save(tmp_path)
    (tmp_path / "summary.json").write_text("{}")
    other = replace(quick_run(model, layer=2, epochs=1), resume_state=None)
    other.save(tmp_path)
    assert_same_run(TrainingRun.load(tmp_path), other)
    assert "resume.safetensors" not in contents(tmp_path)
    assert (tmp_path / "summary.json").read_text() == "{}"


def test_a_run_without_its_resume_file_still_applies(tmp_path, run):
    run.save(tmp_path)
    (tmp_path / "resume.safetensors").unlink()
    assert_same_run(TrainingRun.load(tmp_path), replace(run, resume_state=None))


@pytest.mark.parametrize("room", [0, 1000, 40_000, 100_000])
def test_disk_full_keeps_the_run_that_was_there(tmp_path, run, room):
    """The block takes 37 kB, what resuming needs three times as much."""
    run.save(tmp_path)
    before = contents(tmp_path)
    other = replace(run, state={name: 2 * tensor for name, tensor in run.state.items()})
    with (
        file_sizes_up_to(room),
        pytest.raises(UserError, match="nothing there was changed") as told,
    ):
        other.save(tmp_path)
    assert "\n" not in str(told.value)
    assert contents(tmp_path) == before
    assert_same_run(TrainingRun.load(tmp_path), run)


@contextlib.contextmanager
def file_sizes_up_to(limit):
    """Writes beyond `limit` bytes fail, as on a full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.parametrize("renames", range(6))
def test_a_save_that_is_cut_short_leaves_one_whole_run(tmp_path, monkeypatch, model, run, renames):
    """Whatever rename fails: the old run or the new one, never a block with another's history."""
    run.save(tmp_path)
    new = quick_run(model, layer=2, epochs=1)
    really, left = os.replace, [renames]

    def failing(source, target):
        if left[0] == 0:
            raise OSError(5, "Input/output error")
        left[0] -= 1
        really(source, target)

    monkeypatch.setattr(os, "replace", failing)
    if renames < 5:
        with pytest.raises(UserError, match="Input/output error"):
            new.save(tmp_path)
    else:
        new.save(tmp_path)
    monkeypatch.undo()
    assert_same_run(TrainingRun.load(tmp_path), run if renames == 0 else new)


def test_a_folder_that_cannot_be_made_is_told(tmp_path, run):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file: cannot be made \(File exists\)"):
        run.save(tmp_path / "file")
    with pytest.raises(UserError, match="cannot be made"):
        run.save(tmp_path / "file" / "below")


@pytest.mark.parametrize("name", ["block.safetensors", "run.json", "history.csv"])
def test_missing_files_are_named(tmp_path, run, name):
    run.save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=f"no {name} there") as told:
        TrainingRun.load(tmp_path)
    assert "\n" not in str(told.value)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: no run.json there"):
        TrainingRun.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "name", ["block.safetensors", "resume.safetensors", "run.json", "history.csv"]
)
@pytest.mark.parametrize("damage", ["empty", "truncated", "flipped", "swapped"])
def test_damaged_files_are_refused(tmp_path, model, run, name, damage):
    run.save(tmp_path / "run")
    path = tmp_path / "run" / name
    content = path.read_bytes()
    middle = len(content) // 2
    if damage == "swapped":  # a sound file of another run
        if name == "run.json":
            return
        quick_run(model, epochs=2).save(tmp_path / "other")
        path.write_bytes((tmp_path / "other" / name).read_bytes())
    else:
        path.write_bytes(
            {
                "empty": b"",
                "truncated": content[:middle],
                "flipped": content[:middle] + b"\xff" + content[middle + 1 :],
            }[damage]
        )
    with pytest.raises(UserError, match=name.replace(".", r"\.")) as told:
        TrainingRun.load(tmp_path / "run")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "record",
    ["[]", "null", "3", "{}", '{"sha256": 3}', '{"sha256": {}}', '{"sha256": {}, "config": {}}'],
)
def test_a_run_json_of_another_kind_is_refused(tmp_path, run, record):
    run.save(tmp_path)
    (tmp_path / "run.json").write_text(record)
    with pytest.raises(UserError, match=r"train it again") as told:
        TrainingRun.load(tmp_path)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("key", ["status", "config", "fingerprint", "total_steps", "resume_step"])
def test_a_run_json_without_a_key_is_refused(tmp_path, run, key):
    run.save(tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())
    del record[key]
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=f"not a complete run .*{key}"):
        TrainingRun.load(tmp_path)


# ---- The table ----


def test_table_has_the_numbers_of_the_steps(run):
    table = run.frame()
    assert list(table.columns) == COLUMNS
    assert len(table) == len(run.history) == 9
    for (_, row), step in zip(table.iterrows(), run.history, strict=True):
        assert (row["step"], row["epoch"], row["loss"]) == (step.step, step.epoch, step.loss)
        assert (row["direction_cosine"], row["seconds"]) == (step.direction_cosine, step.seconds)
        for name, values in (
            ("loss", step.losses),
            ("projection", step.projections),
            ("held_out_projection", step.held_out_projections),
            ("refused", step.refused),
        ):
            for label in ("harmful", "pseudo_harmful", "benign"):
                cell = row[f"{name}_{label}"]
                assert cell == values[label] if label in values else pd.isna(cell)


def test_table_of_a_run_without_steps_has_its_columns(run):
    assert list(replace(run, history=()).frame().columns) == COLUMNS


def test_history_on_disk_loses_no_digit(tmp_path, run):
    step = TrainingStep(
        step=1,
        total_steps=9,
        epoch=1,
        loss=0.1 + 0.2,
        losses={"benign": 1e-300},
        projections={"harmful": -2 / 3},
        direction_cosine=1 / 3,
        refused={},
        seconds=1234567.891011,
        held_out_projections={"pseudo_harmful": 1e17 / 3},
    )
    replace(run, history=(step,)).save(tmp_path)
    assert TrainingRun.load(tmp_path).history == (step,)


def test_a_history_from_before_there_were_held_out_projections_is_read(tmp_path, run):
    run.save(tmp_path)
    table = run.frame()
    older = table[[name for name in table.columns if not name.startswith("held_out")]]
    assert len(older.columns) == len(table.columns) - 3
    older.to_csv(tmp_path / "history.csv", index=False)
    record = json.loads((tmp_path / "run.json").read_text())
    written = (tmp_path / "history.csv").read_bytes()
    record["sha256"]["history.csv"] = hashlib.sha256(written).hexdigest()
    (tmp_path / "run.json").write_text(json.dumps(record))
    history = tuple(replace(step, held_out_projections={}) for step in run.history)
    assert_same_run(TrainingRun.load(tmp_path), replace(run, history=history))


# ---- What changed outside the block ----


@pytest.mark.parametrize("bit", [0, 7])
@pytest.mark.parametrize(
    "name", ["model.embed_tokens.weight", "model.layers.2.mlp.up_proj.weight", "lm_head.weight"]
)
def test_a_single_flipped_bit_is_found(name, bit):
    model = tiny_chat_model()
    before = tensor_digests(model)
    tensor = model.hf.state_dict()[name]
    tensor.view(torch.uint8).reshape(-1)[-1] ^= 1 << bit
    assert parameters_changed_outside(model, 1, before) == tensor.numel()
    tensor.view(torch.uint8).reshape(-1)[-1] ^= 1 << bit
    assert parameters_changed_outside(model, 1, before) == 0


def test_the_block_itself_may_change(model, run):
    before = tensor_digests(model)
    with run.applied_to(model):
        assert parameters_changed_outside(model, 1, before) == 0
        assert parameters_changed_outside(model, 2, before) == run.trained_parameters


def test_only_other_blocks_count():
    model = tiny_chat_model("gpt2")
    before = tensor_digests(model)
    assert set(before) == set(model.hf.state_dict())
    with torch.no_grad():
        model.blocks[1].mlp.c_fc.weight.neg_()
        model.blocks[0].mlp.c_fc.bias.zero_()
    changed = parameters_changed_outside(model, 1, before)
    assert changed == model.blocks[0].mlp.c_fc.bias.numel()


def test_a_tied_tensor_counts_once():
    model = tiny_chat_model("gpt2")
    before = tensor_digests(model)
    with torch.no_grad():
        model.hf.transformer.wte.weight[0, 0] += 1
    assert parameters_changed_outside(model, 1, before) == model.hf.transformer.wte.weight.numel()


def test_a_home_folder_is_meant_by_its_sign(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert run.save("~/runs/here") == tmp_path / "runs" / "here"
    assert_same_run(TrainingRun.load("~/runs/here"), run)


def test_a_run_shows_itself_in_two_lines(run):
    hostile = replace(run, model_name="<b>org/x\n\n\u202e</b>")
    assert len(repr(hostile).splitlines()) == 2
    assert "layer 1" in repr(run)
    assert "completed after 9 steps" in repr(run)
    assert "<b>org" not in hostile._repr_html_()
    assert "\u202e" not in hostile._repr_html_()
