"""Numbers of NumPy and torch are taken wherever a number is, and become Python's own."""

import json

import jaxtyping
import numpy as np
import pytest
import torch

from actor_lens.activations.residuals import collect_residuals
from actor_lens.directions.refusal_directions import refusal_directions
from actor_lens.directions.targets import just_enough_targets
from actor_lens.errors import UserError, check_choice, check_number, check_positive, check_whole
from actor_lens.evaluation.evaluate import evaluate
from actor_lens.results import plain
from actor_lens.training.run import TrainingRun
from tests.support.tiny_models import shared_tiny_model
from tests.support.tiny_runs import quick_run, tiny_prompts


@pytest.fixture(autouse=True)
def _without_checks_of_annotations():
    """Users have none: their numbers reach the package as they are."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


WHOLE = [np.int64(1), np.uint8(1), np.array(1), torch.tensor(1), torch.tensor([1])]
HALVES = [
    np.float64(0.5),
    np.float16(0.5),
    np.array(0.5),
    torch.tensor(0.5),
    torch.tensor(0.5, dtype=torch.bfloat16),
]


@pytest.mark.parametrize("value", WHOLE, ids=repr)
def test_whole_numbers_of_any_library(value):
    layer = shared_tiny_model().check_layer(value)
    assert (type(layer), layer) == (int, 1)
    assert type(check_whole("number", value, 0)) is int
    assert type(check_number("number", value, 0)) is float


@pytest.mark.parametrize("value", HALVES, ids=repr)
def test_numbers_of_any_library(value):
    for number in (check_number("number", value, 0, 1), check_positive("number", value)):
        assert (type(number), number) == (float, 0.5)
    with pytest.raises(UserError, match="whole number"):
        check_whole("number", value, 0)


@pytest.mark.parametrize("value", [torch.tensor([1, 2]), np.ones(3), torch.tensor(True), "1"])
def test_what_is_not_one_number_is_refused(value):
    with pytest.raises(UserError, match="whole number"):
        check_whole("number", value, 0)
    with pytest.raises(UserError, match="number"):
        check_number("number", value, 0)


def test_texts_of_numpy_become_plain():
    assert type(check_choice("kind", np.str_("a"), ("a", "b"))) is str


@pytest.mark.parametrize("one", WHOLE, ids=repr)
def test_what_was_trained_with_such_numbers_is_saved_and_read(one, tmp_path):
    run = quick_run(
        shared_tiny_model(), layer=one, epochs=one, alpha=torch.tensor(0.5), seed=np.int64(3)
    )
    assert TrainingRun.load(run.save(tmp_path / "run")).config == run.config


def test_a_record_with_such_numbers_loses_no_run(tmp_path):
    run = quick_run(shared_tiny_model(), epochs=1)
    chosen = {"layer": np.int64(2), "scores": np.array([1.0, 2.0]), "best": torch.tensor(3.0)}
    object.__setattr__(run, "chosen", chosen)
    object.__setattr__(run, "refused_before", {"harmful": np.float32(0.5)})
    again = TrainingRun.load(run.save(tmp_path / "run"))
    assert again.chosen == {"layer": 2, "scores": [1.0, 2.0], "best": 3.0}


@pytest.mark.parametrize("one", WHOLE, ids=repr)
def test_summaries_hold_plain_numbers(one):
    model, prompts = shared_tiny_model(), tiny_prompts()
    residuals = collect_residuals(model, prompts, store=False)
    targets = just_enough_targets(
        residuals, refusal_directions(residuals), one, alpha=torch.tensor(0.5)
    )
    assert json.loads(json.dumps(plain(targets.summary())))["layer"] == 1
    assert json.loads(json.dumps(evaluate(model, prompts, new_tokens=one).summary()))
