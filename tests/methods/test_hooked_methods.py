"""What every method that steers or trains a block owes: the model is itself again, to the bit."""

import pytest
import torch

from actor_lens.errors import UserError
from actor_lens.methods import METHODS, FittedMethod, Method, make_method
from actor_lens.models.interventions import add_direction
from actor_lens.models.replies import first_token_logits, generate_replies
from actor_lens.prompts.sets import PromptSet, replace_labels
from tests.support.fitting import make_up_tokens, quickly_fitted, train_prompts, validation_prompts
from tests.support.steering import TEXTS, hooks, logits, padded
from tests.support.tiny_models import (
    D_MODEL,
    SOME_ARCHITECTURES,
    shared_tiny_model,
    tiny_chat_model,
)
from tests.support.tiny_runs import copied_tensors, same_bits, tiny_prompts

NAMES = (
    "default",
    "prompt-helpful",
    "prompt-cautious",
    "ablation",
    "activation-addition",
    "surgical",
    "scans",
    "cast",
    "alphasteer",
    "alphasteer-inverted",
    "llm-va",
    "angular",
    "uniform-shift",
    "actor",
    "actor-auto",
    "actor-raw",
    "control-random-direction",
    "control-shuffled-labels",
    "control-form-direction",
)
TRAINED = NAMES[NAMES.index("uniform-shift") :]


@pytest.fixture(autouse=True)
def _made_up_tokens(monkeypatch):
    make_up_tokens(monkeypatch)


def test_the_registry_names_them_in_this_order():
    assert [name for name in METHODS if name in NAMES] == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_keeps_to_the_protocol(name):
    method = make_method(name)
    assert isinstance(method, Method)
    assert method.name == name


def fitted_or_reason(name, model):
    """A random model may have no direction that passes Arditi's filters: then there is no fit."""
    if name not in ("ablation", "surgical"):
        return quickly_fitted(name, model)
    try:
        return quickly_fitted(name, model)
    except UserError as error:
        pytest.skip(f"{name}: {error}")


@pytest.mark.parametrize("architecture", SOME_ARCHITECTURES)
@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_itself_again_after_fit_use_exception_and_nesting(name, architecture):
    model = shared_tiny_model(architecture)
    batch, tensors = padded(model), copied_tensors(model)
    before, n_hooks = logits(model, batch), hooks(model)
    fitted = fitted_or_reason(name, model)
    assert same_bits(tensors, copied_tensors(model))
    assert torch.equal(logits(model, batch), before)
    assert isinstance(fitted, FittedMethod)
    assert set(fitted.chosen) <= set(fitted.settings)
    with fitted.applied_to(model) as changed:
        once = first_token_logits(changed, TEXTS)
        generate_replies(changed, TEXTS, new_tokens=3)
        with fitted.applied_to(model):
            first_token_logits(changed, TEXTS)
        with add_direction(model, 1, torch.ones(D_MODEL)):
            first_token_logits(changed, TEXTS)
        assert torch.equal(first_token_logits(changed, TEXTS), once)
    assert torch.equal(logits(model, batch), before)
    with pytest.raises(KeyboardInterrupt), fitted.applied_to(model):
        raise KeyboardInterrupt
    assert torch.equal(logits(model, batch), before)
    assert same_bits(tensors, copied_tensors(model))
    assert hooks(model) == n_hooks


@pytest.mark.parametrize("name", [*NAMES[3:12], "actor", "control-random-direction"])
def test_a_second_fit_gives_the_same(name):
    model = shared_tiny_model("llama")
    first, second = fitted_or_reason(name, model), fitted_or_reason(name, model)
    assert dict(first.settings) == dict(second.settings)
    with first.applied_to(model) as changed:
        once = first_token_logits(changed, TEXTS)
    with second.applied_to(model) as changed:
        assert torch.equal(first_token_logits(changed, TEXTS), once)


@pytest.mark.parametrize("name", ["surgical", "scans"])
def test_vectors_are_made_of_the_anchors(name):
    """Anchors do what training prompts of their labels would do in their place."""
    model, train, validation = shared_tiny_model("llama"), train_prompts(), validation_prompts()
    anchors = tiny_prompts(3, offset=40)
    if name == "scans":  # the others are the training prompts'
        anchors = PromptSet(tuple(one for one in anchors if one.label != "pseudo_harmful"))
    limits = {"max_kl": 1e3}
    one = make_method(name, anchors=anchors, **limits).fit(model, train, validation)
    replaced = replace_labels(train, anchors)
    other = make_method(name, **limits).fit(model, replaced, validation)
    assert dict(one.settings) == dict(other.settings)
    with one.applied_to(model) as changed:
        once = first_token_logits(changed, TEXTS)
    with other.applied_to(model) as changed:
        assert torch.equal(first_token_logits(changed, TEXTS), once)


@pytest.mark.parametrize("name", NAMES[3:])
def test_another_model_is_refused(name):
    fitted = fitted_or_reason(name, shared_tiny_model("llama"))
    with pytest.raises(UserError, match=r"(fitted to|trained on) other weights"):
        with fitted.applied_to(tiny_chat_model("llama", seed=1)):
            pass


@pytest.mark.parametrize("name", TRAINED)
def test_trained_parameters_are_those_of_one_block(name):
    model = shared_tiny_model("llama")
    fitted = quickly_fitted(name, model)
    block = model.blocks[fitted.settings["layer"]]
    assert fitted.trained_parameters == sum(p.numel() for p in block.parameters())
    assert fitted.chosen[0] == "layer"


@pytest.mark.parametrize("name", NAMES[3:])
def test_a_missing_label_is_an_error(name):
    model = shared_tiny_model("llama")
    lacking = train_prompts().where(label="benign")
    with pytest.raises(UserError, match="0 harmful prompts"):
        make_method(name).fit(model, lacking, validation_prompts())
    with pytest.raises(UserError, match="0 harmful prompts"):
        make_method(name).fit(model, train_prompts(), lacking)
