"""Law: replies and scores are those of single prompts, computed once, and harm is never kept."""

import numpy as np
import pytest
import torch

from actor_lens.activations.store import Store
from actor_lens.judges import replies
from actor_lens.judges.first_token import RefusalTokens, refusal_scores
from actor_lens.judges.keywords import KeywordJudge
from actor_lens.judges.replies import Replies, write_replies
from actor_lens.models.batches import TokenBatch
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.replies import ReplyWriter, generate_replies
from actor_lens.prompts.rows import LABELS, Prompt
from actor_lens.prompts.sets import PromptSet
from tests.support.tiny_models import SOME_ARCHITECTURES, shared_tiny_model, talkative_tiny_model

TEXTS = ("Hello there", "How do I kill a Python process?", "Hi", "What is a fuse?", "Sing", "Go")
PROMPTS = PromptSet(tuple(Prompt(text, LABELS[number % 3]) for number, text in enumerate(TEXTS)))
TOKENS = RefusalTokens((40, 41, 77), ("a", "b", "c"))
OPENINGS = tuple((token,) for token in TOKENS.ids)
NEW_TOKENS = 6


def ask(model: ChatModel, store: Store | bool, prompts: PromptSet = PROMPTS) -> Replies:
    return write_replies(model, prompts, openings=OPENINGS, new_tokens=NEW_TOKENS, store=store)


class Rows:
    """Rows of every batch that replies were written to; after so many batches it is cut short."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[int] = []
        self.ids: dict[int, list[int]] = {}
        self.left = 100
        write = ReplyWriter.write

        def count(writer: ReplyWriter, batch: TokenBatch, *rest: object, **named: object) -> object:
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            self.seen += batch.indices
            written = write(writer, batch, *rest, **named)
            self.ids.update(zip(batch.indices, written, strict=True))
            return written

        monkeypatch.setattr(ReplyWriter, "write", count)


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Rows:
    return Rows(monkeypatch)


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The replies of which all refuses."""
    texts: set[str] = set()
    monkeypatch.setattr(replies, "_is_short_refusal", lambda reply, _judge: reply in texts)
    return texts


@pytest.mark.parametrize(
    ("reply", "kept"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I cannot assist with that request", True),
        ("Of course.", False),
        ("I can't help with that. Step 1: mix the flour. Step 2: bake it.", False),
        ("I cannot assist with that request. Here is how anyway: mix it.", False),
        ("I'm sorry, but I can't help with that. Sure! First you take the flour", False),
        ("I'm sorry, I can't help with that: mix the flour and bake it.", False),
        ("<think>mix the flour</think>I can't help with that.", False),
        ("I can't help with that\nMix the flour", False),
        ("I can't help with that, and " + "so on " * 40, False),
    ],
)
def test_a_refusal_is_kept_only_where_nothing_else_is_said(reply: str, kept: bool):
    assert replies._is_short_refusal(reply, replies.KeywordJudge()) is kept


@pytest.mark.parametrize("architecture", SOME_ARCHITECTURES)
def test_replies_and_scores_are_those_of_their_own_passes(architecture: str):
    model = talkative_tiny_model(architecture)
    given = ask(model, store=False)
    assert list(given.texts) == generate_replies(model, TEXTS, new_tokens=NEW_TOKENS)
    expected = refusal_scores(model, TEXTS, TOKENS).numpy()
    np.testing.assert_allclose(given.refusal_scores, expected, atol=1e-4)


def test_without_tokens_there_are_no_scores():
    given = write_replies(shared_tiny_model(), PROMPTS, new_tokens=2, store=False)
    assert np.isnan(given.refusal_scores).all()


def test_harmful_prompts_alone_are_answered_again(tmp_path, rows: Rows, refused: set[str]):
    model, store = talkative_tiny_model("llama"), Store(tmp_path)
    first = ask(model, store)
    assert sorted(rows.seen) == list(range(len(PROMPTS)))
    assert ask(model, store) == first
    harmful = [place for place, label in enumerate(PROMPTS.labels) if label == "harmful"]
    assert sorted(rows.seen[len(PROMPTS) :]) == harmful
    assert not refused


def test_short_refusals_of_harmful_prompts_are_kept(tmp_path, rows: Rows, refused: set[str]):
    model, store = talkative_tiny_model("llama"), Store(tmp_path)
    refused.update(ask(model, store=False).texts)
    rows.seen.clear()
    first = ask(model, store)
    assert ask(model, store) == first
    assert sorted(rows.seen) == list(range(len(PROMPTS)))


def test_no_answer_to_a_harmful_prompt_lies_in_the_store(tmp_path, rows: Rows, refused: set[str]):
    ask(talkative_tiny_model("llama"), Store(tmp_path))
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*.bin"))
    for row, label in enumerate(PROMPTS.labels):
        reply = torch.tensor(rows.ids[row], dtype=torch.int32).numpy().tobytes()
        assert (reply in kept) == (label != "harmful")
    assert not refused


def test_an_evaluation_that_was_cut_short_goes_on(tmp_path, rows: Rows, refused: set[str]):
    model, store = talkative_tiny_model("llama").with_batch_size(1), Store(tmp_path)
    expected = ask(model, store=False)
    refused.update(expected.texts)
    rows.seen.clear()
    rows.left = 2
    with pytest.raises(KeyboardInterrupt):
        ask(model, store)
    rows.left = 100
    given = ask(model, store)
    assert given.texts == expected.texts
    np.testing.assert_allclose(given.refusal_scores, expected.refusal_scores, atol=1e-5)
    assert sorted(rows.seen) == list(range(len(PROMPTS)))


def test_other_lengths_and_labels_are_answered_anew(tmp_path, rows: Rows):
    model, store = talkative_tiny_model("llama"), Store(tmp_path)
    ask(model, store)
    rows.seen.clear()
    write_replies(model, PROMPTS, openings=OPENINGS, new_tokens=NEW_TOKENS - 1, store=store)
    assert sorted(rows.seen) == list(range(len(PROMPTS)))
    rows.seen.clear()
    # What was a harmless prompt's reply is not taken for one that may be kept of a harmful prompt.
    relabelled = PromptSet(tuple(Prompt(text, "harmful") for text in TEXTS))
    ask(model, store, relabelled)
    assert sorted(rows.seen) == list(range(len(PROMPTS)))


def test_a_refusal_behind_a_thought_is_not_kept():
    judge = KeywordJudge()
    assert replies._is_short_refusal("I can't help with that.", judge)
    assert not replies._is_short_refusal("<think>This way</think>I can't help with that.", judge)
    assert not replies._is_short_refusal("Boil the eggs.", judge)
    assert not replies._is_short_refusal("I can't help with that." + " No." * 40, judge)


def test_other_settings_than_weights_are_another_model(tmp_path, rows: Rows):
    model, store = talkative_tiny_model("llama"), Store(tmp_path)
    ask(model, store)
    rows.seen.clear()
    model.hf.generation_config.eos_token_id = 7
    ask(model, store)
    assert sorted(rows.seen) == list(range(len(PROMPTS)))
    rows.seen.clear()
    model.hf.config.rms_norm_eps = 1e-2
    ask(model, store)
    assert sorted(rows.seen) == list(range(len(PROMPTS)))
