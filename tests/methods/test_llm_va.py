"""LLM-VA: after an edit the map says along v_a what it said along v_b, for every input."""

import numpy as np
import pytest
import torch
from sklearn.svm import LinearSVC

from actor_lens.errors import UserError
from actor_lens.methods import llm_va
from actor_lens.methods.llm_va import LLMVA, aligned, answered_f1, separating
from actor_lens.methods.support.selection import Effect, Selection
from tests.support.fitting import make_up_tokens, train_prompts, validation_prompts
from tests.support.steering import random
from tests.support.tiny_models import exact_tiny_model, tiny_chat_model


def unit(seed, size=6):
    vector = random(size, seed=seed).double()
    return vector / vector.norm()


def test_the_identity_holds_for_every_input_by_the_least_change():
    weight, benign, answer = random(6, 9).double(), unit(1), unit(2)
    edited = aligned(weight, benign, answer, 1.7)
    x = random(9, 20, seed=3).double()
    assert float((answer @ edited @ x - 1.7 * benign @ weight @ x).abs().max()) < 1e-10
    # Any other matrix with the identity differs from it across answer: its change is longer.
    change = (edited - weight).numpy()
    across = np.eye(6) - np.outer(answer, answer)
    assert np.abs(across @ change).max() < 1e-12


def test_the_plane_is_that_of_an_svm_through_the_origin():
    rows = random(40, 6).double()
    truth = (rows @ unit(1) > 0).tolist()
    normal = separating(rows, truth)
    machine = LinearSVC(fit_intercept=False, random_state=0).fit(rows.numpy(), truth)
    assert float(normal @ torch.tensor(machine.coef_[0])) > 0
    assert float(normal.norm()) == pytest.approx(1)
    assert float(((rows @ normal > 0) == torch.tensor(truth)).double().mean()) > 0.9


def test_a_round_is_the_formula_on_what_the_maps_put_out_a_bias_included(monkeypatch):
    make_up_tokens(monkeypatch)
    model, train = exact_tiny_model(), train_prompts()
    # A random model answers all or nothing.
    answered = np.arange(len(train)) % 2 == 0
    monkeypatch.setattr(llm_va, "_find_answered", lambda _m, p, _s: answered[: len(p)].tolist())
    selection = Selection.of(model, validation_prompts())
    maps = llm_va.writing_maps(model)
    assert len(maps) == 2 * model.n_layers
    edits = llm_va._edits(model, maps, train, selection, len(maps))
    assert set(edits) == {f"{name}.{kind}" for name in maps for kind in ("weight", "bias")}
    name, module = list(maps.items())[3]
    outputs = []
    handle = module.register_forward_hook(lambda _m, _i, o: outputs.append(o[0, -1].numpy()))
    with torch.no_grad():
        for ids in model.tokenize(train.texts):
            model.hf(input_ids=torch.tensor([ids]))
    handle.remove()
    rows = np.stack(outputs)
    harmless = np.array([label != "harmful" for label in train.labels])
    benign, answer = (
        LinearSVC(fit_intercept=False, random_state=0).fit(rows, truth).coef_[0]
        for truth in (harmless, answered)
    )
    benign, answer = benign / np.linalg.norm(benign), answer / np.linalg.norm(answer)
    ratio = (rows @ answer).std() / (rows @ benign).std()
    wanted = np.eye(len(benign)) + np.outer(answer, ratio * benign - answer)
    weight, bias = (getattr(module, kind).detach().numpy() for kind in ("weight", "bias"))
    assert np.abs(edits[f"{name}.weight"].numpy() - weight @ wanted.T).max() < 1e-6
    assert np.abs(edits[f"{name}.bias"].numpy() - wanted @ bias).max() < 1e-6


def test_without_both_classes_there_is_no_round(monkeypatch):
    make_up_tokens(monkeypatch)
    model = exact_tiny_model()
    monkeypatch.setattr(llm_va, "_find_answered", lambda _m, p, _s: [True] * len(p))
    selection = Selection.of(model, validation_prompts())
    maps = llm_va.writing_maps(model)
    assert llm_va._edits(model, maps, train_prompts(), selection, len(maps)) == {}


def test_f1_of_answering_is_that_of_counts():
    counts = {"harmful": 10, "pseudo_harmful": 10, "benign": 10}
    refused = {"harmful": 0.9, "pseudo_harmful": 0.4, "benign": 0.1}
    effect = Effect(refused, refused, refused, 0.0)
    hits, wrong, missed = 6 + 9, 1, 4 + 1
    assert answered_f1(effect, counts) == pytest.approx(2 * hits / (2 * hits + wrong + missed))


@pytest.mark.parametrize("settings", [{"rounds": 0}, {"shares": (1.5,)}])
def test_impossible_settings_are_errors(settings):
    with pytest.raises(UserError, match=r"rounds is 0|shares is"):
        LLMVA(**settings).fit(tiny_chat_model(), train_prompts(), validation_prompts())
