"""Perplexity is the textbook's: the mean log-likelihood of tokens, each predicted once.

Truth is one forward pass of the Hugging Face model a token, softmax in numpy's float64. The windows
cover every token once, whatever window and stride; a text within the window is one pass.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from actor_lens.errors import UserError
from actor_lens.evaluation.perplexity import perplexity, windows
from actor_lens.models.chat_model import ChatModel, load_model
from actor_lens.progress import reporting, stage
from tests.support.reports import Recorder
from tests.support.tiny_models import SOME_ARCHITECTURES, shared_tiny_model, tiny_chat_model
from tests.support.tiny_runs import copied_tensors, quick_run, same_bits

TEXT = " = Lobsters = \n \n They are blue , and turn red on <unk> cooking . \n" * 2


@pytest.fixture(scope="module")
def model() -> ChatModel:
    return shared_tiny_model()


def token_by_token(model: ChatModel, text: str, window: int, stride: int) -> np.ndarray:
    """Negative log-likelihood of each token, from a pass of its own over what it may look at."""
    ids = [0, *model.tokenizer(text, add_special_tokens=False)["input_ids"]]
    found = []
    for index in range(1, len(ids)):
        start = 0
        while start + window <= index:  # the first window that reaches the token
            start += stride
        seen = torch.tensor([ids[start:index]])
        with torch.no_grad():
            row = model.hf(seen).logits[0, -1].double().numpy()
        shifted = row - row.max()
        found.append(np.log(np.exp(shifted).sum()) - shifted[ids[index]])
    return np.array(found)


@pytest.mark.parametrize("architecture", SOME_ARCHITECTURES)
def test_perplexity_is_that_of_single_tokens(architecture: str):
    model = shared_tiny_model(architecture)
    found = perplexity(model, TEXT, window=40, stride=17)
    expected = token_by_token(model, TEXT, 40, 17)
    assert found.tokens == len(expected) == len(TEXT.encode())
    assert found.nats == pytest.approx(expected.mean(), rel=1e-5)
    assert found.value == pytest.approx(np.exp(expected.mean()), rel=1e-4)


@pytest.mark.parametrize(("window", "stride"), [(256, 128), (len(TEXT) + 1, 1)])
def test_a_text_within_the_window_is_one_pass(model: ChatModel, window: int, stride: int):
    ids = torch.tensor([[0, *model.tokenizer(TEXT, add_special_tokens=False)["input_ids"]]])
    with torch.no_grad():
        loss = float(model.hf(ids, labels=ids).loss)  # the mean that transformers computes itself
    found = perplexity(model, TEXT, window=window, stride=stride)
    assert found.nats == pytest.approx(loss, rel=1e-5)


@given(tokens=st.integers(1, 200), window=st.integers(2, 60), data=st.data())
def test_windows_score_every_token_once(tokens: int, window: int, data: st.DataObject):
    stride = data.draw(st.integers(1, window - 1))
    places = list(windows(tokens, window, stride))
    scored = [token for place in places for token in range(place.first, place.end)]
    assert scored == list(range(1, tokens))
    assert all(place.end - place.start <= window for place in places)
    assert all(place.start < place.first < place.end for place in places)
    assert all(place.first - place.start >= window - stride for place in places[1:])


def test_more_context_is_never_left_unused(model: ChatModel):
    """With a stride of 1, each token sees all the window can hold."""
    found = perplexity(model, TEXT, window=9, stride=1)
    assert found.nats == pytest.approx(token_by_token(model, TEXT, 9, 1).mean(), rel=1e-5)


def test_a_tokenizer_without_bos_predicts_all_but_the_first():
    model = tiny_chat_model()
    model.tokenizer.bos_token = None
    ids = torch.tensor([model.tokenizer(TEXT, add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        loss = float(model.hf(ids, labels=ids).loss)
    found = perplexity(model, TEXT)
    assert found.tokens == ids.shape[1] - 1
    assert found.nats == pytest.approx(loss, rel=1e-5)
    with pytest.raises(UserError, match="holds no text to predict"):
        perplexity(model, "x")


def test_a_run_is_in_place_for_it_and_leaves(model: ChatModel):
    run = quick_run(model, lr=1e-2)
    before = copied_tensors(model)
    with run.applied_to(model):
        inside = perplexity(model, TEXT)
    assert perplexity(model, TEXT, run=run) == inside
    assert abs(inside.nats - perplexity(model, TEXT).nats) > 1e-4
    assert same_bits(before, copied_tensors(model))


def test_a_file_is_read_by_name_or_path(model: ChatModel, tmp_path: Path):
    file = tmp_path / "wiki.txt"
    file.write_bytes(TEXT.replace("\n", "\r\n").encode())
    expected = perplexity(model, TEXT.replace("\n", "\r\n"))
    for given_as in (file, str(file)):
        found = perplexity(model, given_as)
        assert (found.nats, found.tokens) == (expected.nats, expected.tokens)
        assert found.text == str(file)
    assert found.frame().to_dict("records") == [
        {
            "text": str(file),
            "perplexity": found.value,
            "nats": found.nats,
            "tokens": found.tokens,
            "window": 256,
            "stride": 128,
        }
    ]


def test_progress_ends_at_all_tokens(model: ChatModel):
    recorder = Recorder()
    with reporting(recorder), stage("perplexity"):
        result = perplexity(model, TEXT, window=40)
    parts = recorder.parts("perplexity")
    assert parts[-1] == (result.tokens, result.tokens)
    assert [done for done, _ in parts] == sorted({done for done, _ in parts})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no text to predict"),
        (b"caf\xe9", r"is not UTF-8 \(byte 3\)"),
        (None, "cannot be read"),
    ],
)
def test_an_unusable_file_is_told(
    model: ChatModel, tmp_path: Path, content: bytes | None, message: str
):
    file = tmp_path / "text.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=message) as told:
        perplexity(model, file)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 1}, "window is 1; give a whole number from 2 to 256"),
        ({"window": 257}, "window is 257"),
        ({"stride": 0}, "stride is 0; give a whole number from 1 to 255"),
        ({"window": 8, "stride": 8}, "stride is 8; give a whole number from 1 to 7"),
    ],
)
def test_impossible_windows_are_told(model: ChatModel, settings: dict[str, int], message: str):
    with pytest.raises(UserError, match=message):
        perplexity(model, TEXT, **settings)


@pytest.mark.skipif(
    "ACTOR_LENS_BENCHMARKS" not in os.environ, reason="needs the folder of public files"
)
def test_wikitext_as_it_is_distributed():
    file = Path(os.environ["ACTOR_LENS_BENCHMARKS"]) / "wikitext2_valid_head.txt"
    text = file.read_bytes().decode()[:20_000]
    model = load_model("toy")
    found = perplexity(model, text)
    tokens = model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    assert found.tokens == len(tokens) - (model.tokenizer.bos_token_id is None)
    assert 1 < found.value < 10 * len(model.tokenizer)
