"""The edit is ``h + R^T (W h + b - R h)`` at the last prompt token, and nothing elsewhere."""

from functools import partial

import numpy as np
import pytest
import torch

from actor_lens.methods.loreft import Edit, LoReFT, edit_trainee, edited, edited_last_token
from actor_lens.methods.support.fitted import FittedIntervention
from actor_lens.methods.support.reply_training import collate, reply_trials
from actor_lens.models.replies import first_token_logits, generate_replies
from tests.support.tiny_models import D_MODEL, shared_tiny_model, talkative_tiny_model
from tests.support.tiny_runs import tiny_prompts

each_architecture = pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2", "phi3"])
RANK = 3


def random_state(seed=0, size=1.0):
    random = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(D_MODEL, RANK, generator=random)).Q.T.contiguous()
    return {
        "rotation": rotation,
        "weight": size * torch.randn(RANK, D_MODEL, generator=random),
        "bias": size * torch.randn(RANK, generator=random),
    }


def formula(h, state):
    r, w, b = (state[name].double().numpy() for name in ("rotation", "weight", "bias"))
    h = h.double().numpy()
    return np.stack([x + r.T @ (w @ x + b - r @ x) for x in h])


def by_plain_hook(model, prompt, layer, state):
    """Logits of one prompt, its block output edited in float64 by a hook of our own."""

    def hook(_module, _inputs, output):
        residual = (output[0] if isinstance(output, tuple) else output).clone()
        residual[0, -1] = torch.tensor(formula(residual[0, -1:], state)[0]).float()
        return (residual, *output[1:]) if isinstance(output, tuple) else residual

    handle = model.blocks[layer].register_forward_hook(hook)
    with torch.no_grad():
        logits = model.hf(torch.tensor(model.tokenize([prompt]))).logits[0, -1]
    handle.remove()
    return logits


def fitted(model, state, layer=1):
    change = partial(LoReFT().change, layer=layer, state=state)
    return FittedIntervention({}, (), change, model.fingerprint, 1)


def test_the_edit_is_the_formula():
    state, h = random_state(), torch.randn(5, D_MODEL)
    np.testing.assert_allclose(edited(h, **state).numpy(), formula(h, state), atol=1e-4)


@each_architecture
def test_first_tokens_are_those_of_a_plain_hook(architecture):
    model, state, texts = shared_tiny_model(architecture), random_state(), tiny_prompts(2).texts
    with fitted(model, state).applied_to(model) as inside:
        logits = first_token_logits(inside, texts)
    truth = torch.stack([by_plain_hook(model, text, 1, state) for text in texts])
    torch.testing.assert_close(logits, truth, rtol=1e-3, atol=1e-3)
    assert (logits - first_token_logits(model, texts)).abs().max() > 1e-2


@each_architecture
def test_a_new_edit_is_the_identity(architecture):
    model, texts = shared_tiny_model(architecture), tiny_prompts(1).texts
    state = edit_trainee(model, 1, rank=RANK, seed=0).state()
    with fitted(model, state).applied_to(model):
        logits = first_token_logits(model, texts)
    assert torch.equal(logits, first_token_logits(model, texts))


def test_training_moves_the_edit_and_keeps_the_rows_orthonormal(examples_of):
    model = shared_tiny_model()
    examples = examples_of(model)
    make = partial(edit_trainee, model, 1, rank=RANK, seed=0)
    start = make().state()
    *_, last = reply_trials(model, examples, make, lrs=(3e-2,), epochs=4, batch_size=3, seed=0)
    rotation = last.state["rotation"].double()
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(RANK).double(), atol=1e-5, rtol=0)
    assert all((last.state[name] - start[name]).abs().max() > 1e-3 for name in start)
    assert not model.is_hooked


def test_the_loss_edits_the_last_prompt_token_of_padded_rows(examples_of):
    model, layer = shared_tiny_model(), 1
    examples = examples_of(model)
    trainee = edit_trainee(model, layer, rank=RANK, seed=0)
    with torch.no_grad():
        for parameter in trainee.parameters:
            parameter.add_(0.2 * torch.randn_like(parameter))
    state = trainee.state()
    total, count = 0.0, 0
    for one in examples:
        place = len(one.prompt_ids) - 1

        def hook(_module, _inputs, output, place=place):
            residual = output.clone()
            residual[0, place] = torch.tensor(formula(residual[0, place : place + 1], state)[0])
            return residual

        handle = model.blocks[layer].register_forward_hook(hook)
        ids = [*one.prompt_ids, *one.reply_ids]
        with torch.no_grad():
            logits = model.hf(torch.tensor([ids])).logits[0].log_softmax(-1)
        handle.remove()
        for at in range(place + 1, len(ids)):
            total -= float(logits[at - 1, ids[at]])
            count += 1
    with torch.no_grad():
        loss = float(trainee.loss(collate(model, examples)))
    assert loss == pytest.approx(total / count, rel=1e-4)


def test_generated_tokens_are_not_edited():
    model, state, layer = talkative_tiny_model("llama"), random_state(), 1
    (text,) = tiny_prompts(1).texts[:1]
    prompt = model.tokenize([text])[0]
    reply: list[int] = []

    def hook(_module, _inputs, output):
        residual = output.clone()
        place = len(prompt) - 1
        residual[0, place] = torch.tensor(formula(residual[0, place : place + 1], state)[0])
        return residual

    handle = model.blocks[layer].register_forward_hook(hook)
    with torch.no_grad():
        for _ in range(6):
            reply.append(int(model.hf(torch.tensor([prompt + reply])).logits[0, -1].argmax()))
    handle.remove()
    with fitted(model, state).applied_to(model) as inside:
        said = generate_replies(inside, [text], new_tokens=6)
    assert said == [model.tokenizer.decode(reply, skip_special_tokens=True).strip()]


def test_the_edit_is_gone_after_an_exception():
    model, texts = shared_tiny_model(), tiny_prompts(1).texts
    logits = first_token_logits(model, texts)

    def fail_inside():
        with edited_last_token(model, 0, partial(edited, **random_state())):
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        fail_inside()
    assert not model.is_hooked
    assert torch.equal(first_token_logits(model, texts), logits)


def test_the_number_of_trained_numbers():
    edit = Edit(D_MODEL, RANK)
    assert sum(p.numel() for p in edit.parameters()) == 2 * RANK * D_MODEL + RANK
