"""AlphaSteer against the authors' d x d form and a hook-free replay, in float64 NumPy."""

import numpy as np
import pytest

from actor_lens.errors import UserError
from actor_lens.methods.alphasteer import AlphaSteer, add_gated, null_space_probe
from tests.support.steering import (
    TEXTS,
    generated,
    logits,
    padded,
    random,
    received,
    replayed,
    stream,
)
from tests.support.tiny_models import (
    D_MODEL,
    exact_tiny_model,
    talkative_tiny_model,
    tiny_chat_model,
)
from tests.support.tiny_runs import tiny_prompts

NULL, FIT = random(20, 12, seed=1).double(), random(5, 12, seed=2).double()


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_the_probe_is_the_only_row_of_the_steering_matrix(share):
    null, fit = NULL.numpy(), FIT.numpy()
    values, vectors = np.linalg.eigh(null.T @ null)
    free = vectors[:, np.argsort(values)][:, : int(share * 12)]
    projector = free @ free.T
    seen = fit @ projector
    target = np.outer(np.ones(5), np.arange(12.0))
    matrix = projector @ np.linalg.pinv(seen.T @ seen + 10.0 * projector) @ seen.T @ target
    probe = null_space_probe(NULL, FIT, share, 10.0).numpy()
    assert np.abs(np.outer(probe, np.arange(12.0)) - matrix).max() < 1e-10
    z = fit @ free
    dual = free @ z.T @ np.linalg.solve(z @ z.T + 10.0 * np.eye(5), np.ones(5))
    assert np.abs(probe - dual).max() < 1e-10


def test_the_gate_is_closed_on_the_null_set_and_open_on_the_other():
    probe = null_space_probe(NULL[:7], FIT, 0.4, 1e-6)  # 7 prompts leave 5 of 12 directions free
    assert float((NULL[:7] @ probe).abs().max()) < 1e-10
    assert float((FIT @ null_space_probe(NULL[:3], FIT, 0.7, 1e-9) - 1).abs().max()) < 1e-6


def test_each_prompt_is_moved_by_its_own_gate_padded_or_not():
    model = exact_tiny_model()
    probe, vector, batch = random(D_MODEL).double(), random(D_MODEL, seed=4).double(), padded(model)
    with received(model) as plain:
        logits(model, batch)
    with add_gated(model, 1, probe, vector), received(model) as steered:
        logits(model, batch)
    gates = plain[1][:, -1] @ probe.numpy()
    expected = plain[1] + gates[:, None, None] * vector.numpy()
    real = batch.attention_mask.bool().numpy()
    assert np.abs(steered[1] - expected)[real].max() < 1e-10
    alone = stream(model, model.tokenize(TEXTS[:1])[0])[1, -1]
    assert np.abs(gates[0] - alone @ probe.numpy()) < 1e-10


def test_generated_tokens_are_left_alone():
    model = talkative_tiny_model("llama")
    probe, vector = random(D_MODEL), 5.0 * random(D_MODEL, seed=4)
    wanted = []
    for text in TEXTS:
        ids = model.tokenize([text])[0]
        n = len(ids)

        def change(states, n=n):
            gate = states[n - 1] @ probe.double().numpy()
            return np.concatenate([states[:n] + gate * vector.double().numpy(), states[n:]])

        wanted.append(replayed(model, ids, 6, [(2, change)]))
    assert wanted != generated(model, TEXTS, 6)
    with add_gated(model, 2, probe, vector):
        assert generated(model, TEXTS, 6) == wanted


@pytest.mark.parametrize("setting", [{"shares": ()}, {"shares": (1.0,)}, {"ridge": 0.0}])
def test_settings_that_leave_nothing_to_try_are_one_line(setting):
    with pytest.raises(UserError, match="alphasteer needs shares"):
        AlphaSteer(**setting).fit(tiny_chat_model(), tiny_prompts(2), tiny_prompts(1))
