"""Results of training, evaluation, export and diagnostics as the last line of a notebook cell.

They say in two lines what they are. No text of a harmful prompt and no answer to one is in them,
and no name that was given can act on the page.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from actor_lens.diagnostics.bench import BenchResult
from actor_lens.diagnostics.description import describe
from actor_lens.evaluation.changes import compare_evaluations
from actor_lens.evaluation.divergence import next_token_divergence
from actor_lens.evaluation.evaluate import evaluate
from actor_lens.evaluation.harness import TaskScore, TaskScores
from actor_lens.evaluation.perplexity import perplexity
from actor_lens.evaluation.utility import Measure, Utility
from actor_lens.export.lora import export_lora
from actor_lens.models.chat_model import ChatModel
from actor_lens.prompts.rows import LABELS, Prompt
from actor_lens.prompts.sets import PromptSet
from actor_lens.training.run import TrainingRun
from tests.support.tiny_models import tiny_chat_model
from tests.support.tiny_runs import quick_run

SECRET = "vitriol"  # in every harmful prompt and reply, and nowhere else
HOSTILE = "<script>harm()</script> \u202e\n\n"  # in every prompt and name
PROMPTS = PromptSet(
    tuple(
        Prompt(f"{SECRET if label == 'harmful' else 'cake'} {number} {HOSTILE}", label)
        for number in range(2)
        for label in LABELS
    ),
    name=HOSTILE,
)
MODEL = replace(tiny_chat_model(), name=HOSTILE)
RUN = quick_run(MODEL, PROMPTS)


def evaluation(model: ChatModel) -> Any:
    judged = evaluate(model, PROMPTS, new_tokens=2)
    replies = [SECRET if one.label == "harmful" else "Yes." for one in PROMPTS]
    return replace(judged, replies=tuple(replies))


def bench_result() -> BenchResult:
    measured = {"seconds": 1.0, "peak_bytes": 5, "collect": 0.5}
    setting = {"model": HOSTILE, "prompts": 3, "epochs": 1, "reply_tokens": 4}
    return BenchResult({"processor": HOSTILE}, setting, {"actor": [measured]})


MAKERS: dict[str, Callable[[Path], Any]] = {
    "TrainingRun": lambda _folder: RUN,
    "Evaluation": lambda _folder: evaluation(MODEL),
    "EvaluationChange": lambda _folder: compare_evaluations(evaluation(MODEL), evaluation(MODEL)),
    "Divergence": lambda _folder: next_token_divergence(MODEL, RUN, PROMPTS),
    "Perplexity": lambda _folder: perplexity(MODEL, f"{SECRET} {HOSTILE}"),
    "TaskScores": lambda _folder: TaskScores(
        (TaskScore(HOSTILE, "acc", 0.5, 0.1, 4, 0),), HOSTILE, None, False
    ),
    "Utility": lambda _folder: Utility(HOSTILE, 3, (Measure(HOSTILE, "acc", 4, 0.5, 0.4),)),
    "LoraExport": lambda folder: export_lora(MODEL, RUN, folder / "adapter"),
    "ModelDescription": lambda _folder: describe(MODEL, PROMPTS),
    "BenchResult": lambda _folder: bench_result(),
}


@pytest.fixture(params=MAKERS)
def result(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return MAKERS[request.param](tmp_path)


# PEFT 0.21 still asks transformers 5.23 by the old name.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_result_shows_itself_in_two_lines_and_nothing_harmful(result: Any):
    text, page = repr(result), result._repr_html_()
    assert len(text.splitlines()) == 2
    assert text.startswith(f"{type(result).__name__}: ")
    for form in (text, page):
        assert SECRET not in form
        assert "\u202e" not in form
    assert "<script" not in page
    assert page.count("<tr>") <= 6


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_result_has_a_table_and_a_plain_summary(result: Any):
    assert isinstance(result.frame(), pd.DataFrame)
    json.dumps(result.summary(), allow_nan=False)
    if result._figure:
        assert result.plot().data


def test_runs_with_one_name_are_told_apart_by_how_they_ended():
    stopped = quick_run(MODEL, PROMPTS, should_stop=lambda: True)
    assert isinstance(stopped, TrainingRun)
    assert "stopped after 0 steps" in repr(stopped)
    assert "completed after 6 steps" in repr(RUN)
