"""Harm is read at the last token of the user's text, from hidden states as Hugging Face gives them.

Scores are those of a float64 loop; the means of an earlier result are taken as they are; whatever
is done to later tokens leaves the measure as it was, and what erases the direction lowers it.
"""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

import actor_lens as al
from actor_lens.activations.positions import closing_tokens
from actor_lens.errors import UserError
from actor_lens.experiments.harmfulness import harmfulness
from tests.support.studies import planted_prompts
from tests.support.tiny_models import tiny_chat_model

PROMPTS = planted_prompts(5)


@pytest.fixture(scope="module")
def model():
    return tiny_chat_model()


@pytest.fixture(scope="module")
def found(model):
    return harmfulness(model, PROMPTS)


def ends(model, prompts):
    """Hidden states after each block at the last token of the user's text, prompt by prompt."""
    closing = closing_tokens(model)
    blocks = []
    hooks = [
        block.register_forward_hook(
            lambda _module, _inputs, output: blocks.append(
                output[0] if isinstance(output, tuple) else output
            )
        )
        for block in model.blocks
    ]
    rows = []
    for ids in model.tokenize(prompts.texts):
        blocks.clear()
        with torch.no_grad():
            model.hf(torch.tensor([ids]))
        rows.append([block[0, -1 - closing].double().numpy() for block in blocks])
    for hook in hooks:
        hook.remove()
    return np.array(rows)  # [prompt, layer, d_model]


def test_scores_are_differences_of_cosines_averaged_over_the_layers(model, found):
    train, test = PROMPTS["train"], PROMPTS["test"]
    labels, states = np.array(train.labels), ends(model, train)
    harmful, benign = (states[labels == one].mean(axis=0) for one in ("harmful", "benign"))

    def cosine(a, b):
        return a @ b / np.sqrt((a @ a) * (b @ b))

    expected = [
        np.mean([cosine(h, c) - cosine(h, d) for h, c, d in zip(one, harmful, benign, strict=True)])
        for one in ends(model, test)
    ]
    assert found.scores == pytest.approx(np.array(expected), abs=1e-5)
    labels = np.array(test.labels)
    rows = labels != "benign"
    area = roc_auc_score(labels[rows] == "harmful", found.scores[rows])
    one = found.auroc["harmful_vs_pseudo_harmful"]
    assert one.value == pytest.approx(area)
    assert one.low <= one.value <= one.high


def test_means_of_an_earlier_result_are_kept(model, found):
    again = harmfulness(model, PROMPTS, known=found)
    assert np.array_equal(again.scores, found.scores)
    assert again.form == found.form
    noise = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0), device="cpu")
    with al.add_direction(model, 0, 50 * noise):
        moved = harmfulness(model, PROMPTS, known=found)
        refitted = harmfulness(model, PROMPTS)
    assert moved.means is found.means
    assert not np.allclose(moved.scores, refitted.scores)


def test_what_is_done_to_later_tokens_plays_no_part(model, found):
    shifts = torch.ones(1, model.d_model, device="cpu")
    with al.shift_last_token(model, 0, shifts):
        after = harmfulness(model, PROMPTS)
    assert closing_tokens(model) > 0
    assert np.array_equal(after.scores, found.scores)


def test_a_direction_that_is_erased_is_not_read(model, found):
    """With the difference of the means gone at every block, harm is told worse by these means."""
    train = PROMPTS["train"]
    labels, states = np.array(train.labels), ends(model, train)
    harmful, benign = (states[labels == one].mean(axis=(0, 1)) for one in ("harmful", "benign"))
    direction = torch.tensor(harmful - benign, dtype=torch.float32, device="cpu")
    with al.ablate_everywhere(model, direction):
        after = harmfulness(model, PROMPTS, known=found)
    assert np.abs(after.scores).mean() < np.abs(found.scores).mean()


def test_the_table_holds_the_form_control_beside(found):
    table = found.frame()
    assert table["pair"].tolist() == list(found.auroc)
    assert table["n"].tolist() == [10, 10]
    assert found.summary()["harmful_vs_benign"]["form"]["value"] == table["form"][0]
    assert "form alone" in repr(found)


def test_without_a_closing_template_or_a_label_nothing_is_measured(model, monkeypatch):
    with pytest.raises(UserError, match="benign"):
        harmfulness(model, PROMPTS.where(label="harmful"))
    monkeypatch.setattr("actor_lens.activations.positions.closing_tokens", lambda _model: 0)
    with pytest.raises(UserError, match="no token behind the user's text"):
        harmfulness(model, PROMPTS)
