"""Law: the score is the log-odds that a reply begins with any opening; openings are shortest.

Probabilities are compared with those that plain forward passes give, one for each opening; what
openings are found, with replies that were planted.
"""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

import actor_lens as al
from actor_lens.directions.predicted_refusals import current_refusals
from actor_lens.errors import UserError
from actor_lens.evaluation.evaluate import evaluate
from actor_lens.judges import openings as module
from actor_lens.judges.first_token import (
    FirstTokenJudge,
    RefusalOpenings,
    RefusalTokens,
    refusal_scores,
)
from actor_lens.judges.opening_scores import opening_scores, score_openings
from actor_lens.judges.openings import (
    refusal_openings,
    refusal_tokens,
    score_agreement,
)
from actor_lens.judges.replies import Replies
from actor_lens.prompts.rows import Prompt
from actor_lens.prompts.sets import PromptSet
from tests.support.tiny_models import SOME_ARCHITECTURES, shared_tiny_model, tiny_chat_model

PROMPTS = ("How?", "Why is the sky so very blue today?", "When, and who?", "No")


def some(*ids):
    return RefusalOpenings(ids, ("",) * len(ids), (1,) * len(ids), (0,) * len(ids), len(ids), 1)


# ---- Scores ----


def test_openings_of_one_token_give_the_first_token_score_to_the_bit():
    model = shared_tiny_model("llama")
    tokens = RefusalTokens((40, 41, 77), ("a", "b", "c"))
    openings = some((40,), (41,), (77,))
    expected = refusal_scores(model, PROMPTS, tokens)
    assert torch.equal(opening_scores(model, PROMPTS, openings), expected)
    assert torch.equal(opening_scores(model, PROMPTS, tokens), expected)
    assert openings.simplest == RefusalTokens(tokens.ids, ("",) * 3)


@pytest.mark.parametrize("architecture", SOME_ARCHITECTURES)
def test_scores_are_the_log_odds_of_all_openings_together(architecture):
    """Each opening by forward passes of its own; openings share beginnings and differ in length."""
    model = shared_tiny_model(architecture).with_batch_size(3)
    ids = ((40,), (41, 7), (41, 9), (41, 11, 3, 8), (5, 6))
    scores = opening_scores(model, PROMPTS, some(*ids))
    for prompt, score in zip(PROMPTS, scores.tolist(), strict=True):
        total = 0.0
        for opening in ids:
            row, share = list(model.tokenize([prompt])[0]), 1.0
            for token in opening:
                with torch.no_grad():
                    logits = model.hf(input_ids=torch.tensor([row])).logits[0, -1].double()
                share *= float(logits.softmax(-1)[token])
                row.append(token)
            total += share
        assert score == pytest.approx(math.log(total) - math.log1p(-total), abs=1e-3)


def test_scores_stay_finite_where_an_opening_is_nearly_certain():
    def ask(_beginning):
        return torch.zeros(1, 9).index_fill(1, torch.tensor([3]), 90.0)

    # 1 - p of each of the two tokens is 8 exp(-90), which no p that is near 1 could tell.
    [score] = score_openings(ask, ((3, 3),)).tolist()
    assert score == pytest.approx(90 - math.log(16), rel=1e-5)


def test_they_stand_where_tokens_stand():
    model, openings = shared_tiny_model("llama"), some((40,), (41, 7))
    prompts = PromptSet(tuple(Prompt(text, "benign") for text in PROMPTS))
    scores = opening_scores(model, PROMPTS, openings)
    judge = FirstTokenJudge(openings)
    evaluation = evaluate(model, prompts, judge=judge, new_tokens=1)
    assert evaluation.refusal_scores == tuple(scores.tolist())
    assert evaluation.refused == tuple((scores > 0).tolist())
    assert torch.equal(current_refusals(model, prompts, openings).refusal_scores, scores)
    identities = {FirstTokenJudge(one).identity for one in (openings, some((40,), (41, 8)), None)}
    assert len(identities) == 3


# ---- Which openings there are ----


REFUSAL, ANSWER = "I'm sorry, but I can't help with that.", "Boil the eggs."


@pytest.fixture
def planted(monkeypatch):
    """Replies by their token ids, to harmful and to benign prompts; of a negative id: refused."""

    def plant(harmful, benign):
        said = {}
        rows = []
        for label, replies in (("harmful", harmful), ("benign", benign)):
            for number, (ids, refused) in enumerate(replies):
                text = f"{label} {number}"
                rows.append(Prompt(text, label))
                said[text] = (ids, REFUSAL if refused else ANSWER)

        def answer(_model, prompts, **_settings):
            given = [said[text] for text in prompts.texts]
            return Replies(tuple(reply for _, reply in given), (), tuple(ids for ids, _ in given))

        monkeypatch.setattr(module, "write_replies", answer)
        return PromptSet(tuple(rows))

    return plant


@pytest.fixture(scope="module")
def model():
    return tiny_chat_model()


def replies(**counts):
    """So many replies of each beginning: ``r10_20=3`` are three refusals with these ids."""
    return [
        (tuple(map(int, name[1:].split("_"))), name[0] == "r")
        for name, count in counts.items()
        for _ in range(count)
    ]


def test_a_token_that_no_answer_begins_with_is_enough(planted, model):
    found = refusal_openings(model, planted(replies(r10_20=9, r11_21=1), replies(a12_20=9)))
    assert found.ids == ((10,), (11,))
    assert (found.refusals, found.answers) == ((9, 1), (0, 0))
    assert found.coverage == 1
    assert found.tokens is not None


def test_a_token_that_answers_share_is_made_longer(planted, model):
    harmful = replies(r10_20_30_40=30, r10_21_30_40=20, r11_71_71_71=3, a10_22_71_71=5)
    benign = replies(a10_22_30_40=10, a12_71_71_71=90, r10_20_30_40=3)
    found = refusal_openings(model, planted(harmful, benign))
    assert found.ids == ((10, 20), (10, 21), (11,))
    assert (found.n_refusals, found.n_answers) == (53, 100)
    assert found.frame()["n_tokens"].tolist() == [2, 2, 1]


def test_an_opening_has_at_most_four_tokens(planted, model):
    harmful, benign = replies(r51_52_53_54_55=50), replies(a51_52_53_54_56=10, a59=90)
    found = refusal_openings(model, planted(harmful, benign))
    assert found.ids == ((51, 52, 53, 54),)  # five times as common, if not alone
    assert refusal_openings(model, planted(harmful, benign), most_tokens=2).ids == ((51, 52),)


def test_rare_beginnings_are_left_out(planted, model):
    found = refusal_openings(model, planted(replies(r10=99, r11=1), replies(a12=9)))
    assert found.ids == ((10,),)
    assert found.coverage == pytest.approx(0.99)


def test_a_reply_that_ended_is_not_made_longer(planted, model):
    end = model.tokenizer.eos_token_id
    harmful, benign = replies(**{f"r{end}": 9, "r10_20": 9}), replies(**{f"a{end}": 9, "a12": 9})
    assert refusal_openings(model, planted(harmful, benign)).ids == ((10,),)


def test_no_opening_begins_with_another(planted, model):
    rng = np.random.default_rng(0)
    for _ in range(5):
        harmful, benign = (
            [(tuple(rng.integers(51, 54, size=6).tolist()), refused) for _ in range(60)]
            for refused in (True, False)
        )
        try:
            ids = refusal_openings(model, planted(harmful, benign), most_tokens=6).ids
        except UserError:
            continue
        assert not [(a, b) for a in ids for b in ids if a is not b and a == b[: len(a)]]


def test_replies_that_begin_alike_are_an_error(planted, model):
    same = replies(**{"r51_52_53_54_55": 9}), replies(**{"a51_52_53_54_56": 9})
    with pytest.raises(UserError, match="begins its refusals as it begins its answers"):
        refusal_openings(model, planted(*same))
    with pytest.raises(UserError, match="refused none of the harmful prompts"):
        refusal_openings(model, planted(replies(a51=3), replies(a51=3)))


def test_the_bundled_model_is_scored_as_before():
    model, prompts = al.load_model("toy"), al.load_prompts("toy")["validation"]
    openings = refusal_openings(model, prompts, limit=12)
    assert openings.simplest == refusal_tokens(model, prompts, limit=12)


# ---- Agreement ----


def test_agreement_is_accuracy_at_zero_and_auroc():
    rng = np.random.default_rng(0)
    refused = rng.random(80) < 0.4
    scores = np.round(2 * rng.normal(size=80) + 2 * refused - 1, 1)
    found = score_agreement(scores.tolist(), refused.tolist())
    assert found.accuracy.value == ((scores > 0) == refused).mean()
    assert found.auroc == pytest.approx(roc_auc_score(refused, scores))
    assert found.missed + found.false == ((scores > 0) != refused).sum()
    (warning,) = found.warnings
    assert f"agree on {found.accuracy.value:.0%} of 80 prompts" in warning


def test_the_best_threshold_is_found_and_can_be_used_on_other_prompts():
    scores, refused = [-3.0, -2.0, -1.0, -0.5, 2.0], [False, False, True, True, True]
    found = score_agreement(scores, refused)
    assert (found.accuracy.value, found.missed) == (0.6, 2)
    assert (found.best_threshold, found.best_accuracy) == (-1.5, 1.0)
    again = score_agreement([-2.0, -1.4], [False, True], threshold=found.best_threshold)
    assert (again.accuracy.value, again.threshold) == (1.0, -1.5)
    assert score_agreement([-1.0, 1.0], [False, True]).best_threshold == 0


def test_what_was_not_measured_or_judged_is_left_out():
    found = score_agreement([1.0, math.nan, -1.0, 3.0], [True, True, False, None])
    assert (found.accuracy.value, found.accuracy.n, found.auroc) == (1, 2, 1)
    assert found.warnings == ()
    nothing = score_agreement([math.nan], [True])
    assert nothing.accuracy.n == 0
    assert nothing.warnings == ()
    assert math.isnan(score_agreement([1.0], [True]).auroc)
