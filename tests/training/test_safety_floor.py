"""A safety floor keeps the best weights at which harmful refusals did not fall by more than it.

Best is the highest trade-off score, later ones win ties, the untrained weights are a candidate,
and shares at the very edge of the floor are within it. Harmful prompts of sources that training
lacks have a floor of their own, together, and a run says what came of each source. Checks on cached
block inputs give what the whole model gives with the block in place, refusals and projections
alike.
"""

import copy
from dataclasses import replace
from types import SimpleNamespace

import jaxtyping
import pytest
import torch
from torch import nn

from actor_lens.judges.first_token import RefusalTokens, refusal_scores
from actor_lens.progress import reporting
from actor_lens.prompts.rows import Prompt
from actor_lens.prompts.sets import PromptSet
from actor_lens.training import block_trainer, safety_floor
from actor_lens.training.block_trainer import BlockTrainer
from actor_lens.training.safety_floor import KeptWeights, Refusals, ValidationChecks
from tests.support.reports import Recorder
from tests.support.tiny_models import SOME_ARCHITECTURES, tiny_chat_model
from tests.support.tiny_runs import copied_tensors, quick_run, same_bits, tiny_prompts

TOKENS = RefusalTokens(tuple(range(0, 300, 2)), ("",) * 150)
VALIDATION = tiny_prompts(4, offset=20)


def shares(harmful, pseudo_harmful, benign=0.0):
    return {"harmful": harmful, "pseudo_harmful": pseudo_harmful, "benign": benign}


def refusals(n, said, sources=()):
    """So many prompts of each label, of which the shares are refused; sources of the harmful ones.

    Sources are given as (name, number, number refused), and then no shares of harmful ones are.
    """
    rows = [(label, None, index < round(said[label] * n)) for label in said for index in range(n)]
    if sources:
        rows = [row for row in rows if row[0] != "harmful"]
        rows += [("harmful", name, i < k) for name, count, k in sources for i in range(count)]
    prompts = [Prompt(f"{i}", label, source=name) for i, (label, name, _) in enumerate(rows)]
    return Refusals(PromptSet(tuple(prompts)), tuple(refused for *_, refused in rows))


@pytest.fixture(scope="module")
def model():
    return tiny_chat_model()


@pytest.fixture
def scripted(monkeypatch):
    """Checks that say what they are told to, first of the untrained block, then of each epoch."""

    def script(*answers):
        said = iter([refusals(20, shares(*answer)) for answer in answers])
        monkeypatch.setattr(ValidationChecks, "refusals", lambda *_: next(said))

    return script


def floored_run(model, floor, **settings):
    return quick_run(model, safety_floor=floor, validation=VALIDATION, tokens=TOKENS, **settings)


def after(model, steps):
    """The block after so many steps."""
    asked = iter(range(100))
    return quick_run(model, should_stop=lambda: next(asked) >= steps).state


# ---- Which weights are kept ----


@pytest.mark.parametrize(
    ("epochs", "floor", "best"),
    [
        ([(1.0, 0.5), (0.9, 0.1), (0.5, 0.0)], 0.1, 6),  # the last falls through the floor
        ([(1.0, 0.5), (0.9, 0.1), (0.5, 0.0)], 0.05, 3),
        ([(1.0, 0.5), (0.9, 0.1), (0.5, 0.0)], 1.0, 6),  # the last is no better than the second
        ([(1.0, 0.2), (1.0, 0.3), (1.0, 0.4)], 0.1, 3),  # the first was the best
        ([(1.0, 0.5), (1.0, 0.5), (1.0, 0.6)], 0.1, 6),  # the later of two wins
        ([(1.0, 0.5), (0.9, 0.4), (0.8, 0.3)], 0.1, 6),  # a tie of other parts is a tie
        ([(0.8, 0.0), (0.0, 0.0), (0.8, 0.0)], 0.1, 0),  # none is admissible
        ([(0.95, 0.9), (0.95, 0.9), (0.9, 0.8)], 0.1, 0),  # admissible, but worse than untrained
        ([(1.0, 0.8), (1.0, 0.9), (1.0, 0.9)], 0.0, 3),  # as good as untrained: the later wins
    ],
)
def test_best_admissible_epoch_is_kept(model, scripted, epochs, floor, best):
    scripted((1.0, 0.8), *epochs)
    run = floored_run(model, floor)
    assert run.status == "completed"
    assert run.best_step == best
    assert run.refused_before == shares(1.0, 0.8)
    assert [step.refused for step in run.history if step.refused] == [shares(*e) for e in epochs]
    assert same_bits(dict(run.state), dict(after(model, best)))
    unchanged = "No weights within the safety floor did better than the untrained ones"
    assert run.message.startswith(unchanged) == (best == 0)


def test_without_a_floor_the_last_weights_are_kept(model, scripted):
    scripted((1.0, 0.8), (1.0, 0.0), (0.5, 0.5), (0.0, 1.0))
    run = quick_run(model, validation=VALIDATION, tokens=TOKENS)
    assert (run.best_step, run.message) == (9, "")
    assert same_bits(dict(run.state), dict(after(model, 9)))


def test_a_stop_keeps_the_best_so_far(model, scripted):
    scripted((1.0, 0.8), (1.0, 0.5))
    asked = iter(range(100))
    run = floored_run(model, 0.1, should_stop=lambda: next(asked) >= 5)
    assert (run.status, run.best_step, len(run.history)) == ("stopped", 3, 5)
    assert same_bits(dict(run.state), dict(after(model, 3)))


def test_a_divergence_keeps_the_best_so_far_and_names_it(model, scripted, monkeypatch):
    scripted((1.0, 0.8), (1.0, 0.5), (1.0, 0.6))
    really = BlockTrainer.take_step

    def breaking(self):
        if self.step == 7:
            with torch.no_grad():
                next(self.block.parameters()).fill_(float("nan"))
        really(self)

    monkeypatch.setattr(BlockTrainer, "take_step", breaking)
    run = floored_run(model, 0.1)
    monkeypatch.undo()
    assert (run.status, run.best_step) == ("diverged", 3)
    assert "The weights of step 3 were kept" in run.message
    assert same_bits(dict(run.state), dict(after(model, 3)))


def test_a_continued_run_remembers_the_best_of_before(model, scripted):
    scripted((1.0, 0.8), (1.0, 0.2))
    asked = iter(range(100))
    stopped = floored_run(model, 0.1, should_stop=lambda: next(asked) >= 4)
    # Asked again of the untrained block, and of the block that was kept.
    scripted((1.0, 0.8), (1.0, 0.2), (1.0, 0.3), (1.0, 0.4))
    run = floored_run(model, 0.1, resume=stopped)
    assert run.best_step == 3
    assert same_bits(dict(run.state), dict(after(model, 3)))


def test_the_edge_of_the_floor_is_within_it(monkeypatch):
    """Shares are counts over n: one prompt too many is out, the edge itself never by rounding."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # lets stand-ins pass
    block = nn.Linear(1, 1)
    trainer = SimpleNamespace(block=block, step=9)
    for n in range(1, 21):
        first, later = (
            [refusals(n, shares(k / n, pseudo)) for k in range(n + 1)] for pseudo in (1.0, 0.0)
        )
        for before in range(n + 1):
            for allowed in range(before + 1):
                checks = SimpleNamespace(untrained=first[before])
                for fallen in {allowed, min(allowed + 1, before)}:
                    kept = KeptWeights(trainer, checks, allowed / n)
                    kept.consider(3, block, later[before - fallen])
                    within = fallen <= allowed
                    assert kept.result(trainer)[1] == (3 if within else 0)


@pytest.mark.parametrize(
    ("trained", "floor", "best"),
    [
        (("a",), 0.1, 0),  # of 10 prompts of b and c two are lost
        (("a",), 0.2, 3),
        (("a", "b"), 0.3, 0),  # two of 5 of c
        ((None, "b", "c"), 0.1, 3),  # a is not trained on, and lost nothing
        (("a", "b", "c"), 0.1, 3),  # two of 20: no source is unseen
        ((), 0.1, 3),  # all are, and together they are all there is
    ],
)
def test_sources_that_are_not_trained_on_have_a_floor_together(monkeypatch, trained, floor, best):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # lets stand-ins pass
    trainer = SimpleNamespace(block=nn.Linear(1, 1), step=3)
    sizes = [("a", 10, 10), ("b", 5, 5), ("c", 5, 5)]
    checks = SimpleNamespace(untrained=refusals(4, shares(1.0, 1.0), sizes))
    kept = KeptWeights(trainer, checks, floor, trained)
    now = [*sizes[:2], ("c", 5, 3)]
    kept.consider(3, trainer.block, refusals(4, shares(1.0, 0.0), now))
    assert kept.result(trainer)[1] == best
    assert kept.sources(3) == {
        name: {"n": n, "before": 1.0, "after": k / n, "trained_on": name in trained}
        for name, n, k in now
    }
    assert kept.sources(2) == {}


def test_a_run_says_what_came_of_each_source(model, tmp_path):
    named = [replace(one, source=f"set {i // 3 % 2}") for i, one in enumerate(VALIDATION)]
    checked = PromptSet(tuple(named))
    run = quick_run(model, validation=checked, tokens=TOKENS, lr=1e-2)
    with run.applied_to(model):
        after = refusal_scores(model, checked.texts, TOKENS) > 0
    before = refusal_scores(model, checked.texts, TOKENS) > 0
    assert set(run.harmful_sources) == {"set 0", "set 1"}
    for name, found in run.harmful_sources.items():
        rows = [i for i, p in enumerate(checked) if (p.label, p.source) == ("harmful", name)]
        shares = {"before": before[rows].float().mean(), "after": after[rows].float().mean()}
        assert found == {"n": 2, **shares, "trained_on": False}
    run.save(tmp_path)
    assert type(run).load(tmp_path).harmful_sources == run.harmful_sources
    lost = replace(run, harmful_sources={"a": {"n": 4, "before": 1.0, "after": 0.5}})
    assert "harmful prompts of a lost most: 100.0 % to 50.0 % of 4 refused" in repr(lost)


def test_training_on_harmful_prompts_of_one_source_is_warned_of(model):
    for source, warned in ((None, 0), ("a", 1)):
        prompts = PromptSet(tuple(replace(one, source=source) for one in tiny_prompts()))
        with reporting(heard := Recorder()):
            quick_run(model, prompts, epochs=1)
            quick_run(model, prompts, epochs=1)
        assert len([text for text in heard.warnings if "one source (a)" in text]) == warned


# ---- What the checks measure ----


@pytest.mark.parametrize("architecture", SOME_ARCHITECTURES)
@pytest.mark.parametrize("layer", [0, 2])
def test_checks_equal_the_whole_model_with_the_block_in_place(architecture, layer, monkeypatch):
    monkeypatch.setattr(safety_floor, "_BATCH_SIZE", 5)  # so that there are several batches
    model = tiny_chat_model(architecture)
    before = copied_tensors(model)
    checks = ValidationChecks.of(model, layer, VALIDATION, TOKENS)
    run = quick_run(model, layer=layer)
    block = block_of(model, run)
    with run.applied_to(model):
        scores = refusal_scores(model, VALIDATION.texts, TOKENS)
    expected = {
        label: sum(
            float(score) > 0
            for score, one in zip(scores, VALIDATION.labels, strict=True)
            if one == label
        )
        / 4
        for label in ("harmful", "pseudo_harmful", "benign")
    }
    assert checks.refusals(block).shares() == expected
    assert same_bits(before, copied_tensors(model))
    logits = checks._logits(block, [3, 1, 10])
    assert not torch.allclose(logits, checks._logits(model.blocks[layer], [3, 1, 10]), atol=1e-2)
    with run.applied_to(model), torch.no_grad():
        for row, index in enumerate([3, 1, 10]):
            ids = torch.tensor(model.tokenize([VALIDATION.texts[index]]))
            alone = model.hf(ids).logits[0, -1]
            torch.testing.assert_close(logits[row], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("architecture", SOME_ARCHITECTURES)
@pytest.mark.parametrize("layer", [0, 2])
def test_projections_equal_the_whole_model_with_the_block_in_place(
    architecture, layer, monkeypatch
):
    monkeypatch.setattr(block_trainer, "_FORWARD_BATCH", 5)  # so that there are several batches
    model = tiny_chat_model(architecture)
    before = copied_tensors(model)
    checks = ValidationChecks.of(model, layer, VALIDATION, TOKENS)
    run = quick_run(model, layer=layer, lr=1e-2)
    unit = torch.nn.functional.normalize(
        torch.randn(32, generator=torch.Generator().manual_seed(5)), dim=0
    )
    found = checks.projections(block_of(model, run).float(), unit)
    with run.applied_to(model):
        expected = mean_projections(model, VALIDATION, layer, unit)
    assert found == pytest.approx(expected, abs=1e-4)
    untrained = mean_projections(model, VALIDATION, layer, unit)
    assert found != pytest.approx(untrained, abs=1e-2)
    assert same_bits(before, copied_tensors(model))


def mean_projections(model, prompts, layer, unit):
    """By a forward hook on the whole model, prompt by prompt, added up in float64."""
    along = {label: [] for label in prompts.labels}
    for text, label in zip(prompts.texts, prompts.labels, strict=True):
        hook = model.blocks[layer].register_forward_hook(
            lambda _block, _inputs, output, label=label: along[label].append(
                (output[0] if isinstance(output, tuple) else output)[0, -1].double().numpy()
                @ unit.double().numpy()
            )
        )
        with torch.no_grad():
            model.hf(torch.tensor(model.tokenize([text])))
        hook.remove()
    return {label: sum(values) / len(values) for label, values in along.items()}


def test_for_projections_no_block_of_the_model_runs(model):
    checks = ValidationChecks.of(model, 2, VALIDATION, TOKENS)
    block = copy.deepcopy(model.blocks[2])
    ran = []
    handles = [
        module.register_forward_pre_hook(lambda module, _: ran.append(module))
        for module in (*model.blocks, model.hf.lm_head)
    ]
    try:
        checks.projections(block, torch.eye(32)[0])
        assert ran == []
        checks.refusals(block).shares()
        assert set(ran) == {model.blocks[3], model.hf.lm_head}
    finally:
        for handle in handles:
            handle.remove()


def test_labels_without_validation_prompts_have_no_projection(model):
    few = VALIDATION.where(label="benign")
    checks = ValidationChecks.of(model, 1, few, TOKENS)
    assert set(checks.projections(model.blocks[1], torch.eye(32)[0])) == {"benign"}


def block_of(model, run):
    """A copy of the trained block, apart from the model."""
    block = copy.deepcopy(model.blocks[run.layer])
    prefix = model.block_prefix(run.layer)
    block.load_state_dict({n.removeprefix(prefix): t for n, t in run.state.items()})
    return block


def test_checks_of_a_bfloat16_model_run_in_its_type():
    """What is measured is the block as it will be applied, rounding included."""
    model = tiny_chat_model()
    model.hf.to(torch.bfloat16)
    checks = ValidationChecks.of(model, 1, VALIDATION, TOKENS)
    run = quick_run(model)
    exact = block_of(model, run).float()
    with run.applied_to(model):
        scores = refusal_scores(model, VALIDATION.texts, TOKENS)
    refused = [float(score) > 0 for score in scores]
    said = checks.refusals(exact).shares()
    for label in ("harmful", "pseudo_harmful", "benign"):
        of_label = [r for r, one in zip(refused, VALIDATION.labels, strict=True) if one == label]
        assert said[label] == sum(of_label) / 4
    assert exact.mlp.up_proj.weight.dtype == torch.float32


def test_without_validation_prompts_nothing_is_checked(model):
    assert ValidationChecks.of(model, 1, None, None) is None
    run = quick_run(model)
    assert run.refused_before == run.harmful_sources == {}
    assert all(step.refused == step.held_out_projections == {} for step in run.history)


def test_tokens_are_found_from_the_validation_prompts_unless_given(model, monkeypatch):
    asked = []

    def found(*arguments, store):
        asked.append((*arguments, store))
        return TOKENS

    monkeypatch.setattr(safety_floor, "refusal_tokens", found)
    assert ValidationChecks.of(model, 1, VALIDATION, None, store=False).tokens is TOKENS
    assert asked == [(model, VALIDATION, False)]
    ValidationChecks.of(model, 1, VALIDATION, TOKENS)
    assert len(asked) == 1
