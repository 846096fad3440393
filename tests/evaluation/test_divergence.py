"""The divergence is that of the textbook between what the model says next with and without a run.

Truth is one forward pass of the Hugging Face model a prompt, softmax in numpy's float64, and
SciPy's relative entropy, also along whole replies. An unchanged block moves nothing, not by a
rounding error, and the model is as before afterwards, bit for bit.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax

from actor_lens.errors import UserError
from actor_lens.evaluation import divergence
from actor_lens.evaluation.divergence import Divergence, next_token_divergence, reply_divergence
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.replies import generate_replies
from actor_lens.prompts.rows import Prompt
from actor_lens.prompts.sets import PromptSet
from actor_lens.training.run import TrainingRun
from tests.support.tiny_models import SOME_ARCHITECTURES, talkative_tiny_model, tiny_chat_model
from tests.support.tiny_runs import copied_tensors, quick_run, same_bits, tiny_prompts

PROMPTS = tiny_prompts(3, offset=40)


@pytest.fixture(scope="module")
def model() -> ChatModel:
    return tiny_chat_model()


@pytest.fixture(scope="module")
def run(model: ChatModel) -> TrainingRun:
    return quick_run(model, lr=1e-2)


def distributions(model: ChatModel) -> np.ndarray:
    """What the model says next after each prompt: ``[prompt, token]``."""
    rows = []
    for ids in model.tokenize(PROMPTS.texts):
        with torch.no_grad():
            rows.append(model.hf(torch.tensor([ids])).logits[0, -1].double().numpy())
    return softmax(np.stack(rows), axis=1)


@pytest.mark.parametrize("architecture", SOME_ARCHITECTURES)
def test_divergence_is_scipys_of_single_prompts(architecture: str):
    model = tiny_chat_model(architecture)
    run = quick_run(model, layer=2, lr=1e-2)
    base = distributions(model)
    with run.applied_to(model):
        changed = distributions(model)
    expected = rel_entr(base, changed).sum(axis=1)
    other_way = rel_entr(changed, base).sum(axis=1)
    assert not np.allclose(expected, other_way, rtol=1e-3)  # else either would do
    for batch_size in (None, 1, 4):
        found = next_token_divergence(model.with_batch_size(batch_size), run, PROMPTS)
        np.testing.assert_allclose(found.values, expected, rtol=1e-3, atol=1e-6)
        assert found.values.dtype == torch.float64
        assert found.prompts == PROMPTS


def test_an_unchanged_block_moves_nothing_at_all(model: ChatModel):
    untrained = quick_run(model, should_stop=lambda: True)
    found = next_token_divergence(model, untrained, PROMPTS)
    assert found.values.tolist() == [0.0] * len(PROMPTS)
    assert found.mean == 0.0


NEVER = -float("inf")


@pytest.mark.parametrize(
    ("base", "changed", "expected"),
    [
        ([0.0, 0.0], [0.0, np.log(3)], 0.5 * np.log(2) + 0.5 * np.log(2 / 3)),
        ([5.0, 5.0, 5.0], [-7.0, -7.0, -7.0], 0.0),
        ([2000.0, 0.0], [2000.0, 0.0], 0.0),
        ([2000.0, 0.0], [0.0, 2000.0], 2000.0),
        ([0.0, 0.0, NEVER], [0.0, 0.0, NEVER], 0.0),
        ([0.0, 0.0, NEVER], [0.0, 0.0, 0.0], np.log(1.5)),
        ([0.0, 0.0], [0.0, NEVER], float("inf")),
    ],
)
def test_divergence_of_given_logits(
    model: ChatModel,
    run: TrainingRun,
    monkeypatch: pytest.MonkeyPatch,
    base: list[float],
    changed: list[float],
    expected: float,
):
    said = iter([torch.tensor([base, base]), torch.tensor([changed, base])])
    monkeypatch.setattr(divergence, "first_token_logits", lambda *_, **__: next(said))
    found = next_token_divergence(model, run, PROMPTS[:2])
    assert found.values[0].item() == pytest.approx(expected, abs=1e-12)
    assert found.values[1].item() == 0.0


def test_divergence_is_never_below_zero(
    model: ChatModel, run: TrainingRun, monkeypatch: pytest.MonkeyPatch
):
    """Also where the two differ by less than the sums are rounded to."""
    generator = torch.Generator().manual_seed(0)
    logits, noise = torch.randn(2, 300, 50, generator=generator, dtype=torch.float64)
    said = iter([logits, logits + 1e-10 * noise])
    monkeypatch.setattr(divergence, "first_token_logits", lambda *_, **__: next(said))
    prompts = PromptSet(tuple(Prompt(f"{i}", "benign") for i in range(300)))
    values = next_token_divergence(model, run, prompts).values
    assert bool((values >= 0).all())
    assert 0 < float(values.max()) < 1e-10


def test_the_model_is_as_before_afterwards(model: ChatModel, run: TrainingRun):
    before = copied_tensors(model)
    assert next_token_divergence(model, run, PROMPTS).mean > 1e-3
    assert same_bits(before, copied_tensors(model))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("call", [0, 1])
def test_the_model_is_as_before_after_an_exception(
    model: ChatModel,
    run: TrainingRun,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
    call: int,
):
    before, calls = copied_tensors(model), []
    really: Callable[..., torch.Tensor] = divergence.first_token_logits

    def failing(*args: object, **settings: object) -> torch.Tensor:
        calls.append(same_bits(before, copied_tensors(model)))
        if len(calls) == call + 1:
            raise error
        return really(*args, **settings)

    monkeypatch.setattr(divergence, "first_token_logits", failing)
    with pytest.raises(error):
        next_token_divergence(model, run, PROMPTS)
    assert calls == [True, False][: call + 1]  # in the second pass the run was in place
    assert same_bits(before, copied_tensors(model))


def test_table_has_a_row_for_each_prompt(model: ChatModel, run: TrainingRun):
    found = next_token_divergence(model, run, PROMPTS)
    frame = found.frame()
    assert list(frame.columns) == ["prompt_index", "prompt", "label", "split", "category", "kl"]
    assert frame["prompt"].tolist() == list(PROMPTS.texts)
    assert frame["kl"].tolist() == found.values.tolist()
    assert found.mean == pytest.approx(frame["kl"].mean())
    alone = Divergence(torch.tensor([1.0, 2.0], dtype=torch.float64), PROMPTS[:2])
    assert alone.mean == 1.5


@pytest.mark.parametrize(
    ("prompts", "seed", "message"),
    [
        (PromptSet(()), 0, "no prompts were given; check the label, split or file"),
        (PROMPTS, 1, "trained on other weights"),
    ],
)
def test_what_cannot_be_compared_is_told_before_any_work(
    run: TrainingRun,
    monkeypatch: pytest.MonkeyPatch,
    prompts: PromptSet,
    seed: int,
    message: str,
):
    def work(*_args: object, **_settings: object) -> None:
        raise AssertionError("work was begun")

    monkeypatch.setattr(divergence, "first_token_logits", work)
    with pytest.raises(UserError, match=message):
        next_token_divergence(tiny_chat_model(seed=seed), run, prompts)


def test_an_overlong_prompt_is_told(model: ChatModel, run: TrainingRun):
    prompts = PromptSet((*PROMPTS, Prompt("long " * 60, "benign")))
    with pytest.raises(UserError, match=r"has 304 tokens .* shorten or remove it"):
        next_token_divergence(model, run, prompts)


# ---- Other methods than a run ----


class SystemPrompt:
    """A method that changes no weight: the model is spoken to in another way."""

    @contextmanager
    def applied_to(self, model: ChatModel) -> Iterator[ChatModel]:
        yield replace(model, system_prompt="be brief")


class Louder:
    """A method that decodes in another way: the scores of tokens said already are doubled."""

    @contextmanager
    def applied_to(self, model: ChatModel) -> Iterator[ChatModel]:
        def doubled(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            return scores.scatter_add(1, ids, scores.gather(1, ids) / ids.shape[1])

        yield replace(model, decoding=lambda _prompts: doubled)


def test_the_model_that_a_method_yields_is_asked(model: ChatModel):
    found = next_token_divergence(model, SystemPrompt(), PROMPTS)
    base = distributions(model)
    changed = distributions(replace(model, system_prompt="be brief"))
    np.testing.assert_allclose(found.values, rel_entr(base, changed).sum(axis=1), rtol=1e-3)


# ---- Whole replies ----


def along(model: ChatModel, prompt: str, reply: list[int]) -> np.ndarray:
    """Distributions of every token of a reply and the one after, each from a pass of its own."""
    rows = []
    for length in range(len(reply) + 1):
        ids = torch.tensor([model.tokenize([prompt])[0] + reply[:length]])
        with torch.no_grad():
            row = model.hf(ids).logits[:, -1]
            row = row if model.decoding is None else model.decoding([prompt])(ids, row)
        rows.append(row[0].double().numpy())
    return softmax(np.stack(rows), axis=1)


@pytest.mark.parametrize("method", ["run", "system prompt", "decoding"])
def test_divergence_along_replies_is_the_mean_of_scipys_of_their_tokens(method: str):
    model = talkative_tiny_model("llama")
    changes = {"system prompt": SystemPrompt(), "decoding": Louder()}
    change = changes.get(method) or quick_run(model, lr=1e-2)
    untouched = talkative_tiny_model("llama")  # the same weights, untouched
    prompts = PROMPTS[:3]
    texts = generate_replies(model, prompts.texts, new_tokens=6)
    replies = [model.tokenizer(text, add_special_tokens=False)["input_ids"][:6] for text in texts]
    assert any(replies)
    found = reply_divergence(model, change, prompts, new_tokens=6)
    with change.applied_to(model) as asked:
        for value, prompt, reply in zip(found.values, prompts.texts, replies, strict=True):
            after = along(asked, prompt, reply)
            before = along(untouched, prompt, reply)
            expected = rel_entr(before, after).sum(axis=1).mean()
            assert value == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert found.mean > 1e-4


def test_with_an_empty_reply_it_is_that_of_the_first_token(
    run: TrainingRun, model: ChatModel, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(divergence, "generate_replies", lambda _, texts, **__: [""] * len(texts))
    found = reply_divergence(model, run, PROMPTS)
    first = next_token_divergence(model.with_batch_size(1), run, PROMPTS)
    np.testing.assert_allclose(found.values, first.values, rtol=1e-4, atol=1e-9)


def test_a_reply_without_room_is_told(run: TrainingRun, model: ChatModel):
    with pytest.raises(UserError, match="needs 250 for the reply"):
        reply_divergence(model, run, PROMPTS, new_tokens=250)
    with pytest.raises(UserError, match="no prompts were given"):
        reply_divergence(model, run, PromptSet(()))
