"""The table of utility holds the figures of its parts, and its claim follows from them."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from actor_lens.errors import UserError
from actor_lens.evaluation import utility
from actor_lens.evaluation.divergence import next_token_divergence, reply_divergence
from actor_lens.evaluation.harness import TaskScore, TaskScores
from actor_lens.evaluation.perplexity import perplexity
from actor_lens.evaluation.utility import Measure, Utility, measure_utility
from actor_lens.report.study_report import render_report
from tests.support.studies import planted_study
from tests.support.tiny_models import tiny_chat_model
from tests.support.tiny_runs import copied_tensors, quick_run, same_bits, tiny_prompts

NAN = float("nan")
TEXT = "Lobsters are blue. \n They turn red on cooking. \n"
UTILITY = Utility(
    "m",
    3,
    (
        Measure("KL divergence", "nats", 20, NAN, 0.01),
        Measure("perplexity of wiki", "perplexity", 900, 20.0, 20.2),
        Measure("mmlu", "acc", 400, 0.5, 0.47, 0.025),
    ),
)


def test_every_part_is_measured_before_and_after():
    model = tiny_chat_model()
    run = quick_run(model, lr=1e-2)
    before = copied_tensors(model)
    prompts = tiny_prompts(1, offset=40)
    found = measure_utility(model, run, prompts=prompts, text=TEXT, new_tokens=4)
    first, along, text = found.measures
    assert first.after == next_token_divergence(model, run, prompts).mean
    assert along.after == reply_divergence(model, run, prompts, new_tokens=4).mean
    assert first.n == along.n == len(prompts)
    assert text.before == perplexity(model, TEXT).value
    assert text.after == perplexity(model, TEXT, run=run).value
    assert text.n == len(TEXT)
    assert text.change == pytest.approx(100 * (text.after - text.before) / text.before)
    assert found.layer == run.layer
    assert same_bits(before, copied_tensors(model))


def test_changes_of_shares_are_points_and_others_percent():
    changes = [measure.change for measure in UTILITY.measures]
    assert math.isnan(changes[0])
    assert changes[1:] == pytest.approx([1.0, -3.0])
    assert [each.within_claim for each in UTILITY.measures] == [None, None, False]
    assert list(UTILITY.frame()["change"])[1:] == pytest.approx([1.0, -3.0])


def test_each_claim_is_about_its_own_benchmark():
    assert UTILITY.claim == (
        "MMLU changed by -3.00 points; the paper says that it stays within 1 %, and it did not "
        "here. Its 400 questions are too few to tell: their standard error is more than that. "
        "MT-Bench, which the paper says stays within 1.5 %, was not measured."
    )
    enough = replace(UTILITY.measures[2], stderr=0.004, after=0.509)
    rated = Measure("MT-Bench", "rating of 10", 160, 6.0, 5.92, 0.08)
    both = Utility("m", 3, (rated, enough)).claim
    assert both == (
        "MT-Bench changed by -1.33 %; the paper says that it stays within 1.5 %, and it did here. "
        "MMLU changed by +0.90 points; the paper says that it stays within 1 %, and it did here."
    )
    assert replace(rated, stderr=0.1).too_few  # 1.67 % of 6


@pytest.mark.parametrize(
    ("measure", "unit", "benchmark"),
    [
        ("mmlu (5-shot)", "acc", "MMLU"),
        ("local_mmlu (0-shot)", "acc", "MMLU"),
        ("mmlu_stem (5-shot)", "acc", None),
        ("MT-Bench, turn 1", "rating of 10", None),
        ("perplexity of wiki.test.raw", "perplexity", "WikiText-2"),
        ("perplexity of notes.txt", "perplexity", None),
        ("arc_easy (0-shot)", "acc", None),
    ],
)
def test_a_part_or_another_benchmark_is_held_against_no_claim(measure, unit, benchmark):
    one = Measure(measure, unit, 400, 0.5, 0.47)
    assert one.benchmark == benchmark
    assert (one.within_claim is None) == (benchmark not in ("MMLU", "MT-Bench"))


@pytest.mark.parametrize(
    ("asked", "left_out"),
    [
        (["mmlu"], ["mmlu_anatomy"]),
        (["mmlu", "mmlu_anatomy"], []),
        (["mmlu_anatomy"], []),
        (["mmlu_pro"], ["mmlu_pro_biology"]),
        (["mmlu", "mmlu_pro"], ["mmlu_anatomy", "mmlu_pro_biology"]),
    ],
)
def test_subjects_of_mmlu_are_left_out_only_where_their_group_stands_for_them(
    asked, left_out, monkeypatch
):
    """A subject, or another set of such a name, that was asked for is never lost."""
    inside = {
        "mmlu": ["mmlu", "mmlu_stem", "mmlu_anatomy"],
        "mmlu_pro": ["mmlu_pro", "mmlu_pro_biology"],
    }
    names = list(dict.fromkeys(name for task in asked for name in inside.get(task, [task])))
    scores = tuple(TaskScore(name, "acc", 0.5, 0.1, 9, 0) for name in names)
    monkeypatch.setattr(utility, "check_tasks", lambda *_, **__: None)
    monkeypatch.setattr(utility, "run_tasks", lambda *_, **__: TaskScores(scores, "0", None, False))
    model = tiny_chat_model()
    found = measure_utility(model, quick_run(model), tasks=asked)
    shown = [measure.measure.removesuffix(" (0-shot)") for measure in found.measures]
    assert shown == [name for name in names if name not in left_out]


def test_a_record_is_plain_and_read_back():
    record = json.loads(json.dumps(UTILITY.summary(), allow_nan=False))
    again = Utility.from_record(record)
    assert again.summary() == UTILITY.summary()
    assert again.claim == record["claim"]
    for broken in ({}, {"utility": [{}], "model": "m", "layer": 1}, {"utility": 3}):
        with pytest.raises(UserError, match="no summary of utility"):
            Utility.from_record(broken)


def test_the_report_shows_it_escaped_and_only_if_it_is_given():
    hostile = replace(UTILITY.measures[1], measure="<script>x</script>")
    page = render_report(planted_study(), utility=Utility("m", 3, (hostile, *UTILITY.measures[2:])))
    assert "&lt;script&gt;x" in page
    assert "<script>x" not in page
    assert "20.2000" in page
    assert "\u22123.00" in page
    assert "0.4681 to 0.4705<small>claim: within 1 %</small>" in page
    assert "6.2300 to" not in page  # MT-Bench was not measured
    assert 'id="utility"' not in render_report(planted_study())


def test_nothing_to_measure_is_told(tmp_path: Path):
    model = tiny_chat_model()
    run = quick_run(model)
    with pytest.raises(UserError, match="nothing to measure"):
        measure_utility(model, run)
    with pytest.raises(UserError, match="trained on other weights"):
        measure_utility(tiny_chat_model(seed=1), run, text=tmp_path / "none")


def test_tasks_that_cannot_be_run_are_told_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch,
):
    model = tiny_chat_model()
    run = quick_run(model)
    monkeypatch.delattr("actor_lens.evaluation.utility.perplexity")
    for tasks, settings, message in (
        (["words"], {"include_path": "nowhere"}, "nowhere: is no folder"),
        (["mmlu"], {"limit": 0}, "limit is 0"),
    ):
        with pytest.raises(UserError, match=message):
            measure_utility(model, run, text=TEXT, tasks=tasks, **settings)
