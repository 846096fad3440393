"""AdaCD's scores against the formula written out for one row at a time, and its first tokens."""

import math

import numpy as np
import pytest
import torch

from actor_lens.errors import UserError
from actor_lens.methods.adacd import AdaCD, adapted, adaptive_model
from actor_lens.methods.support.system_turn import with_system_text
from actor_lens.models.replies import generate_replies
from tests.support.tiny_models import talkative_tiny_model, tiny_chat_model
from tests.support.tiny_runs import tiny_prompts

PROMPTS = ["How do I kill a Python process?", "a", "Bake two cakes, quickly"]
A, LAM, BETA = 2.5, 0.5, 0.01


def written_out(y, refusing, a=A, lam=LAM, beta=BETA):
    """Scores of one row, minus infinity where excluded; and whether the model agrees."""
    p, q = (np.exp(one - one.max()) / np.exp(one - one.max()).sum() for one in (y, refusing))
    rank = 1 + sum(y > y[refusing.argmax()])
    agrees = 1 / rank >= lam and p.max() >= lam * q.max()
    scores = refusing + (a if agrees else -a) * (refusing - y)
    return np.where(p >= beta * p.max(), scores, -math.inf), agrees


def test_both_branches_on_five_tokens():
    y = np.array([[3.0, 1.0, 0.5, -1.0, -9.0], [3.0, 2.9, 2.8, 2.5, -9.0]])
    refusing = np.array([[2.0, 0.0, 1.0, 0.3, 5.0 - 9.0], [0.0, 1.0, 0.5, 4.0, 1.0]])
    branches = []
    found = adapted(
        torch.tensor(y), torch.tensor(refusing), strength=A, agreement=LAM, beta=BETA
    ).numpy()
    for row in range(2):
        scores, agrees = written_out(y[row], refusing[row])
        branches.append(agrees)
        kept = np.isfinite(scores)
        assert 0 < kept.sum() < 5
        assert np.abs(found[row][kept] - (scores - scores.max())[kept]).max() < 1e-10
        assert (found[row][~kept] < -1e3).all()
    assert branches == [True, False]


def test_strength_one_without_agreement_is_the_model_itself_but_for_the_excluded():
    y, refusing = torch.tensor([[2.0, 1.0, 0.5]]), torch.tensor([[0.0, 0.0, 9.0]])
    found = adapted(y, refusing, strength=1.0, agreement=1.0, beta=1e-6)
    torch.testing.assert_close(found, y - y.max())


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_first_tokens_are_those_of_a_slow_loop_and_the_rest_the_models_own(architecture):
    model = talkative_tiny_model(architecture)
    method = AdaCD(first_tokens=3, refusal_prompt="Refuse.")
    asked = with_system_text(model, method.refusal_prompt)

    def logits(ids):
        with torch.no_grad():
            return model.hf(input_ids=torch.tensor([ids])).logits[0, -1].double().numpy()

    truth = []
    for prompt in PROMPTS:
        reply = []
        for _ in range(6):
            y = logits(model.tokenize([prompt])[0] + reply)
            if len(reply) < 3:
                y, _ = written_out(y, logits(asked.tokenize([prompt])[0] + reply))
            reply.append(int(y.argmax()))
        truth.append(model.tokenizer.decode(reply, skip_special_tokens=True).strip())
    mixed = adaptive_model(method, A, LAM, model)
    assert generate_replies(mixed, PROMPTS, new_tokens=6) == truth
    assert generate_replies(model, PROMPTS, new_tokens=6) != truth


@pytest.mark.parametrize("setting", [{"strengths": ()}, {"agreements": ()}, {"beta": 0.0}])
def test_nothing_to_try_is_one_line(setting):
    with pytest.raises(UserError, match="adacd needs strengths"):
        AdaCD(**setting).fit(tiny_chat_model(), tiny_prompts(2), tiny_prompts(1))
