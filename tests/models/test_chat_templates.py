"""What a model is told is what its own template makes of it, with a system prompt, unthinking.

A system prompt is refused where the template would raise or leave it out, and changes what
directions and runs depend on.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

import actor_lens as al
from actor_lens.models.chat_model import wrap_model
from actor_lens.models.chat_templates import has_thinking_switch, render, takes_system_prompt
from tests.support.tiny_models import (
    CHAT_TEMPLATE,
    shared_tiny_model,
    tiny_chat_model,
    tiny_tokenizer,
)
from tests.support.tiny_runs import quick_run

SAYS_ALL = "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] }}{% endfor %}"
RAISES = "{{ raise_exception('no system') if messages[0]['role'] == 'system' }}" + SAYS_ALL
LEAVES_OUT = "{{ messages[-1]['content'] }}"
TAKES_STRINGS_ONLY = "{{ messages[0]['content'] + messages[1]['content'] }}"
THINKS = SAYS_ALL + "{{ '<think>' if enable_thinking is not defined or enable_thinking }}"


@pytest.mark.parametrize(
    ("template", "taken"), [(SAYS_ALL, True), (RAISES, False), (LEAVES_OUT, False)]
)
def test_whether_a_template_takes_a_system_prompt(template, taken):
    tokenizer = tiny_tokenizer(template)
    assert takes_system_prompt("m", tokenizer) is taken
    model = wrap_model(tiny_chat_model().hf, tokenizer, name="m")
    if taken:
        assert model.with_system_prompt("Be kind").render("Hi") == "<system>Be kind<user>Hi"
        return
    with pytest.raises(al.UserError, match="the chat template of 'm' has no system role; leave"):
        model.with_system_prompt("Be kind")


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_system_prompt(text):
    with pytest.raises(al.UserError, match="system prompt is empty"):
        shared_tiny_model().with_system_prompt(text)


def test_thinking_is_switched_off_where_the_template_has_the_switch():
    assert has_thinking_switch(tiny_tokenizer(THINKS))
    assert render("m", tiny_tokenizer(THINKS), "Hi") == "<user>Hi"
    assert not has_thinking_switch(tiny_tokenizer(SAYS_ALL))
    assert render("m", tiny_tokenizer(SAYS_ALL), "Hi") == "<user>Hi"


def test_a_system_prompt_changes_the_fingerprint_and_can_be_taken_back():
    plain = shared_tiny_model()
    kind, curt = (plain.with_system_prompt(text) for text in ("Be kind", "Be curt"))
    assert len({plain.fingerprint, kind.fingerprint, curt.fingerprint}) == 3
    assert plain.with_system_prompt("Be kind").fingerprint == kind.fingerprint
    assert kind.with_system_prompt("Be curt").fingerprint == curt.fingerprint
    back = kind.with_system_prompt(None)
    assert (back.fingerprint, back.system_prompt) == (plain.fingerprint, None)
    assert kind.identity == plain.identity  # the weights are the same
    assert kind.hf is plain.hf


def test_the_twin_is_shared_with_the_model_that_has_a_system_prompt():
    plain = tiny_chat_model()
    bridge = plain.bridge
    assert plain.with_system_prompt("Be kind").bridge is bridge


def test_a_loaded_model_has_the_system_prompt_and_says_so_in_its_source():
    model = al.load_model("toy", system_prompt="Be kind")
    plain = al.load_model("toy")
    assert "Be kind" in model.render("Hi")
    assert model.fingerprint == plain.with_system_prompt("Be kind").fingerprint
    assert model.source["system_prompt"] == "Be kind"
    assert model.source["chat_template"] is None  # its own, which comes with the folder
    again = al.load_model(**model.source)
    assert (again.fingerprint, again.render("Hi")) == (model.fingerprint, model.render("Hi"))
    assert plain.with_system_prompt("Be kind").source == model.source


def test_residuals_and_replies_depend_on_the_system_prompt(tmp_path):
    from tests.support.tiny_runs import tiny_prompts

    plain, store = shared_tiny_model(), al.Store(tmp_path)
    kind = plain.with_system_prompt("Be kind")
    prompts = tiny_prompts()
    one, other = (al.collect_residuals(m, prompts, store=store).values for m in (plain, kind))
    assert not one.allclose(other)
    again = al.collect_residuals(plain, prompts, store=store).values
    assert one.equal(again)


def test_a_run_belongs_to_the_system_prompt_it_was_trained_with():
    plain = tiny_chat_model()
    kind = plain.with_system_prompt("Be kind")
    run = quick_run(kind, epochs=1)
    with run.applied_to(kind.with_system_prompt(None).with_system_prompt("Be kind")):
        pass
    with pytest.raises(al.UserError, match="another system prompt; load the model with the same"):
        run.check_belongs_to(plain)


def test_a_run_belongs_to_the_chat_template_it_was_trained_with(tmp_path):
    model = tiny_chat_model()
    model.hf.save_pretrained(tmp_path)
    tiny_tokenizer(chat_template=None).save_pretrained(tmp_path)
    own, other = CHAT_TEMPLATE, CHAT_TEMPLATE.replace("<end>", "<stop>")
    spoken_to = al.load_model(tmp_path, chat_template=own, system_prompt="Be kind")
    run = quick_run(spoken_to, epochs=1)
    assert run.load_settings == {"chat_template": own, "system_prompt": "Be kind"}
    run.save(tmp_path / "run")
    again = al.TrainingRun.load(tmp_path / "run")
    with again.applied_to(al.load_model(tmp_path, **again.load_settings)):
        pass
    with pytest.raises(al.UserError, match=r"with another chat template; .*chat_template=\.\.\."):
        run.check_belongs_to(al.load_model(tmp_path, chat_template=other, system_prompt="Be kind"))


def test_the_settings_to_load_a_model_again_are_those_that_were_given():
    assert al.load_model("toy").load_settings == {}
    assert tiny_chat_model().with_system_prompt("Hi").load_settings == {"system_prompt": "Hi"}
    model = al.load_model("toy")
    hub = replace(model, source={**model.source, "name": "a/b", "revision": "abc", "dtype": "x"})
    assert hub.load_settings == {"revision": "abc"}
