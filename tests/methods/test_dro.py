"""Only the soft prompt is trained, and it stands exactly where the safety prompt's tokens stand.

The loss is the formula, with principal axes and probes of scikit-learn, in float64.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from actor_lens.errors import UserError
from actor_lens.methods.dro import SoftPlace, last_states, soft_loss, soft_prompt, under_soft_prompt
from actor_lens.methods.support.dro_objective import Objective
from actor_lens.methods.support.fitted import FittedIntervention
from actor_lens.methods.support.reply_training import train_step
from actor_lens.models.batches import pad_batch
from actor_lens.models.replies import first_token_logits, generate_replies
from tests.support.tiny_models import D_MODEL, shared_tiny_model, tiny_chat_model
from tests.support.tiny_runs import copied_tensors, same_bits, tiny_prompts

SAFETY = "Be careful, safety first."
TEXTS = [*tiny_prompts(2).texts, SAFETY, "x"]
each_architecture = pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2", "phi3"])
K = 3


def placed(architecture="llama"):
    """A model, the same under the safety prompt, the place of the soft prompt, random vectors."""
    model = shared_tiny_model(architecture)
    place = SoftPlace.of(model, SAFETY)
    soft = place.embeddings(model)
    soft = soft + soft.std() * torch.randn(soft.shape, generator=torch.Generator().manual_seed(0))
    return model, replace(model, system_prompt=SAFETY), place, soft


def by_embeddings(model, ids, start, soft):
    """Logits of one prompt, its embeddings given instead of looked up."""
    embeds = model.hf.get_input_embeddings()(torch.tensor([ids])).clone()
    embeds[0, start : start + len(soft)] = soft
    with torch.no_grad():
        return model.hf(inputs_embeds=embeds).logits[0, -1]


@each_architecture
def test_first_tokens_are_those_of_given_embeddings(architecture):
    model, speaker, place, soft = placed(architecture)
    rows = speaker.tokenize(TEXTS)
    start = next(
        i for i in range(len(rows[0])) if tuple(rows[0][i:][: len(place.ids)]) == place.ids
    )
    assert model.tokenizer.decode(place.ids) == SAFETY
    truth = torch.stack([by_embeddings(model, ids, start, soft) for ids in rows])
    fitted = FittedIntervention(
        {},
        (),
        partial(under_soft_prompt, safety_prompt=SAFETY, place=place, soft=soft),
        model.fingerprint,
    )
    with fitted.applied_to(model) as inside:
        logits = first_token_logits(inside, TEXTS)
    torch.testing.assert_close(logits, truth, rtol=1e-3, atol=1e-3)
    assert (logits - first_token_logits(speaker, TEXTS)).abs().max() > 1e-2


@each_architecture
def test_the_own_embeddings_change_nothing(architecture):
    model, speaker, place, _ = placed(architecture)
    with soft_prompt(model, place, place.embeddings(model)):
        logits = first_token_logits(speaker, TEXTS)
        replies = generate_replies(speaker, TEXTS, new_tokens=4)
    assert torch.equal(logits, first_token_logits(speaker, TEXTS))
    assert replies == generate_replies(speaker, TEXTS, new_tokens=4)


def test_prompts_without_the_safety_prompt_are_left_alone():
    model, _, place, soft = placed()
    texts = ["Be careful", "x"]
    with soft_prompt(model, place, soft):
        logits = first_token_logits(model, texts)
    assert torch.equal(logits, first_token_logits(model, texts))


def test_only_the_first_of_two_places_counts():
    place = SoftPlace((5, 6))
    ids = torch.tensor([[2, 5, 6, 5, 6], [5, 5, 6, 7, 7], [6, 5, 7, 6, 5]])
    assert place.mask(ids).int().tolist() == [[0, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0] * 5]
    assert not place.mask(torch.tensor([[5]])).any()


def test_generated_tokens_are_not_edited():
    model, speaker, place, soft = placed()
    ids = speaker.tokenize(["x"])[0]
    start = next(i for i in range(len(ids)) if tuple(ids[i:][: len(place.ids)]) == place.ids)
    reply: list[int] = []
    for _ in range(5):
        reply.append(int(by_embeddings(model, ids + reply, start, soft).argmax()))
    with soft_prompt(model, place, soft):
        (said,) = generate_replies(speaker, ["x"], new_tokens=5)
    assert said == model.tokenizer.decode(reply, skip_special_tokens=True).strip()


def planted(n=24):
    random = np.random.default_rng(0)
    states = random.normal(size=(n, D_MODEL)) * np.linspace(3, 0.1, D_MODEL)
    refused, harmful = states[:, 0] + random.normal(size=n) > 0, states[:, 1] > 0
    return states, refused, harmful


def test_the_loss_is_the_formula_with_probes_of_scikit_learn():
    states, refused, harmful = planted()
    objective = Objective.fitted(
        torch.tensor(states).float(),
        torch.tensor(refused),
        torch.tensor(harmful),
        components=K,
        weights=(1e-2, 1e-3),
    )
    pca = PCA(K, svd_solver="full").fit(states)
    probes = [
        LogisticRegression(max_iter=1000).fit(pca.transform(states), y) for y in (refused, harmful)
    ]
    x0 = states[:6]
    x = x0 + np.random.default_rng(1).normal(size=x0.shape)
    y = harmful[:6].astype(float)
    f0, f = (probes[0].decision_function(pca.transform(z)) for z in (x0, x))
    h = probes[1].decision_function(pca.transform(x))

    def entropy(z):
        p = 1 / (1 + np.exp(-z))
        return -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()

    outside = (x - x0) @ (np.eye(D_MODEL) - pca.components_.T @ pca.components_)
    residual = (outside**2).sum(1).mean() / (D_MODEL - K)
    truth = entropy(f - f0) + 1e-2 * entropy(h) + 1e-3 * residual
    loss = objective.loss(
        torch.tensor(x).float(), torch.tensor(x0).float(), torch.tensor(harmful[:6])
    )
    assert float(loss) == pytest.approx(truth, rel=1e-3)


@pytest.mark.parametrize(("all_same", "word"), [(True, "all"), (False, "none")])
def test_probes_need_both_kinds(all_same, word):
    states, _, harmful = planted()
    with pytest.raises(UserError, match=f"{word} of the training prompts are refused"):
        Objective.fitted(
            torch.tensor(states).float(),
            torch.full((len(states),), all_same),
            torch.tensor(harmful),
            components=K,
            weights=(1e-2, 1e-3),
        )


def test_the_number_of_components_has_bounds():
    states, refused, harmful = planted()
    with pytest.raises(UserError, match="components is 99"):
        Objective.fitted(
            torch.tensor(states).float(),
            torch.tensor(refused),
            torch.tensor(harmful),
            components=99,
            weights=(1e-2, 1e-3),
        )


@each_architecture
def test_states_are_those_after_the_final_norm(architecture):
    model = shared_tiny_model(architecture)
    truth = []
    for ids in model.tokenize(TEXTS):
        with torch.no_grad():
            output = model.hf(torch.tensor([ids]), output_hidden_states=True)
        truth.append(output.hidden_states[-1][0, -1])
    torch.testing.assert_close(last_states(model, TEXTS), torch.stack(truth), rtol=1e-3, atol=1e-3)


@each_architecture
def test_a_step_changes_the_soft_prompt_alone_and_lowers_the_loss(architecture):
    model = tiny_chat_model(architecture)
    speaker = replace(model, system_prompt=SAFETY)
    place, before = SoftPlace.of(model, SAFETY), copied_tensors(model)
    prompts = tiny_prompts(2)
    states = last_states(speaker, prompts.texts)
    harmful = torch.tensor([label == "harmful" for label in prompts.labels])
    refused = states[:, 0] > states[:, 0].median()
    objective = Objective.fitted(states, refused, harmful, components=K, weights=(1e-2, 1e-3))
    batch = pad_batch(
        speaker.tokenize(prompts.texts), pad_token_id=model.pad_token_id, device=model.device
    )
    soft = torch.nn.Parameter(place.embeddings(model))
    start = soft.detach().clone()
    optimizer = torch.optim.AdamW([soft], lr=1e-3, weight_decay=0.0)
    losses = []

    def loss():
        value = soft_loss(speaker, place, soft, batch, states, harmful, objective)
        losses.append(float(value.detach()))
        return value

    for _ in range(6):
        train_step(optimizer, [soft], loss)
    assert losses[-1] < losses[0]
    assert (soft.detach() - start).abs().min(dim=1).values.max() > 0  # every token moved
    assert not model.is_hooked
    assert same_bits(copied_tensors(model), before)
    assert not any(p.grad is not None or p.requires_grad for p in model.hf.parameters())


def test_the_hook_is_gone_after_an_exception():
    model, speaker, place, soft = placed()
    logits = first_token_logits(speaker, TEXTS)

    def fail_inside():
        with soft_prompt(model, place, soft):
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        fail_inside()
    assert not model.is_hooked
    assert torch.equal(first_token_logits(speaker, TEXTS), logits)


def test_a_template_without_a_system_is_no_hindrance():
    model = tiny_chat_model()
    model.tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}"
        "{{ raise_exception('no system') }}{% endif %}<user>{{ m.content }}{% endfor %}<assistant>"
    )
    assert model.tokenizer.decode(SoftPlace.of(model, SAFETY).ids) == SAFETY


def test_prompts_that_lose_the_tokens_are_an_error():
    model = shared_tiny_model()
    with pytest.raises(UserError, match="does not keep its tokens"):
        SoftPlace.of(model, SAFETY).check(model, ["x"])


def test_a_tokenizer_without_positions_is_an_error(monkeypatch):
    model = tiny_chat_model()
    monkeypatch.setattr(type(model.tokenizer), "is_fast", False)
    with pytest.raises(UserError, match="fast tokenizer"):
        SoftPlace.of(model, SAFETY)


def test_a_blank_safety_prompt_is_an_error():
    with pytest.raises(UserError, match="no tokens of its own"):
        SoftPlace.of(shared_tiny_model(), " ")
