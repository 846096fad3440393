"""A system prompt reaches the model through whatever template there is."""

import pytest

from actor_lens.errors import UserError
from actor_lens.methods import make_method
from actor_lens.methods.support.system_turn import has_system_role, with_system_text
from actor_lens.methods.system_prompt import CAUTIOUS, HELPFUL
from actor_lens.models.chat_model import ChatModel, wrap_model
from actor_lens.models.replies import first_token_logits
from tests.support.steering import TEXTS
from tests.support.tiny_models import shared_tiny_model, tiny_tokenizer
from tests.support.tiny_runs import tiny_prompts

REFUSES_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}{{ '<user>' + m['content'] + '<end>' }}{% endfor %}<assistant>"
)
DROPS_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<user>' + m['content'] + '<end>' }}"
    "{% endif %}{% endfor %}<assistant>"
)


def with_template(template: str) -> ChatModel:
    return wrap_model(shared_tiny_model("llama").hf, tiny_tokenizer(template), name="other")


def fitted(model: ChatModel, name: str = "prompt-helpful", **settings):
    return make_method(name, **settings).fit(model, tiny_prompts(1), tiny_prompts(1))


def test_the_text_is_the_systems_turn_where_there_is_one():
    model = shared_tiny_model("llama")
    method = fitted(model)
    assert dict(method.settings) == {"text": HELPFUL, "where": "system role"}
    with method.applied_to(model) as told:
        assert told.render("Hi") == f"<s><system>{HELPFUL}<end><user>Hi<end><assistant>"
        assert told.hf is model.hf
    assert model.render("Hi") == "<s><user>Hi<end><assistant>"


@pytest.mark.parametrize("template", [REFUSES_SYSTEM, DROPS_SYSTEM])
def test_the_text_stands_before_the_message_where_there_is_no_system_turn(template):
    model = with_template(template)
    method = fitted(model, "prompt-cautious")
    assert dict(method.settings) == {"text": CAUTIOUS, "where": "before the user's message"}
    with method.applied_to(model) as told:
        assert told.render("Hi") == f"<user>{CAUTIOUS}\n\nHi<end><assistant>"
        assert told.tokenize(["Hi"]) != model.tokenize(["Hi"])


def test_it_gives_the_logits_of_the_longer_message():
    model = with_template(REFUSES_SYSTEM)
    told = first_token_logits(with_system_text(model, "Be kind."), TEXTS)
    assert told.equal(first_token_logits(model, [f"Be kind.\n\n{text}" for text in TEXTS]))
    assert not told.equal(first_token_logits(model, TEXTS))


@pytest.mark.parametrize("template", [None, REFUSES_SYSTEM])
def test_texts_add_up(template):
    model = shared_tiny_model("llama") if template is None else with_template(template)
    both = with_system_text(with_system_text(model, "One."), "Two.")
    assert both.render("Hi") == with_system_text(model, "One.\n\nTwo.").render("Hi")
    assert has_system_role(model) == (template is None)


def test_a_blank_text_is_an_error():
    with pytest.raises(UserError, match="blank text"):
        fitted(shared_tiny_model("llama"), text=" ")
