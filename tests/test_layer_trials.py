"""Trying layers trains each exactly as `finetune_layer` alone does, and the best outcome wins.

Outcomes are those of the weights that a run keeps, the first of equals wins, a trial that is
stopped ends the trials, and the model stays as it was.
"""

import pytest

from actor_lens.errors import UserError
from actor_lens.finetuning import finetune_layer
from actor_lens.judges import RefusalTokens
from actor_lens.layer_choice import LayerChoice
from actor_lens.layer_trials import try_layers
from actor_lens.safety_floor import ValidationChecks
from actor_lens.training_run import FinetuneConfig
from tests.support.tiny_models import tiny_chat_model
from tests.support.tiny_runs import copied_tensors, same_bits, tiny_prompts

TOKENS = RefusalTokens(tuple(range(0, 300, 2)), ("",) * 150)
VALIDATION = tiny_prompts(4, offset=20)
SETTINGS = FinetuneConfig(layer=0, epochs=2, batch_size=4)


@pytest.fixture(scope="module")
def model():
    return tiny_chat_model()


@pytest.fixture
def pseudo_harmful_refused(monkeypatch):
    """Let each layer's checks say what they are told to, whatever the weights."""

    def script(shares):
        def refused(checks, _block):
            return {"harmful": 1.0, "pseudo_harmful": shares[checks.inputs.layer], "benign": 0.0}

        monkeypatch.setattr(ValidationChecks, "refused", refused)

    return script


def trials_of(model, layers, **options):
    return try_layers(
        model, tiny_prompts(), VALIDATION, layers, settings=SETTINGS, tokens=TOKENS, **options
    )


def test_each_layer_is_trained_as_it_would_be_alone(model):
    before = copied_tensors(model)
    trials = trials_of(model, [2, 1])
    assert same_bits(before, copied_tensors(model))
    assert list(trials.refused) == [2, 1]
    for layer in (2, 1):
        alone = finetune_layer(
            model,
            tiny_prompts(),
            layer=layer,
            epochs=2,
            batch_size=4,
            validation=VALIDATION,
            tokens=TOKENS,
        )
        assert trials.refused[layer] == alone.history[-1].refused
        if layer == trials.best.layer:
            assert same_bits(dict(trials.best.state), dict(alone.state))


def test_the_best_trade_off_wins(model, pseudo_harmful_refused):
    pseudo_harmful_refused({0: 0.5, 1: 0.0, 2: 0.25, 3: 0.75})
    trials = trials_of(model, [3, 2, 1, 0])
    assert trials.best.layer == 1
    assert trials.tradeoff_scores == {3: 0.625, 2: 0.875, 1: 1.0, 0: 0.75}
    assert "layer 1" in trials.reason
    assert "0.875 at layer 2" in trials.reason
    frame = trials.frame().set_index("layer")
    assert frame.loc[2, "tradeoff_score"] == 0.875
    assert frame.loc[2, "refused_pseudo_harmful"] == 0.25


def test_the_first_of_equals_wins(model, pseudo_harmful_refused):
    pseudo_harmful_refused({1: 0.25, 2: 0.25})
    assert trials_of(model, [2, 1]).best.layer == 2
    assert trials_of(model, [1, 2]).best.layer == 1


def test_a_stopped_trial_ends_the_trials(model):
    def interrupt(_step):
        raise KeyboardInterrupt

    trials = trials_of(model, [1, 2], on_step=interrupt)
    assert list(trials.refused) == [1]
    assert trials.best.status == "stopped"


def test_progress_counts_layers(model):
    told = []
    trials_of(model, [0, 1], on_progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]


def test_no_layers_and_no_validation_prompts_are_refused(model):
    with pytest.raises(UserError, match="at least one layer"):
        trials_of(model, [])
    with pytest.raises(UserError, match="validation prompts"):
        try_layers(model, tiny_prompts(), VALIDATION[:0], [1], tokens=TOKENS)


def test_a_settled_choice_keeps_its_ties_and_says_both_reasons():
    choice = LayerChoice(5, "causal", "layers 4 and 5 tie", (4, 5))
    assert choice.tried_order == (5, 4)
    settled = choice.settled(4, "each was trained")
    assert (settled.layer, settled.ties, settled.by) == (4, (4, 5), "causal")
    assert settled.reason == "layers 4, 5 tie on the causal score; each was trained"
