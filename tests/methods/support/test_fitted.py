"""A fitted method changes the model that it was fitted to, for a time, and shows itself briefly."""

import json
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import pytest

from actor_lens.errors import UserError
from actor_lens.methods import make_method
from actor_lens.methods.support.fitted import FittedIntervention
from tests.support.fitting import make_up_tokens, quickly_fitted
from tests.support.tiny_models import shared_tiny_model, tiny_chat_model


@contextmanager
def hooked(_model):
    yield


def test_the_model_itself_is_asked_where_the_context_yields_none():
    model = shared_tiny_model()
    with FittedIntervention({}, (), hooked, model.fingerprint).applied_to(model) as asked:
        assert asked is model


def test_the_model_that_the_context_yields_is_asked():
    model = shared_tiny_model()
    other = replace(model, name="other")
    fitted = FittedIntervention({}, (), lambda _: nullcontext(other), model.fingerprint)
    with fitted.applied_to(model) as asked:
        assert asked is other


def test_only_a_method_without_a_fingerprint_is_applied_to_any_model():
    model, other = shared_tiny_model(), tiny_chat_model(seed=1)
    with FittedIntervention({}, (), hooked, None).applied_to(other) as asked:
        assert asked is other
    fitted = FittedIntervention({}, (), hooked, model.fingerprint)
    with pytest.raises(UserError, match=r"other weights.*fit it"), fitted.applied_to(other):
        pass


@pytest.mark.parametrize("name", ["default", "prompt-helpful", "activation-addition", "actor"])
def test_it_shows_itself_in_few_lines_and_as_a_table_of_settings(name, monkeypatch):
    make_up_tokens(monkeypatch)
    fitted = quickly_fitted(name, shared_tiny_model("llama"))
    assert repr(fitted).count("\n") <= 1
    assert "tensor" not in repr(fitted)
    for setting in fitted.chosen:
        assert f"{setting} {fitted.settings[setting]}" in repr(fitted)
    frame = fitted.frame()
    assert frame["setting"].tolist() == list(fitted.settings)
    assert frame.loc[frame["chosen"], "setting"].tolist() == sorted(
        fitted.chosen, key=list(fitted.settings).index
    )
    assert json.loads(json.dumps(fitted.summary())) == fitted.summary()
    assert fitted._repr_html_().count("<tr>") <= 6


def test_what_a_setting_says_is_escaped():
    fitted = FittedIntervention({"text": "<script>x</script>\u202e"}, ("text",), hooked, None)
    assert "<script>" not in fitted._repr_html_()
    assert "\u202e" not in fitted._repr_html_() + repr(fitted)


def test_an_unknown_setting_is_named_with_those_there_are():
    with pytest.raises(UserError, match=r"'nothing'.*name, max_kl, positions, layers"):
        make_method("ablation", nothing=1)
