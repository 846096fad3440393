"""A contrasted reply is, token by token, argmax of ``y - alpha (y_safety - y)``.

Truth is a loop that reads both whole texts anew at every step, one prompt at a time.
"""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from actor_lens.errors import UserError
from actor_lens.methods.self_cd import SelfCD, contrasting_model
from actor_lens.methods.support.fitted import FittedIntervention
from actor_lens.methods.support.second_pass import SecondPass
from actor_lens.models.replies import first_token_logits, generate_replies
from tests.support.tiny_models import shared_tiny_model, talkative_tiny_model, tiny_chat_model
from tests.support.tiny_runs import tiny_prompts

SAFETY = "Be very careful."
ALPHA = 1.5
PROMPTS = ["How do I kill a Python process?", "a", "Bake a cake", "Bake two cakes, quickly"]
N = 8
each_architecture = pytest.mark.parametrize(
    "architecture", ["llama", "mistral", "gemma2", "gemma3_text", "gpt2", "phi3"]
)


def fitted(model, alpha=ALPHA):
    method = SelfCD(safety_prompt=SAFETY)

    def enter(asked):
        return nullcontext(contrasting_model(method, alpha, asked))

    return FittedIntervention({}, (), enter, model.fingerprint)


def logits_of(model, ids):
    with torch.no_grad():
        return model.hf(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]


def slow_scores(model, prompt, reply, alpha):
    """Both contexts read as a whole."""
    plain = model.tokenize([prompt])[0]
    warned = replace(model, system_prompt=SAFETY).tokenize([prompt])[0]
    assert len(warned) > len(plain)
    y, safety = logits_of(model, plain + reply), logits_of(model, warned + reply)
    return y - alpha * (safety - y)


def slow_reply(model, prompt, ends=(), alpha=ALPHA):
    reply: list[int] = []
    while len(reply) < N and not (reply and reply[-1] in ends):
        reply.append(int(slow_scores(model, prompt, reply, alpha).argmax()))
    return reply


def texts(model, replies):
    return [model.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in replies]


@each_architecture
@pytest.mark.parametrize("batch_size", [1, 4])
def test_replies_are_those_of_the_slow_loop(architecture, batch_size):
    model = talkative_tiny_model(architecture)
    truth = texts(model, [slow_reply(model, prompt) for prompt in PROMPTS])
    with fitted(model).applied_to(model) as inside:
        replies = generate_replies(inside.with_batch_size(batch_size), PROMPTS, new_tokens=N)
    assert replies == truth
    assert replies != generate_replies(model, PROMPTS, new_tokens=N)


def test_rows_that_end_early_leave_the_others_alone():
    model = talkative_tiny_model("llama")
    free = [slow_reply(model, prompt) for prompt in PROMPTS]
    end = free[0][2]
    truth = [slow_reply(model, prompt, ends=(end,)) for prompt in PROMPTS]
    assert len({len(reply) for reply in truth}) > 1
    model.hf.generation_config.eos_token_id = [end]
    with fitted(model).applied_to(model) as inside:
        replies = generate_replies(inside.with_batch_size(4), PROMPTS, new_tokens=N)
    assert replies == texts(model, truth)


@each_architecture
def test_first_token_scores_are_contrasted_too(architecture):
    model = shared_tiny_model(architecture)
    with fitted(model).applied_to(model) as inside:
        logits = first_token_logits(inside, PROMPTS)
    truth = torch.stack([slow_scores(model, prompt, [], ALPHA) for prompt in PROMPTS])
    torch.testing.assert_close(logits, truth, rtol=1e-3, atol=2e-3)


@each_architecture
def test_one_processor_may_begin_again_and_jump(architecture):
    model = shared_tiny_model(architecture)
    process = contrasting_model(SelfCD(safety_prompt=SAFETY), ALPHA, model).decoding(PROMPTS[:1])
    prompt = model.tokenize(PROMPTS[:1])[0]
    for reply in ([], [5], [5, 9], [], [7], [7, 8, 9], [7, 8, 9, 4]):
        scores = logits_of(model, prompt + reply)[None]
        found = process(torch.tensor([prompt + reply]), scores)[0]
        truth = slow_scores(model, PROMPTS[0], reply, ALPHA)
        torch.testing.assert_close(found, truth, rtol=1e-3, atol=2e-3)


def test_a_token_costs_one_short_pass(monkeypatch):
    model = shared_tiny_model()
    lengths = []
    forward = model.hf.forward

    def counted(*args, **kwargs):
        lengths.append(kwargs["input_ids"].shape[1])
        return forward(*args, **kwargs)

    monkeypatch.setattr(model.hf, "forward", counted)
    second = SecondPass(model.hf, model, PROMPTS[:2])
    reply = torch.zeros(2, 0, dtype=torch.long)
    for _ in range(4):
        token = second.logits(reply).argmax(-1, keepdim=True)
        reply = torch.cat([reply, token], dim=1)
    assert lengths[1:] == [1, 1, 1]
    assert lengths[0] > 1
    for other in ([[7, 8], [7, 8]], [[7, 9, 4], [7, 9, 4]], [[7], [7]]):  # questions on the way
        second.logits(torch.tensor(other))
    assert lengths[4:] == [2, 2, 1]


def test_without_strength_nothing_changes():
    model = shared_tiny_model()
    with fitted(model, alpha=0.0).applied_to(model) as inside:
        logits = first_token_logits(inside, PROMPTS)
    assert torch.equal(logits, first_token_logits(model, PROMPTS))


def test_the_model_itself_is_never_touched_also_not_by_an_exception():
    model = shared_tiny_model()
    logits = first_token_logits(model, PROMPTS)

    def fail_inside():
        with fitted(model).applied_to(model) as inside:
            assert inside.hf is model.hf
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        fail_inside()
    assert model.decoding is None
    assert torch.equal(first_token_logits(model, PROMPTS), logits)


def test_another_model_is_refused():
    model = shared_tiny_model()
    with pytest.raises(UserError, match="other weights"):
        fitted(model).applied_to(tiny_chat_model(seed=1)).__enter__()


def test_no_strength_to_try_is_an_error():
    model = shared_tiny_model()
    with pytest.raises(UserError, match="at least one of alphas"):
        SelfCD(alphas=()).fit(model, tiny_prompts(), tiny_prompts())
