"""What a model is told is what its own template makes of it, with a system prompt, unthinking.

A system prompt is refused where the template would raise or leave it out, and changes what
directions and runs depend on.
"""

from __future__ import annotations

import datetime
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import actor_lens as al
from actor_lens.diagnostics.description import describe
from actor_lens.models.chat_model import wrap_model
from actor_lens.models.chat_templates import (
    end_of_turn,
    has_thinking_switch,
    missing_opening,
    render,
    takes_system_prompt,
)
from actor_lens.models.replies import end_tokens, generate_replies
from actor_lens.progress import reporting
from tests.support.reports import Recorder
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
    adapted = replace(model, source={**model.source, "adapter": "x"})
    assert adapted.load_settings == {"adapter": "x"}
    assert replace(adapted, name="smollm2-cautious").load_settings == {}  # the name brings it


DATED = (
    "\n{{ '<user>' + strftime_now('%d %b %Y') + strftime_now('%-m') }}" + SAYS_ALL + "<assistant>"
)
CHATML = (
    "{% for m in messages %}{{ '<user>' if m['role'] == 'user' else '<assistant>' }}"
    "{{ m['content'] + '<end>' }}{% endfor %}"
)
OPENS = CHATML + "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
FAILS = "{{ raise_exception('never') }}"
MISTRAL = (
    "{% for m in messages %}{{ '[INST] ' + m['content'] + ' [/INST]' if m['role'] == 'user' "
    "else ' ' + m['content'] + eos_token }}{% endfor %}"
)


def templated(template):
    return wrap_model(shared_tiny_model().hf, tiny_tokenizer(template), name="m")


def test_a_template_that_asks_for_the_date_says_the_same_on_every_day(monkeypatch):
    model = templated(DATED)
    once = model.render("Hi")
    later = datetime.datetime(2031, 1, 2)
    monkeypatch.setattr(
        "transformers.utils.chat_template_utils.datetime",
        SimpleNamespace(now=lambda: later),
    )
    again = templated(DATED)
    assert again.render("Hi") == once == "\n<user>26 Jul 20247<user>Hi<assistant>"
    assert again.fingerprint == model.fingerprint
    assert any("26 Jul 2024" in warning for warning in describe(model).warnings)


@pytest.mark.parametrize(
    ("template", "missing"),
    [(CHATML, "<assistant>"), (OPENS, ""), (CHAT_TEMPLATE, ""), (MISTRAL, ""), (FAILS, "")],
)
def test_a_template_that_never_opens_the_reply_is_found(template, missing):
    assert missing_opening(tiny_tokenizer(template)) == missing


def test_describe_and_training_warn_of_a_reply_that_is_never_opened():
    model, heard = templated(CHATML), Recorder()
    with reporting(heard):
        quick_run(model, epochs=1)
        quick_run(model, epochs=1)
    (warning,) = heard.warnings  # once, however often it is trained
    assert "<assistant>" in warning
    assert "--chat-template" in warning
    assert warning in describe(model).warnings


@pytest.mark.parametrize(
    ("template", "token"), [(OPENS, "<end>"), (MISTRAL, "</s>"), (SAYS_ALL, None), (FAILS, None)]
)
def test_the_end_of_a_turn(template, token):
    tokenizer = tiny_tokenizer(template)
    ids = None if token is None else tokenizer.convert_tokens_to_ids(token)
    assert end_of_turn(tokenizer) == ids


def test_a_reply_ends_where_the_template_ends_a_turn():
    model = tiny_chat_model()
    wrapped = wrap_model(model.hf, tiny_tokenizer(OPENS), name="m")
    end = wrapped.tokenizer.convert_tokens_to_ids("<end>")
    assert model.hf.generation_config.eos_token_id != end
    assert end_tokens(wrapped) == (model.hf.generation_config.eos_token_id, end)
    assert describe(wrapped).end_tokens == end_tokens(wrapped)

    def always(token):
        def process(_ids, scores):
            return torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor([token]), 0.0)

        return lambda _prompts: process

    a = wrapped.tokenizer.convert_tokens_to_ids("a")
    ended = replace(wrapped, decoding=always(end))
    going_on = replace(wrapped, decoding=always(a))
    assert generate_replies(ended, ["Hi"], new_tokens=4) == [""]
    assert generate_replies(going_on, ["Hi"], new_tokens=4) == ["aaaa"]
