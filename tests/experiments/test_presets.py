"""A preset has the paper's numbers, here as literals; what it leaves open is marked as ours."""

from dataclasses import asdict

import pytest

from actor_lens.errors import UserError
from actor_lens.experiments.presets import FROM_PAPER, OWN_CHOICE, PRESETS, preset_named

PAPER = PRESETS["paper"]
# Model: hub id, target layer and alpha.
MODELS = {
    "llama-2-7b": ("meta-llama/Llama-2-7b-chat-hf", 13, 0.0015),
    "gemma-7b": ("google/gemma-7b-it", 17, 0.003),
    "llama-2-13b": ("meta-llama/Llama-2-13b-chat-hf", 14, 0.0004),
}
PUBLISHED = {
    "origin of projections": "zero",
    "weights that targets are taken from": "current",
    "shift": "projected",
    "learning rate": "1e-05",
    "epochs": "3",
    "prompts in a step": "1",
    "prompts that R is made of": "hex-phi:64,truthfulqa:64",
    "optimiser": "AdamW",
    "loss": "1 - cos(activation, target)",
    "harmful training prompts": "HEx-PHI, all",
    "benign training prompts": "210 of UltraChat, evenly from seven topics",
    "pseudo-harmful training prompts": "xstest 25, scope 25, or-bench-hard 25, phtest 25",
    "pseudo-harmful test prompts": "xstest 150, scope 593, or-bench-hard 1219, phtest 1977",
    "out of distribution": "oktest 300",
    "safety test": "advbench 520",
    "metrics": "C.R., S.S. (replies that are not harmful), T.S. = (C.R. + S.S.) / 2",
    "judge": "llm-binary:gpt-4o",
    "methods": "default, sft-full, safe-decoding, dro, self-cd, scans, surgical, actor",
    "sft-full: lrs": "0.001",
    "sft-full: epochs": "3",
    "scans: threshold": "0.75",
    "scans: alphas": "3.5",
}
OPEN = (
    "block that is trained, from 0",
    "steps between two computations of the direction",
    "weight decay",
    "seed",
    "number format of the trained block",
    "validation prompts",
    "judge: words of its two questions",
    "longest reply, tokens",
    "decoding",
)


@pytest.mark.parametrize("model", MODELS)
def test_every_setting_is_the_papers_and_says_so(model):
    hub_id, layer, alpha = MODELS[model]
    plan = PAPER.plan(model).set_index("setting")
    published = plan[plan["source"] == FROM_PAPER]["value"].to_dict()
    own = {"model": hub_id, "target layer, as the paper counts": str(layer), "alpha": f"{alpha:g}"}
    assert published == {**own, **PUBLISHED}
    assert set(OPEN) <= set(plan.index[plan["source"] == OWN_CHOICE])
    assert set(PAPER.models) == set(MODELS)


@pytest.mark.parametrize("model", MODELS)
def test_what_runs_is_what_the_plan_says(model):
    _, layer, alpha = MODELS[model]
    wanted = {
        **{"layer": layer, "alpha": alpha, "origin": "zero", "anchor": "current"},
        **{"shift": "projected", "lr": 1e-5, "epochs": 3, "batch_size": 1},
        **{"refresh": 50, "weight_decay": 0.0, "safety_floor": None, "seed": 0},
    }
    own = {"optimizer": "adamw", "eps": 1e-8, "precision": "full"}
    assert asdict(PAPER.config(model)) == wanted | own
    method = vars(PAPER.method("actor", model))
    assert {name: method.get(name, wanted[name]) for name in wanted} == wanted
    sft, scans = (vars(PAPER.method(name, model)) for name in ("sft-full", "scans"))
    assert (sft["lrs"], sft["epochs"]) == ((1e-3,), 3)
    assert (scans["threshold"], scans["alphas"]) == (0.75, (3.5,))


@pytest.mark.parametrize("model", MODELS)
def test_the_other_way_of_counting_layers_is_one_block_lower_and_all_else_equal(model):
    one, other = (vars(PRESETS[name].config(model)) for name in ("paper", "paper-hidden-states"))
    assert other == {**one, "layer": one["layer"] - 1}
    for name, opposite in (("paper", "paper-hidden-states"), ("paper-hidden-states", "paper")):
        plan = PRESETS[name].plan(model).set_index("setting")["value"]
        said = plan["block that is trained, from 0"]
        others = PRESETS[opposite].config(model).layer
        own = PRESETS[name].config(model).layer
        assert said == f"{own}; counted the other way {others}: --preset {opposite}"


def test_models_go_by_short_name_or_hub_id():
    assert PAPER.model("google/gemma-7b-it") == PAPER.model("Gemma-7B")
    with pytest.raises(UserError, match="no model 'gpt-2'; use one of: llama-2-7b"):
        PAPER.model("gpt-2")
    with pytest.raises(UserError, match="preset 'other' is not known"):
        preset_named("other")
