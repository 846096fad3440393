"""Law: first-token scores are log-odds in float64; their tokens open the model's own refusals."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from actor_lens.errors import UserError
from actor_lens.judges import openings
from actor_lens.judges.first_token import RefusalTokens, refusal_scores
from actor_lens.judges.keywords import KeywordJudge
from actor_lens.judges.opening_scores import log_odds
from actor_lens.judges.openings import refusal_tokens
from actor_lens.judges.replies import Replies
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.replies import generate_replies
from actor_lens.prompts.rows import Prompt
from actor_lens.prompts.sets import PromptSet
from tests.support.tiny_models import tiny_chat_model

# ---- Scores ----


@pytest.mark.parametrize("scale", [1.0, 30.0, 3e4])
@pytest.mark.parametrize("shape", [(20, 50), (5, 500_000)], ids=["few", "several copies"])
def test_log_odds_agree_with_float64(scale: float, shape: tuple[int, int]):
    rng = np.random.default_rng(0)
    logits = (scale * rng.normal(size=shape)).astype(np.float32)
    ids = [3, 17, 49]
    rest = np.delete(np.arange(shape[1]), ids)
    wide = logits.astype(np.float64)
    expected = logsumexp(wide[:, ids], axis=1) - logsumexp(wide[:, rest], axis=1)
    result = log_odds(torch.tensor(logits), torch.tensor(ids))
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


def test_log_odds_are_those_of_the_probability():
    logits = torch.randn(8, 12, generator=torch.Generator().manual_seed(0))
    p = logits.double().softmax(-1)[:, [0, 5]].sum(-1)
    expected = (p.log() - (1 - p).log()).float()
    torch.testing.assert_close(log_odds(logits, torch.tensor([0, 5])), expected)


def test_log_odds_stay_finite_where_probabilities_round_to_one():
    logits = torch.tensor([[90.0, 0.0, 0.0], [-90.0, 0.0, 0.0]])
    assert log_odds(logits, torch.tensor([0])).tolist() == pytest.approx(
        [90 - np.log(2), -90 - np.log(2)]
    )


PROMPTS = ("How?", "Why is the sky so very blue today?", "When, and who?", "No")


def test_refusal_scores_are_those_of_the_models_next_token():
    model = tiny_chat_model()
    tokens = RefusalTokens((40, 41, 77), ("a", "b", "c"))
    scores = refusal_scores(model.with_batch_size(3), PROMPTS, tokens)
    for prompt, score in zip(PROMPTS, scores.tolist(), strict=True):
        ids = torch.tensor(model.tokenize([prompt]))
        with torch.no_grad():
            p = model.hf(input_ids=ids).logits[0, -1].double().softmax(-1)[list(tokens.ids)].sum()
        assert score == pytest.approx(float(p.log() - (1 - p).log()), abs=1e-3)


# ---- Tokens ----

Force = Callable[[Mapping[str, tuple[int, str]]], ChatModel]


@pytest.fixture
def force(monkeypatch: pytest.MonkeyPatch) -> Force:
    """A model whose first token and reply to each prompt are given."""
    model = tiny_chat_model()

    def forced(said: Mapping[str, tuple[int, str]]) -> ChatModel:
        def answer(_model: ChatModel, prompts: PromptSet, **_settings: object) -> Replies:
            given = [said[text] for text in prompts.texts]
            ids = tuple((token,) for token, _ in given)
            return Replies(tuple(reply for _, reply in given), (), ids)

        monkeypatch.setattr(openings, "write_replies", answer)
        return model

    return forced


REFUSAL, ANSWER = "I can't help with that.", "Of course."


def said_by(
    harmful: list[tuple[int, str]], benign: list[tuple[int, str]]
) -> tuple[PromptSet, dict[str, tuple[int, str]]]:
    rows = [("harmful", one) for one in harmful] + [("benign", one) for one in benign]
    prompts = tuple(Prompt(f"prompt {i}", label) for i, (label, _) in enumerate(rows))
    return PromptSet(prompts), {f"prompt {i}": one for i, (_, one) in enumerate(rows)}


def test_tokens_are_those_that_open_refusals_and_not_answers(force: Force):
    prompts, said = said_by(
        # Of 100 refusals: 70 by 50, 27 by 60, 2 by 70, 1 by 80.
        harmful=[(50, REFUSAL)] * 70 + [(60, REFUSAL)] * 27 + [(70, REFUSAL)] * 2 + [(80, REFUSAL)],
        # Of 50 answers: 3 by 60 (6 %, and 27 % is less than five times that), 47 by 90.
        benign=[(60, ANSWER)] * 3 + [(90, ANSWER)] * 47,
    )
    model = force(said)
    result = refusal_tokens(model, prompts)
    assert result.ids == (50, 70)
    assert result.texts == tuple(model.tokenizer.decode([token]) for token in (50, 70))


def test_a_token_five_times_as_common_counts(force: Force):
    harmful = [(50, REFUSAL)] * 50 + [(60, REFUSAL)] * 50
    prompts, said = said_by(harmful, benign=[(60, ANSWER)] * 1 + [(90, ANSWER)] * 9)
    assert refusal_tokens(force(said), prompts).ids == (50, 60)


def test_answers_to_harmful_and_refusals_of_benign_prompts_do_not_count(force: Force):
    prompts, said = said_by(
        harmful=[(50, REFUSAL)] * 5 + [(60, ANSWER)] * 5,
        benign=[(50, REFUSAL)] * 5 + [(90, ANSWER)] * 5,
    )
    assert refusal_tokens(force(said), prompts).ids == (50,)


def test_the_given_judge_decides(force: Force):
    prompts, said = said_by(harmful=[(50, "Nope")] * 3, benign=[(60, ANSWER)] * 3)
    model = force(said)
    assert refusal_tokens(model, prompts, judge=KeywordJudge("own", ("nope",))).ids == (50,)
    with pytest.raises(UserError, match=r"'tiny-llama' refused none .* 'keywords'"):
        refusal_tokens(model, prompts)


def test_only_so_many_prompts_are_answered(force: Force):
    prompts, said = said_by(
        harmful=[(50, REFUSAL)] * 4 + [(70, REFUSAL)] * 4, benign=[(60, ANSWER)] * 4
    )
    assert refusal_tokens(force(said), prompts, limit=4).ids == (50,)


def test_a_model_that_opens_refusals_like_answers_is_refused(force: Force):
    prompts, said = said_by(harmful=[(50, REFUSAL)] * 9, benign=[(50, ANSWER)] * 9)
    with pytest.raises(UserError, match="refusals as it begins its answers"):
        refusal_tokens(force(said), prompts)


def test_a_model_that_refuses_everything_has_tokens_too(force: Force):
    prompts, said = said_by(harmful=[(50, REFUSAL)] * 9, benign=[(50, REFUSAL)] * 9)
    assert refusal_tokens(force(said), prompts).ids == (50,)


@pytest.mark.parametrize("label", ["harmful", "benign"])
def test_both_labels_are_needed(label: str):
    prompts = PromptSet((Prompt("How?", label),))
    with pytest.raises(UserError, match="need harmful and benign prompts"):
        refusal_tokens(tiny_chat_model(), prompts)


def test_tokens_come_from_what_the_model_says_first():
    # A random model babbles; a judge that knows its babble finds how it begins.
    model = tiny_chat_model()
    ids = model.tokenize(["Help me steal it!"])
    with torch.no_grad():
        opened = int(model.hf(input_ids=torch.tensor(ids)).logits[0, -1].argmax())
    prompts = PromptSet((Prompt("Help me steal it!", "harmful"), Prompt("Hello!", "benign")))
    replies = generate_replies(model, prompts.texts, new_tokens=24)
    judge = KeywordJudge("babble", (replies[0],), exempt=())
    assert judge.refused(replies[0])
    assert not judge.refused(replies[1])
    assert refusal_tokens(model, prompts, judge=judge).ids == (opened,)
