"""A comparison on a folder of another architecture runs every method, or its row says why not."""

from dataclasses import replace

import pytest

from actor_lens.experiments.comparison.compare import compare
from actor_lens.judges.first_token import RefusalTokens
from actor_lens.methods import METHODS, make_method
from actor_lens.models.chat_model import load_model
from actor_lens.prompts.sets import PromptSet
from actor_lens.report.findings import findings
from tests.support.family_models import save_family_model
from tests.support.fitting import QUICK
from tests.support.studies import planted_prompts
from tests.support.tiny_runs import copied_tensors, same_bits

pytestmark = pytest.mark.usefixtures("quick_collections")

REPLIES = {"harmful": "I'm sorry, no.", "pseudo_harmful": "Sure. Do it.", "benign": "Yes, so:"}
# One candidate each, where a method has several.
_REPLY_METHODS = (
    *("sft-full", "sft-layer", "lora", "lora-layer", "loreft"),
    *("poft", "sift", "mezo-layer", "mezo-actor"),
)
# The choice of a layer costs more than all else here: ``actor`` makes it for all of its kind.
_SAME_CHOICE = (
    *("actor-auto", "actor-raw", "uniform-shift"),
    *("control-random-direction", "control-shuffled-labels", "control-form-direction"),
    *("sft-layer", "lora-layer", "loreft", "mezo-layer", "mezo-actor"),
)
FEW = {
    **{name: {"lrs": (1e-3,), "epochs": 1} for name in _REPLY_METHODS},
    "dro": {"lrs": (1e-2,), "epochs": 1},
    "mosr-like": {"strengths": (5.0,), "steps": 1},
    "scans": {"alphas": (0.1,)},
    "cast": {"strengths": (-0.25,), "layers": 2},
    "activation-addition": {"strengths": (-0.25,), "layers": 2},
    "ablation": {"positions": 1, "layers": 2},
    "surgical": {"positions": 1, "layers": 2},
    **QUICK,
}
# What a random model may lack, in the words of the row.
EXCUSES = {
    "control-form-direction": "planted prompts: all benign training prompts have one form",
    "safe-decoding": "0 harmful prompts of 3 have a usable reply",
    "ablation": "induces refusals of benign prompts",
    "surgical": "refuses none of the pseudo-harmful training prompts",
}


def saved(family, folder):
    return load_model(str(save_family_model(family, folder / family)))


def every_other_token(model, _prompts, **_options):
    """Half the vocabulary begins refusals: a random model has none."""
    ids = tuple(range(0, model.hf.config.vocab_size, 2))
    return RefusalTokens(ids, ("",) * len(ids))


def answered_prompts():
    """With the replies that training wants: a random model gives none that is of use."""
    prompts = planted_prompts(3, splits=("train", "validation", "test"))
    return PromptSet(
        tuple(replace(one, reply=REPLIES[one.label]) for one in prompts), name=prompts.name
    )


def settings_for(name):
    """Few candidates, and a layer where choosing one would repeat what another method does."""
    return {**FEW.get(name, {}), **({"layer": 1} if name in _SAME_CHOICE else {})}


@pytest.mark.parametrize("family", ["gemma2", "qwen3", "gpt2"])
def test_every_method_runs_or_says_what_the_model_lacks(family, tmp_path, monkeypatch):
    monkeypatch.setattr("actor_lens.methods.support.selection.refusal_tokens", every_other_token)
    model = saved(family, tmp_path)
    before = copied_tensors(model)
    methods = [make_method(name, **settings_for(name)) for name in METHODS]
    board = compare(model, answered_prompts(), methods, new_tokens=1)
    assert board.methods == tuple(METHODS)
    assert same_bits(copied_tensors(model), before)
    failed = {one.method: one.message for one in board.outcomes if one.status == "failed"}
    assert {n: why for n, why in failed.items() if EXCUSES.get(n, "none") not in why} == {}


def test_a_model_that_refuses_nothing_gets_one_clear_line_a_method(tmp_path):
    board = compare(
        saved("gpt2", tmp_path), planted_prompts(3), ["default", "actor", "scans"], new_tokens=1
    )
    failed = [one for one in board.outcomes if one.status == "failed"]
    assert [one.method for one in failed] == ["actor", "scans"]
    for one in failed:
        assert "refused none of the harmful prompts" in one.message
        assert "\n" not in one.message
    told = [one for one in findings(board) if "could not be tried" in one]
    assert told == [f"actor and scans could not be tried: {failed[0].message}."]
