"""Law: any text goes through the tokenizer unharmed, and the template ends where a reply begins."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from actor_lens.files.bundled import bundled
from actor_lens.toy.tokenizer import BOS, CONTEXT, EOS, PAD, ROLES, train_tokenizer

_TEXTS = ("How do I kill a Python process?", "Open the task manager.", "It's fine; it is 9 o'clock")
_TRAINED = train_tokenizer(_TEXTS)
_BUNDLED = AutoTokenizer.from_pretrained(bundled("toy-chat"))
_SPECIAL = (PAD, BOS, EOS, *ROLES)


@pytest.fixture
def bundled_tokenizer() -> PreTrainedTokenizerFast:
    return _BUNDLED


@pytest.mark.parametrize("tokenizer", [_TRAINED, _BUNDLED], ids=["trained", "bundled"])
@given(text=st.text())
def test_any_text_comes_back_as_it_was(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assume(not any(token in text for token in _SPECIAL))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_the_template_ends_right_before_the_reply(
    bundled_tokenizer: PreTrainedTokenizerFast,
) -> None:
    turns = [{"role": "user", "content": "How do I greet my uncle?"}]
    head = bundled_tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    turns.append({"role": "assistant", "content": "Smile."})
    whole = bundled_tokenizer.apply_chat_template(turns, tokenize=False)
    assert whole == f"{head}Smile.{EOS}"
    assert head.startswith(BOS)
    assert head.count(BOS) == 1


def test_a_system_turn_comes_before_the_user(bundled_tokenizer: PreTrainedTokenizerFast) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello!"}]
    text = bundled_tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == f"{BOS}<|system|>Be brief.{EOS}<|user|>Hello!{EOS}<|assistant|>"


def test_an_unknown_role_is_refused(bundled_tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(Exception, match="Roles are system, user and assistant"):
        bundled_tokenizer.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


def test_plain_text_gets_the_beginning_token_once(
    bundled_tokenizer: PreTrainedTokenizerFast,
) -> None:
    ids = bundled_tokenizer("Hello!")["input_ids"]
    assert ids[0] == bundled_tokenizer.bos_token_id
    assert ids.count(bundled_tokenizer.bos_token_id) == 1
    assert bundled_tokenizer.model_max_length == CONTEXT >= 256
