"""Nothing is trained on but replies that the file or the model gave and the judge let pass."""

from dataclasses import replace

import pytest

from actor_lens.errors import UserError
from actor_lens.judges.first_token import FirstTokenJudge, RefusalTokens
from actor_lens.judges.keywords import KeywordJudge
from actor_lens.methods.support import reply_data as module
from actor_lens.methods.support.reply_data import HELPFUL, encoded, reply_data
from actor_lens.prompts.rows import Prompt
from actor_lens.prompts.sets import PromptSet
from tests.support.tiny_models import shared_tiny_model, tiny_chat_model

REFUSAL, ANSWER = "I'm sorry, but I can't help with that.", "Sure. Take two eggs."


def prompt_set(**replies):
    """Three prompts a label; the replies of each label in their order."""
    return PromptSet(
        tuple(
            Prompt(f"{label} {number}", label, reply=reply)
            for label in ("harmful", "pseudo_harmful", "benign")
            for number, reply in enumerate(replies.get(label, [None] * 3))
        ),
        name="made up",
    )


WHOLE = {"harmful": [REFUSAL] * 3, "pseudo_harmful": [ANSWER] * 3, "benign": [ANSWER] * 3}


def speaking(monkeypatch, say):
    """Let the model say what a function makes of its system prompt and the prompt."""

    def replies(model, prompts, **_settings):
        return [say(model.system_prompt, prompt) for prompt in prompts]

    monkeypatch.setattr(module, "generate_replies", replies)


def said(data, model):
    return [model.tokenizer.decode(one.reply_ids[:-1]) for one in data.examples]


def test_replies_of_the_file_are_used_as_they_are():
    model = shared_tiny_model()
    data = reply_data(model, prompt_set(**WHOLE), source="file")
    assert said(data, model) == [REFUSAL] * 3 + [ANSWER] * 6
    assert (data.from_file, data.from_model) == (9, 0)
    assert data.left_out == {"harmful": 0, "pseudo_harmful": 0, "benign": 0}


def test_answers_to_harmful_and_refusals_of_other_prompts_are_left_out_and_counted():
    model = shared_tiny_model()
    replies = {
        "harmful": [REFUSAL, REFUSAL, ANSWER],
        "pseudo_harmful": [ANSWER, REFUSAL, ANSWER],
        "benign": [ANSWER, ANSWER, None],
    }
    data = reply_data(model, prompt_set(**replies), source="file")
    assert said(data, model) == [REFUSAL] * 2 + [ANSWER] * 4
    assert data.settings() == {
        "reply_judge": KeywordJudge().identity,
        "replies_from_file": 6,
        "replies_from_model": 0,
        "harmful_left_out": 1,
        "pseudo_harmful_left_out": 1,
        "benign_left_out": 1,
    }


def test_the_model_itself_is_asked_plainly_for_refusals_and_for_help_first(monkeypatch):
    model = shared_tiny_model()
    asked = []

    def say(system, prompt):
        asked.append((system, prompt))
        if prompt.startswith("harmful"):
            return REFUSAL
        if prompt.endswith("1") and system == HELPFUL:
            return REFUSAL
        return f"Sure, {'with help' if system else 'plainly'}."

    speaking(monkeypatch, say)
    data = reply_data(model, prompt_set(), source="model")
    answers = ["Sure, with help.", "Sure, plainly.", "Sure, with help."]
    assert said(data, model) == [REFUSAL] * 3 + answers * 2
    assert (data.from_file, data.from_model) == (0, 9)
    assert all(system is None for system, prompt in asked if prompt.startswith("harmful"))
    # What is trained on is the plain prompt, whatever the reply was asked with.
    assert all(
        list(one.prompt_ids) == model.tokenize([prompt.prompt])[0]
        for one, prompt in zip(data.examples, prompt_set(), strict=True)
    )


def test_auto_fills_in_what_the_file_lacks(monkeypatch):
    model = shared_tiny_model()
    speaking(monkeypatch, lambda _system, prompt: REFUSAL if "harmful" == prompt[:7] else "Own.")
    data = reply_data(model, prompt_set(**{**WHOLE, "benign": [ANSWER, None, REFUSAL]}))
    assert said(data, model)[6:] == [ANSWER, "Own.", "Own."]
    assert (data.from_file, data.from_model) == (7, 2)


@pytest.mark.parametrize("label", ["harmful", "pseudo_harmful", "benign"])
def test_too_few_usable_replies_are_an_error_that_names_the_label(label):
    wrong = ANSWER if label == "harmful" else REFUSAL
    replies = {**WHOLE, label: [WHOLE[label][0], wrong, wrong]}
    with pytest.raises(UserError, match=f"made up: 1 {label} prompts of 3 have a usable reply"):
        reply_data(shared_tiny_model(), prompt_set(**replies), source="file")


def test_harmful_prompts_are_needed():
    prompts = prompt_set(**WHOLE)
    with pytest.raises(UserError, match="0 harmful prompts of 0"):
        reply_data(shared_tiny_model(), prompts.where(label="benign"))


def test_an_unknown_source_is_an_error():
    with pytest.raises(UserError, match="'web' is not known; use one of auto, file, model"):
        reply_data(shared_tiny_model(), prompt_set(**WHOLE), source="web")


def test_a_reply_too_long_for_the_model_is_an_error():
    with pytest.raises(UserError, match="takes 256"):
        encoded(shared_tiny_model(), Prompt("a", "benign"), "b" * 256)


def test_the_reply_stands_where_the_template_puts_it_and_ends_as_there():
    model = tiny_chat_model()
    model.tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}"
        "<assistant> {{ m.content }}<end>{% else %}<user>{{ m.content }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    end = model.tokenizer.convert_tokens_to_ids("<end>")
    model.hf.generation_config.eos_token_id = [1, end]
    example = encoded(model, Prompt("hi", "benign"), "Yes.")
    assert model.tokenizer.decode(example.reply_ids) == " Yes.<end>"
    assert model.tokenizer.decode(example.prompt_ids) == "<s><user>hi<assistant>"


@pytest.mark.parametrize("ends", [1, [1, 3]])
def test_a_template_that_ends_replies_otherwise_leaves_the_end_to_the_model(ends):
    model = tiny_chat_model()
    model.tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    model.hf.generation_config.eos_token_id = ends
    assert encoded(model, Prompt("hi", "benign"), "Yes.").reply_ids[-1] == 1


def test_a_template_without_replies_is_no_hindrance():
    model = tiny_chat_model()
    model.tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ raise_exception('no') }}"
        "{% endif %}<user>{{ m.content }}{% endfor %}<assistant>"
    )
    example = encoded(model, Prompt("hi", "benign"), "Yes.")
    assert model.tokenizer.decode(example.reply_ids[:-1]) == "Yes."


def test_openings_of_refusals_are_learnt_unless_answers_share_them():
    model = shared_tiny_model()
    replies = {
        "harmful": ["Sorry, no.", "I'm sorry, no.", "My apologies."],
        "pseudo_harmful": ["My pleasure."] * 3,
        "benign": ["Yes."] * 3,
    }
    data = reply_data(model, prompt_set(**replies), source="file")
    cannot = model.tokenizer("C")["input_ids"]
    tokens = data.opening_tokens(model, RefusalTokens(tuple(cannot), ("C",)))
    assert set(tokens.texts) == {"C", "S", "I"}
    assert list(tokens.ids) == sorted(tokens.ids)


def test_no_text_of_an_example_is_shown_by_repr():
    example = encoded(shared_tiny_model(), Prompt("a", "harmful"), REFUSAL)
    assert repr(replace(example)) == "ReplyExample(label='harmful')"


class TestJudges:
    """The judge that is given decides, also where it says the opposite of the keywords."""

    def test_the_given_judge_has_the_last_word(self):
        model, asked = shared_tiny_model(), []

        class Contrary:
            name, identity = "contrary", "contrary:1"

            def verdicts(self, prompts, replies):
                asked.append((prompts.texts, tuple(replies)))
                return tuple("answered" if reply == REFUSAL else "refused" for reply in replies)

        wrong = {"harmful": [ANSWER] * 3, "pseudo_harmful": [REFUSAL] * 3, "benign": [REFUSAL] * 3}
        data = reply_data(model, prompt_set(**wrong), source="file", judge=Contrary())
        assert said(data, model) == [ANSWER] * 3 + [REFUSAL] * 6
        assert data.settings()["reply_judge"] == "contrary:1"
        prompts = prompt_set(**wrong)
        assert asked == [(prompts.texts, tuple(one.reply for one in prompts))]

    @pytest.mark.parametrize("doubtful", ["partly_refused", "unreadable"])
    def test_what_is_neither_an_answer_nor_a_refusal_is_left_out(self, doubtful):
        class Doubtful:
            name = identity = "doubtful"

            def verdicts(self, prompts, replies):
                whole = KeywordJudge().verdicts(prompts, replies)
                return tuple(
                    doubtful if prompt.prompt.endswith("0") else verdict
                    for prompt, verdict in zip(prompts, whole, strict=True)
                )

        data = reply_data(shared_tiny_model(), prompt_set(**WHOLE), source="file", judge=Doubtful())
        assert data.left_out == {"harmful": 1, "pseudo_harmful": 1, "benign": 1}

    def test_a_first_token_judge_reads_no_text_and_the_row_says_who_stood_in(self):
        data = reply_data(
            shared_tiny_model(), prompt_set(**WHOLE), source="file", judge=FirstTokenJudge()
        )
        assert data.settings()["reply_judge"] == KeywordJudge().identity
