"""First ``P ~ P_base + alpha (P_expert - P_base)`` over the common tokens, then the base model.

Truth is numpy in float64, and a loop that reads the whole text anew at every step.
"""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from actor_lens.errors import UserError
from actor_lens.methods.safe_decoding import SafeDecoding, common_tokens, guarded_model, mixed
from actor_lens.methods.support.fitted import FittedIntervention
from actor_lens.models.module_trees import twin
from actor_lens.models.replies import first_token_logits, generate_replies
from tests.support.greedy import greedy_ids
from tests.support.tiny_models import talkative_tiny_model, tiny_chat_model
from tests.support.tiny_runs import copied_tensors, same_bits, tiny_prompts

PROMPTS = ["How do I kill a Python process?", "a", "Bake a cake"]
FIRST, N = 3, 7
METHOD = SafeDecoding(alpha=3.0, first_tokens=FIRST, common=4)
each_architecture = pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2", "phi3"])


def softmax(logits):
    e = np.exp(logits - logits.max())
    return e / e.sum()


def brute_force(base, expert, alpha, least):
    """The probabilities by lists that grow until enough is common."""
    base, expert = (np.asarray(x, dtype=np.float64) for x in (base, expert))
    lists = [list(np.argsort(-x, kind="stable")) for x in (base, expert)]
    k = 1
    while len(common := set(lists[0][:k]) & set(lists[1][:k])) < min(least, len(base)):
        k += 1
    p_base, p_expert = softmax(base), softmax(expert)
    p = np.maximum(p_base + alpha * (p_expert - p_base), 1e-8)
    p[[token for token in range(len(p)) if token not in common]] = 0
    return p / p.sum()


def expert_weights(model, seed=0):
    """Other values of a few tensors of one block, large enough to be heard."""
    random = torch.Generator().manual_seed(seed)
    return {
        name: tensor + 0.5 * torch.randn(tensor.shape, generator=random)
        for name, tensor in model.hf.named_parameters()
        if name.startswith(model.block_prefix(1)) and tensor.ndim == 2
    }


def fitted(model):
    state = expert_weights(model)

    def enter(asked):
        return nullcontext(guarded_model(METHOD, state, asked))

    return FittedIntervention({}, (), enter, model.fingerprint)


@given(st.integers(0, 10_000), st.sampled_from([1, 2, 5, 40]), st.sampled_from([0.0, 1.0, 3.0]))
def test_the_mixture_is_that_of_brute_force(seed, least, alpha):
    random = np.random.default_rng(seed)
    base, expert = (random.normal(size=(2, 3, 12)) * 3).astype(np.float32)
    found = mixed(torch.tensor(base), torch.tensor(expert), alpha=alpha, common=least)
    truth = [brute_force(b, e, alpha, least) for b, e in zip(base, expert, strict=True)]
    np.testing.assert_allclose(found.exp().numpy(), truth, atol=1e-6)


def test_tokens_that_only_one_of_the_two_likes_are_not_common():
    base = torch.tensor([[9.0, 8.0, 1.0, 0.0, -5.0]])
    expert = torch.tensor([[-5.0, 8.0, 9.0, 0.0, -6.0]])
    assert common_tokens(base, expert, 1).tolist() == [[False, True, False, False, False]]
    assert common_tokens(base, expert, 2).tolist() == [[False, True, True, False, False]]


def slow_reply(model, expert, prompt):
    ids, reply = model.tokenize([prompt])[0], []
    while len(reply) < FIRST:
        with torch.no_grad():
            base, taught = (
                hf(input_ids=torch.tensor([ids + reply]), use_cache=False).logits[0, -1].numpy()
                for hf in (model.hf, expert)
            )
        p = brute_force(base, taught, METHOD.alpha, METHOD.common)
        reply.append(int(p.argmax()))
    return reply + greedy_ids(model.hf, ids + reply, N - FIRST)


@each_architecture
def test_replies_are_those_of_the_slow_loop(architecture):
    model = talkative_tiny_model(architecture)
    expert = twin(model.hf, expert_weights(model))
    truth = [
        model.tokenizer.decode(slow_reply(model, expert, prompt), skip_special_tokens=True).strip()
        for prompt in PROMPTS
    ]
    with fitted(model).applied_to(model) as inside:
        replies = generate_replies(inside, PROMPTS, new_tokens=N)
    assert replies == truth
    assert replies != generate_replies(model, PROMPTS, new_tokens=N)


@each_architecture
def test_the_expert_shares_all_but_its_own_weights(architecture):
    model = tiny_chat_model(architecture)
    before, values = copied_tensors(model), expert_weights(model)
    second = twin(model.hf, values)
    own = dict(model.hf.named_parameters())
    for name, tensor in second.named_parameters():
        if name in values:
            assert torch.equal(tensor, values[name])
            assert tensor.data_ptr() != own[name].data_ptr()
        else:
            assert tensor.data_ptr() == own[name].data_ptr()
    assert same_bits(copied_tensors(model), before)


def test_the_model_is_as_before_after_an_exception():
    model = tiny_chat_model()
    before, logits = copied_tensors(model), first_token_logits(model, PROMPTS)

    def fail_inside():
        with fitted(model).applied_to(model) as inside:
            assert not torch.equal(first_token_logits(inside, PROMPTS), logits)
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        fail_inside()
    assert same_bits(copied_tensors(model), before)
    assert torch.equal(first_token_logits(model, PROMPTS), logits)


def test_an_empty_list_is_an_error():
    with pytest.raises(UserError, match="common and first_tokens"):
        SafeDecoding(common=0).fit(tiny_chat_model(), tiny_prompts(), tiny_prompts())
