"""A judge's name is taken wherever a judge is, and a wrong one is told before any work."""

from dataclasses import replace

import pytest

from actor_lens.errors import UserError
from actor_lens.evaluation.evaluate import evaluate
from actor_lens.evaluation.panel import judge_panel
from actor_lens.experiments.ablations.ablate import ablate
from actor_lens.experiments.comparison.compare import compare
from actor_lens.experiments.run_evaluation import evaluate_by_panel, evaluate_run
from actor_lens.experiments.study_plan import StudyPlan, run_study
from actor_lens.experiments.sweep.layer_sweep import sweep_layers
from actor_lens.judges.keywords import named_judge
from actor_lens.prompts.sets import PromptSet
from actor_lens.training.config import FinetuneConfig
from tests.support.tiny_models import shared_tiny_model
from tests.support.tiny_runs import tiny_prompts

DOORS = {
    "evaluate": lambda model, prompts, judge: evaluate(model, prompts, judge=judge),
    "run": lambda model, prompts, judge: evaluate_run(model, prompts, judge=judge),
    "panel": lambda model, prompts, judge: evaluate_by_panel(
        model, prompts, judges=["keywords", judge]
    ),
    "study": lambda model, prompts, judge: run_study(
        model, prompts, StudyPlan(FinetuneConfig(layer=1), judge=judge)
    ),
    "sweep": lambda model, prompts, judge: sweep_layers(model, prompts, judge=judge),
    "compare": lambda model, prompts, judge: compare(model, prompts, ["default"], judge=judge),
    "ablate": lambda model, prompts, judge: ablate(model, prompts, judge=judge, layer=1),
}


def split_prompts():
    parts = [tiny_prompts(3, split, 10 * k) for k, split in enumerate(("train", "validation"))]
    parts.append(tiny_prompts(3, "test", 30))
    return PromptSet(tuple(prompt for part in parts for prompt in part), name="tiny")


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_a_name_that_is_not_known_is_told_before_any_work(door):
    def work(*_arguments, **_options):
        raise AssertionError("the model was asked")

    handle = shared_tiny_model().hf.register_forward_pre_hook(work)
    try:
        with pytest.raises(UserError, match="judge 'no-such' is not known"):
            door(shared_tiny_model(), split_prompts(), "no-such")
    finally:
        handle.remove()


def test_a_name_is_the_judge_of_that_name():
    model, prompts = shared_tiny_model(), tiny_prompts()
    by_name, by_judge = (
        evaluate(model, prompts, judge=judge, new_tokens=2)
        for judge in ("openings", named_judge("openings"))
    )
    assert by_name == replace(by_judge, refusal_scores=by_name.refusal_scores)
    panel = judge_panel(by_name, ["keywords", "strict-openings"])
    assert list(panel.judges) == ["openings", "keywords", "strict-openings"]
