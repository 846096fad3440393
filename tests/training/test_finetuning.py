"""A fine-tune gives one block and leaves the model as it was, bit for bit, however it ends.

Its settings, prompts and model fix its result: run again it is the same, and stopped anywhere and
continued, from memory or disk, it is the same as if it had never stopped. Losses fall and
pseudo-harmful prompts move to the origin. What cannot be trained is refused in one line before
any work; what runs away ends with the last weights that were sound.
"""

from dataclasses import replace
from types import SimpleNamespace

import jaxtyping
import numpy as np
import pytest
import torch

from actor_lens.activations.residuals import Residuals
from actor_lens.directions.just_enough_shift import JustEnoughShift
from actor_lens.directions.refusal_directions import refusal_directions
from actor_lens.errors import UserError
from actor_lens.judges.first_token import RefusalTokens
from actor_lens.prompts.rows import Prompt
from actor_lens.prompts.sets import PromptSet
from actor_lens.training import finetuning, loop
from actor_lens.training.block_trainer import BlockTrainer
from actor_lens.training.config import FinetuneConfig
from actor_lens.training.run import TrainingRun
from tests.support.tiny_models import SOME_ARCHITECTURES, tiny_chat_model
from tests.support.tiny_runs import OPENINGS, copied_tensors, quick_run, same_bits, tiny_prompts

# Any tokens do for a model that knows no refusals: half of the vocabulary.
TOKENS = RefusalTokens(tuple(range(0, 300, 2)), ("",) * 150)
VALIDATION = tiny_prompts(4, offset=20)


@pytest.fixture(scope="module")
def model():
    return tiny_chat_model()


def last_activations(model, prompts, layer):
    """By a forward hook on the whole model, prompt by prompt."""
    kept = []
    hook = model.blocks[layer].register_forward_hook(
        lambda _block, _inputs, output: kept.append(
            (output[0] if isinstance(output, tuple) else output)[0, -1]
        )
    )
    with torch.no_grad():
        for ids in model.tokenize(prompts.texts):
            model.hf(torch.tensor([ids]))
    hook.remove()
    return torch.stack(kept)


def stop_after(steps):
    """Answers "should I stop?" before the first step, the second ..."""
    asked = iter(range(10**6))
    return lambda: next(asked) >= steps


def without_times(run):
    return [replace(step, seconds=0.0) for step in run.history]


def assert_same_result(one, other):
    assert one.status == other.status == "completed"
    assert same_bits(dict(one.state), dict(other.state))
    assert without_times(one) == without_times(other)
    assert one.best_step == other.best_step
    assert one.message == other.message
    assert same_bits(dict(one.resume_state.tensors), dict(other.resume_state.tensors))


# ---- What comes out ----


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "phi3", "gpt2"])
def test_run_holds_the_one_block_under_its_hugging_face_names(architecture):
    model = tiny_chat_model(architecture)
    run = quick_run(model, layer=2)
    prefix = "transformer.h.2." if architecture == "gpt2" else "model.layers.2."
    expected = {name for name in model.hf.state_dict() if name.startswith(prefix)}
    assert set(run.state) == expected
    assert run.trained_parameters == sum(p.numel() for p in model.blocks[2].parameters())
    assert all(run.state[name].shape == model.hf.state_dict()[name].shape for name in expected)


@pytest.mark.parametrize("architecture", SOME_ARCHITECTURES)
def test_training_moves_prompts_to_their_targets(architecture):
    """Measured on the whole model with the block in place, on the direction of before."""
    model = tiny_chat_model(architecture)
    # To a random model these look harmful.
    prompts = tiny_prompts(4, openings={**OPENINGS, "pseudo_harmful": "QUASH THIS"})
    labels = torch.tensor(
        [["harmful", "pseudo_harmful", "benign"].index(x) for x in prompts.labels]
    )
    start = last_activations(model, prompts, 1)
    harmful, benign = start[labels == 0].mean(0), start[labels == 2].mean(0)
    unit = (harmful - benign) / (harmful - benign).norm()
    run = quick_run(model, prompts, epochs=20, lr=2e-3)
    with run.applied_to(model):
        end = last_activations(model, prompts, 1)
    origin, before, after = (
        float(one @ unit) for one in (benign, start[labels == 1].mean(0), end[labels == 1].mean(0))
    )
    assert abs(after - origin) < 0.5 * abs(before - origin)
    assert float(end[labels == 0].mean(0) @ unit) > float(harmful @ unit)
    first, last = run.history[:3], run.history[-3:]
    assert sum(step.loss for step in last) < 0.5 * sum(step.loss for step in first)


def test_records_are_complete_and_in_order(model):
    seen = []
    run = quick_run(model, epochs=2, on_step=seen.append, validation=VALIDATION, tokens=TOKENS)
    assert tuple(seen) == run.history
    assert [step.step for step in seen] == [1, 2, 3, 4, 5, 6]
    assert [step.epoch for step in seen] == [1, 1, 1, 2, 2, 2]
    assert {step.total_steps for step in seen} == {6}
    seconds = [step.seconds for step in seen]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0
    labels = {"harmful", "pseudo_harmful", "benign"}
    assert [set(step.refused) for step in seen] == [set(), set(), labels] * 2
    assert set(run.refused_before) == labels
    assert all(set(step.projections) == labels for step in seen)
    assert run.best_step == 6
    assert run.train_prompts == {"harmful": 3, "pseudo_harmful": 3, "benign": 3}
    assert set(run.seconds) == {"collect", "train"}


def test_first_record_says_where_the_prompts_start(model):
    """With all prompts in one step, the first record sees the untrained weights."""
    prompts = tiny_prompts()
    values = last_activations(model, prompts, 1)
    directions = refusal_directions(Residuals(values[None], prompts, "by hooks"))
    step = quick_run(model, prompts, batch_size=9, epochs=1).history[0]
    for label in ("harmful", "pseudo_harmful", "benign"):
        mean = float(directions.mean_projections(label)[0])
        assert step.projections[label] == pytest.approx(mean, abs=1e-4)
    assert step.direction_cosine == pytest.approx(1.0, abs=1e-5)


def test_held_out_prompts_are_followed_from_epoch_to_epoch(model):
    """On the direction of the start, with the weights that the epoch ended with."""
    prompts = tiny_prompts()
    start = last_activations(model, prompts, 1).double().numpy()
    labels, held_out = np.array(prompts.labels), np.array(VALIDATION.labels)
    vector = start[labels == "harmful"].mean(axis=0) - start[labels == "benign"].mean(axis=0)
    settings = {"lr": 5e-3, "validation": VALIDATION, "tokens": TOKENS}
    history = quick_run(model, **settings).history
    assert [bool(step.held_out_projections) for step in history] == [False, False, True] * 3
    seen = []
    for epoch in (1, 2, 3):
        stopped = quick_run(model, **settings, should_stop=stop_after(3 * epoch))
        with stopped.applied_to(model):
            end = last_activations(model, VALIDATION, 1).double().numpy()
        along = end @ vector / np.sqrt(vector @ vector)
        expected = {label: along[held_out == label].mean() for label in set(held_out)}
        found = history[3 * epoch - 1].held_out_projections
        assert found == pytest.approx(expected, abs=1e-4)
        seen.append(found["pseudo_harmful"])
    assert abs(seen[2] - seen[0]) > 1e-2


def test_validation_prompts_play_no_part_in_training(model):
    alone, watched = quick_run(model), quick_run(model, validation=VALIDATION, tokens=TOKENS)
    assert same_bits(dict(alone.state), dict(watched.state))
    unwatched = [replace(step, refused={}, held_out_projections={}) for step in watched.history]
    assert without_times(alone) == without_times(replace(watched, history=tuple(unwatched)))


def test_a_bfloat16_model_gets_a_bfloat16_block():
    model = tiny_chat_model()
    model.hf.to(torch.bfloat16)
    run = quick_run(model, lr=1e-2)
    assert {tensor.dtype for tensor in run.state.values()} == {torch.bfloat16}
    weights = {n: t for n, t in run.resume_state.tensors.items() if n.startswith("weight.")}
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    for name, tensor in run.state.items():
        exact = weights["weight." + name.removeprefix("model.layers.1.")]
        assert torch.equal(tensor, exact.bfloat16())
    with run.applied_to(model):
        assert model.hf.dtype == torch.bfloat16


def test_a_prompt_set_without_pseudo_harmful_prompts_is_refused(model):
    prompts = tiny_prompts()
    few = prompts.select([0, 1, 2, 3, 5, 6, 8])
    with pytest.raises(UserError, match=r"1 pseudo.harmful prompt"):
        quick_run(model, few)
    with pytest.raises(UserError, match="0 benign prompts"):
        quick_run(model, prompts.select([0, 1, 3, 4]))


# ---- The model stays as it was ----


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_model_is_untouched_during_and_after(architecture):
    model = tiny_chat_model(architecture)
    before = copied_tensors(model)
    seen = []

    def look(_step):
        seen.append(same_bits(before, copied_tensors(model)))

    quick_run(model, on_step=look, validation=VALIDATION, tokens=TOKENS)
    assert seen == [True] * 9
    assert same_bits(before, copied_tensors(model))
    assert not any(parameter.requires_grad for parameter in model.hf.parameters())
    assert not any(parameter.grad is not None for parameter in model.hf.parameters())
    assert not any(module._forward_hooks for module in model.hf.modules())


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_an_exception_in_the_callback_passes_and_leaves_the_model(model, error):
    before = copied_tensors(model)

    def fail(_step):
        raise error("in the callback")

    with pytest.raises(error, match="in the callback"):
        quick_run(model, on_step=fail)
    assert same_bits(before, copied_tensors(model))
    assert torch.is_grad_enabled()


# ---- Repeatable ----


def test_the_same_settings_give_the_same_run(model):
    settings = {"validation": VALIDATION, "tokens": TOKENS, "anchor": "current"}
    assert_same_result(quick_run(model, **settings), quick_run(model, **settings))


def test_the_state_of_the_global_generators_plays_no_part(model):
    torch.manual_seed(1)
    one = quick_run(model)
    torch.manual_seed(2)
    assert_same_result(one, quick_run(model))
    state = torch.get_rng_state()
    quick_run(model)
    assert torch.equal(state, torch.get_rng_state())


def test_the_seed_changes_the_order(model):
    one, other = quick_run(model, seed=0), quick_run(model, seed=1)
    assert [step.loss for step in one.history] != [step.loss for step in other.history]
    assert not same_bits(dict(one.state), dict(other.state))


# ---- Stopping and continuing ----


def test_stop_on_request_gives_the_run_so_far(model):
    whole, stopped = quick_run(model), quick_run(model, should_stop=stop_after(4))
    assert (stopped.status, stopped.message) == ("stopped", "Stopped on request after step 4.")
    assert stopped.best_step == 4
    assert without_times(stopped) == without_times(whole)[:4]
    assert quick_run(model, should_stop=stop_after(9)).status == "completed"


def test_stop_before_the_first_step_gives_the_untrained_block(model):
    stopped = quick_run(model, should_stop=lambda: True)
    assert (stopped.status, stopped.best_step, stopped.history) == ("stopped", 0, ())
    assert same_bits(
        dict(stopped.state), {name: model.hf.state_dict()[name] for name in stopped.state}
    )
    assert_same_result(quick_run(model, resume=stopped), quick_run(model))


@pytest.mark.parametrize("where", ["on_step", "should_stop"])
def test_ctrl_c_gives_the_run_so_far(model, where):
    before = copied_tensors(model)
    calls = iter(range(100))

    def interrupt(*_):
        if next(calls) == 4:
            raise KeyboardInterrupt
        return False

    run = quick_run(model, **{where: interrupt})
    done = 5 if where == "on_step" else 4
    assert (run.status, run.message) == ("stopped", f"Interrupted after step {done}.")
    assert len(run.history) == run.best_step == done
    assert same_bits(before, copied_tensors(model))
    assert_same_result(quick_run(model, resume=run), quick_run(model))


@pytest.mark.parametrize("method", ["drift", "check_sound", "last_losses", "_forward", "_losses"])
@pytest.mark.parametrize("call", [0, 2, 5])
def test_ctrl_c_anywhere_loses_nothing(model, monkeypatch, method, call):
    """Also between a step and its record: the run so far is whole and can be continued."""
    whole = quick_run(model)
    really = getattr(BlockTrainer, method)
    count = iter(range(10**6))
    armed = []

    def interrupted(self, *args):
        if armed and next(count) == call:
            raise KeyboardInterrupt
        return really(self, *args)

    monkeypatch.setattr(BlockTrainer, method, interrupted)
    run = quick_run(model, should_stop=lambda: bool(armed.append(1)))
    monkeypatch.undo()
    if run.status == "stopped":
        assert run.best_step == len(run.history) == run.resume_state.step
        assert without_times(run) == without_times(whole)[: len(run.history)]
        assert_same_result(quick_run(model, resume=run), whole)
    else:  # it was called less often than that
        assert method == "check_sound"


def test_ctrl_c_within_an_update_falls_back_to_sound_weights(model, monkeypatch):
    """Half of the tensors are new, half old: neither kept nor continued."""
    really = torch.optim.AdamW.step
    count = iter(range(100))

    def torn(self, *args, **kwargs):
        really(self, *args, **kwargs)
        if next(count) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(torch.optim.AdamW, "step", torn)
    run = quick_run(model)
    monkeypatch.undo()
    epoch = quick_run(model, should_stop=stop_after(3))
    assert (run.status, run.best_step, run.resume_state) == ("stopped", 3, None)
    assert same_bits(dict(run.state), dict(epoch.state))
    with pytest.raises(UserError, match="cannot be continued"):
        quick_run(model, resume=run)


@pytest.mark.parametrize("steps", [1, 3, 4, 8])
@pytest.mark.parametrize(
    "settings",
    [
        {"anchor": "initial"},
        {"anchor": "current", "refresh": "epoch"},
        {"anchor": "current", "refresh": "step", "shift": "uniform"},
        {"anchor": "current", "refresh": "never", "origin": "midpoint", "weight_decay": 0.1},
        {"safety_floor": 0.5, "validation": VALIDATION, "tokens": TOKENS},
    ],
    ids=["initial", "epoch", "step", "never", "floor"],
)
def test_a_continued_run_equals_one_that_never_stopped(model, tmp_path, settings, steps):
    whole = quick_run(model, **settings)
    stopped = quick_run(model, **settings, should_stop=stop_after(steps))
    assert len(stopped.history) == steps
    stopped.save(tmp_path)
    assert_same_result(quick_run(model, **settings, resume=TrainingRun.load(tmp_path)), whole)


def enough_at(place):
    """Shifts on a line that is zero at a place between means at 0 and 1."""
    along = torch.linspace(place + 0.2, place + 2, 5)
    prompts = PromptSet(tuple(Prompt(f"Kill {n}", "pseudo_harmful") for n in range(5)))
    return JustEnoughShift(along - place, along, prompts, 1, 1.0, 0.0, 1.0, (2.0,), 9, "none", 4)


@pytest.mark.parametrize(("place", "fixed"), [(0.0, "benign_mean"), (0.5, "midpoint")])
@pytest.mark.parametrize("anchor", ["initial", "current"])
def test_a_fitted_origin_is_where_the_needed_shifts_say(model, place, fixed, anchor):
    fitted = quick_run(model, origin="fitted", enough=enough_at(place), anchor=anchor)
    expected = quick_run(model, origin=fixed, anchor=anchor)
    assert fitted.origin_place == pytest.approx(place, abs=1e-6)
    assert expected.origin_place is None
    for name, tensor in expected.state.items():
        torch.testing.assert_close(fitted.state[name], tensor, rtol=1e-4, atol=1e-5)


def test_a_continued_run_keeps_the_origin_that_was_fitted(model, tmp_path):
    settings = {"origin": "fitted", "enough": enough_at(0.3)}
    whole = quick_run(model, **settings)
    stopped = quick_run(model, **settings, should_stop=stop_after(3))
    stopped.save(tmp_path)
    again = quick_run(model, origin="fitted", resume=TrainingRun.load(tmp_path))
    assert again.origin_place == whole.origin_place
    assert_same_result(again, whole)


def test_shifts_of_another_layer_are_refused(model):
    with pytest.raises(UserError, match="measured at layer 1, and layer 2"):
        quick_run(model, origin="fitted", enough=enough_at(0.3), layer=2)


def test_a_run_stopped_twice_equals_one_that_never_stopped(model):
    run = quick_run(model, should_stop=stop_after(2))
    run = quick_run(model, should_stop=stop_after(3), resume=run)
    assert len(run.history) == 5
    assert_same_result(quick_run(model, resume=run), quick_run(model))


def test_a_bfloat16_run_continues_in_full_precision():
    """From the float32 weights, not from the rounded block."""
    model = tiny_chat_model()
    model.hf.to(torch.bfloat16)
    settings = {"safety_floor": 1.0, "validation": VALIDATION, "tokens": TOKENS}
    stopped = quick_run(model, **settings, should_stop=stop_after(4))
    assert_same_result(quick_run(model, **settings, resume=stopped), quick_run(model, **settings))


def test_a_finished_run_takes_more_epochs(model, tmp_path):
    run = quick_run(model, epochs=2)
    run.save(tmp_path)
    longer = quick_run(model, epochs=3, resume=TrainingRun.load(tmp_path))
    assert_same_result(longer, quick_run(model, epochs=3))
    longer.save(tmp_path)
    assert TrainingRun.load(tmp_path).history == longer.history


# ---- Checkpoints ----


@pytest.mark.parametrize("settings", [{}, {"validation": VALIDATION, "tokens": TOKENS}])
def test_a_checkpoint_after_every_epoch_continues_to_the_same_result(model, tmp_path, settings):
    kept = []

    def keep(run):
        kept.append(TrainingRun.load(run.save(tmp_path / str(run.best_step))))

    whole = quick_run(model, **settings, on_checkpoint=keep, checkpoint_seconds=0.0)
    assert [(run.status, run.best_step, len(run.history)) for run in kept] == [
        ("stopped", 3, 3),
        ("stopped", 6, 6),
    ]
    assert kept[0].message == "Cut short; saved after step 3."
    assert_same_result(whole, quick_run(model, **settings))
    for run in kept:
        assert_same_result(quick_run(model, **settings, resume=run), whole)


@pytest.mark.parametrize(
    ("seconds", "epochs"),
    [(0.0, [1, 2, 3, 4, 5, 6]), (12.0, [1, 2, 3, 4, 5, 6]), (20.0, [2, 4, 6]), (25.0, [3, 6])],
)
def test_checkpoints_keep_their_distance(model, monkeypatch, seconds, epochs):
    """By a clock that goes on by four seconds a step, of which an epoch has three."""
    now = [0.0]
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def tick(_step):
        now[0] += 4.0

    steps = []
    quick_run(
        model,
        epochs=7,
        on_step=tick,
        on_checkpoint=lambda run: steps.append(run.best_step),
        checkpoint_seconds=seconds,
    )
    assert steps == [3 * epoch for epoch in epochs]


def test_a_short_run_has_no_checkpoint_unless_asked_for(model):
    kept = []
    quick_run(model, on_checkpoint=kept.append)
    quick_run(model, on_checkpoint=kept.append, checkpoint_seconds=float("inf"))
    assert kept == []


# ---- Times ----


def test_times_of_the_parts_add_up(model):
    stopped = quick_run(model, should_stop=stop_after(4))
    run = quick_run(model, resume=stopped)
    seconds = [step.seconds for step in run.history]
    assert seconds == sorted(seconds)
    assert run.seconds["train"] > stopped.seconds["train"]
    assert run.seconds["collect"] > stopped.seconds["collect"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lr": 0.5}, r"other settings \(lr 0\.001 against 0\.5\)"),
        ({"alpha": 2.0, "seed": 3}, r"alpha 1\.0 against 2\.0; seed 0 against 3"),
        ({"layer": 2}, "layer 1 against 2"),
        ({"prompts": tiny_prompts(4)}, "other prompts"),
        ({"epochs": 1}, "has done 4 steps, more than the 3 of epochs 1; give more epochs"),
    ],
)
def test_a_run_continues_only_as_what_it_was(model, changed, message):
    stopped = quick_run(model, should_stop=stop_after(4))
    with pytest.raises(UserError, match=message):
        quick_run(model, resume=stopped, **changed)


def test_a_run_of_another_model_is_not_continued(model):
    stopped = quick_run(tiny_chat_model(seed=1), should_stop=stop_after(4))
    with pytest.raises(UserError, match="trained on other weights"):
        quick_run(model, resume=stopped)


# ---- Running away ----


@pytest.mark.parametrize("lr", [3.0, 1e5, 1e15])
@pytest.mark.parametrize("batch_size", [4, 9])
def test_a_huge_learning_rate_ends_with_the_untrained_block(model, lr, batch_size):
    """Also where there is no later step that would show what the first has done."""
    for epochs in (1, 2):
        run = quick_run(model, lr=lr, batch_size=batch_size, epochs=epochs)
        assert run.status == "diverged"
        assert "diverged" in run.message
        assert "The weights of step 0 were kept; lower the learning rate." in run.message
        assert run.best_step == 0
        assert run.resume_state is None
        untrained = {name: model.hf.state_dict()[name] for name in run.state}
        assert same_bits(dict(run.state), untrained)


def test_weights_that_break_later_end_with_the_last_sound_epoch(model, monkeypatch):
    really = BlockTrainer.take_step
    trainers = []

    def breaking(self):
        trainers.append(self)
        if self.step == 7:
            with torch.no_grad():
                next(self.block.parameters()).fill_(float("inf"))
        really(self)

    monkeypatch.setattr(BlockTrainer, "take_step", breaking)
    run = quick_run(model)
    monkeypatch.undo()
    good = quick_run(model, should_stop=stop_after(6))
    assert run.status == "diverged"
    assert run.message.startswith("Step 8 diverged (loss nan). The weights of step 6 were kept")
    assert run.best_step == 6
    assert same_bits(dict(run.state), dict(good.state))
    assert all(torch.isfinite(tensor).all() for tensor in run.state.values())
    assert without_times(run) == without_times(quick_run(model))[:7]
    with pytest.raises(UserError, match=r"this run diverged and cannot be continued"):
        quick_run(model, resume=run)


def test_a_stop_hands_out_no_unsound_weights(model):
    run = quick_run(model, lr=1e15, should_stop=stop_after(1))
    assert (run.status, run.best_step) == ("diverged", 0)


def test_a_continued_run_falls_back_to_where_it_was_continued(model, monkeypatch):
    stopped = quick_run(model, should_stop=stop_after(4))
    really = BlockTrainer.take_step

    def breaking(self):
        with torch.no_grad():
            next(self.block.parameters()).fill_(float("nan"))
        really(self)

    monkeypatch.setattr(BlockTrainer, "take_step", breaking)
    run = quick_run(model, resume=stopped)
    assert (run.status, run.best_step) == ("diverged", 4)
    assert same_bits(dict(run.state), dict(stopped.state))


# ---- Refused before any work ----


@pytest.fixture
def no_work(monkeypatch):
    def work(*_args, **_kwargs):
        raise AssertionError("work was begun")

    monkeypatch.setattr(finetuning, "collect_block_inputs", work)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layer", -1),
        ("layer", 4),
        *((name, value) for name in ("alpha", "lr") for value in (0.0, -1.0, NAN, INF, 1e300)),
        *((name, value) for name in ("epochs", "batch_size") for value in (0, -1, True)),
        ("origin", "mean"),
        ("anchor", "now"),
        ("shift", ""),
        *(("refresh", value) for value in ("Epoch", 0, True)),
        *(("weight_decay", value) for value in (-0.1, NAN, INF, 1e300)),
        *(("safety_floor", value) for value in (-0.1, 1.1, NAN)),
        ("seed", -1),
        ("seed", 2**32),
        ("seed", True),
        *(("checkpoint_seconds", value) for value in (-1.0, NAN)),
    ],
)
@pytest.mark.usefixtures("no_work")
def test_a_setting_that_is_not_allowed_is_named(model, name, value):
    with pytest.raises(UserError, match=name) as told:
        quick_run(model, validation=VALIDATION, tokens=TOKENS, **{name: value})
    assert "\n" not in str(told.value)
    assert str(value) in str(told.value)


@pytest.mark.parametrize("validation", [None, PromptSet(()), VALIDATION.where(label="benign")])
@pytest.mark.usefixtures("no_work")
def test_a_floor_needs_harmful_validation_prompts(model, validation):
    with pytest.raises(UserError, match="a safety floor needs validation prompts, harmful ones"):
        quick_run(model, safety_floor=0.1, validation=validation, tokens=TOKENS)


@pytest.mark.usefixtures("no_work")
def test_too_few_prompts_are_told(model):
    with pytest.raises(UserError, match="1 harmful prompt"):
        quick_run(model, tiny_prompts(1))


def test_a_prompt_too_long_for_the_model_is_told(model):
    prompts = PromptSet((*tiny_prompts(), Prompt("x" * 500, "benign")))
    with pytest.raises(UserError, match="shorten or remove it"):
        quick_run(model, prompts)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("alpha", "lr", "weight_decay") for value in ("1", True, 2j)),
        *((name, value) for name in ("epochs", "batch_size") for value in ("1", 1.0, None)),
        *((name, value) for name in ("layer", "seed") for value in ("1", 1.0, None)),
        *((name, None) for name in ("alpha", "lr", "origin", "anchor", "shift", "refresh")),
        ("safety_floor", "0.1"),
        ("safety_floor", True),
        *(("checkpoint_seconds", value) for value in ("1", True, None)),
    ],
)
@pytest.mark.usefixtures("no_work", "annotations_unchecked")
def test_a_setting_of_a_wrong_type_is_named(model, name, value):
    with pytest.raises(UserError, match=name) as told:
        quick_run(model, validation=VALIDATION, tokens=TOKENS, **{name: value})
    assert "\n" not in str(told.value)


@pytest.mark.usefixtures("annotations_unchecked")
def test_numbers_of_numpy_are_numbers(model, tmp_path):
    run = quick_run(model, alpha=np.float32(1), lr=np.float64(1e-3), weight_decay=np.int64(0))
    assert repr(run.config) == repr(FinetuneConfig(1, epochs=3, batch_size=4))
    assert TrainingRun.load(run.save(tmp_path)).config == run.config


@pytest.fixture
def annotations_unchecked(monkeypatch):
    """As users run it: in tests, the checker of annotations would refuse wrong types first."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
