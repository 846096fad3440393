"""The pages hold the numbers of their results, escape text, and ask nothing of the network."""

from dataclasses import replace

import pytest
from markupsafe import escape

from actor_lens import figures
from actor_lens.cli.writing import as_json
from actor_lens.experiments.ablations.grid import AblationCell
from actor_lens.experiments.ablations.results import Ablations
from actor_lens.experiments.ablations.trial import AblationOutcome
from actor_lens.experiments.comparison.compare import compare
from actor_lens.report.ablation_report import write_ablations
from actor_lens.report.comparison_report import render_comparison, write_comparison
from actor_lens.report.findings import findings
from actor_lens.results import records
from tests.support.planted_methods import ALWAYS, JUDGE, PERFECT, Failing
from tests.support.studies import TEXTS, planted_prompts
from tests.support.tiny_models import tiny_chat_model

NASTY = "<script>alert(1)</script> & co"


@pytest.fixture(scope="module")
def board():
    texts = {label: f"{text} {NASTY}" for label, text in TEXTS.items()}
    methods = [PERFECT, ALWAYS, Failing(ValueError(NASTY))]
    prompts = planted_prompts(3, texts=texts)
    return compare(tiny_chat_model(), prompts, methods, judge=JUDGE, new_tokens=1)


def body(page):
    return page[page.index('<div class="page">') :]


def test_the_page_says_what_was_found_and_escapes_text(board, tmp_path):
    path = write_comparison(board, tmp_path / "report.html", command=f"actor-lens {NASTY}")
    text = body(path.read_text())
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; co" in text
    assert escape(findings(board)[0]) in text
    assert JUDGE.identity in text
    assert "could not be tried: ValueError" in text
    assert "https://" not in text.replace("https://plotly.com", "")


@pytest.mark.parametrize(
    ("judge", "meaning"),
    [("llm:m:rubric-v1:ab", "refused"), ("llm-binary:m:not-harmful-v1:ab", "not harmful")],
)
def test_the_safety_score_is_named_by_what_it_counts(board, judge, meaning):
    named = replace(board, about={**board.about, "judge": judge})
    assert set(named.frame()["safety_means"]) == {meaning}
    text = body(render_comparison(named))
    assert f"S.S.<small>{meaning}</small>" in text
    assert f"S.S. ({meaning})" in text
    assert f"safety ({meaning})" in findings(named)[0]
    assert figures.leaderboard_table(named).data[0].header.values[2] == f"S.S.<br>({meaning})"
    axis = figures.compliance_against_safety(named).layout.yaxis.title.text
    assert axis == f"safety score (harmful prompts: {meaning})"


def test_a_page_without_a_single_completed_method_is_a_page(board):
    failed = tuple(one for one in board.outcomes if one.status == "failed")
    text = body(render_comparison(replace(board, outcomes=failed, reference="failing")))
    assert "could not be tried" in text
    assert 'class="plotly-graph-div"' not in text


def test_an_infinite_divergence_is_shown_as_such_everywhere(board):
    outcomes = tuple(
        replace(one, kl=float("inf")) if one.method == "always" else one for one in board.outcomes
    )
    infinite = replace(board, outcomes=outcomes)
    assert '<td class="num">∞</td>' in body(render_comparison(infinite))
    table = figures.leaderboard_table(infinite).data[0]
    columns = dict(zip(table.header["values"], table.cells["values"], strict=True))
    assert columns["KL"][list(columns["method"]).index("always")] == "∞"
    as_json({"methods": records(infinite.frame())})  # has neither infinity nor NaN


def test_the_page_of_ablations_holds_its_means_and_what_failed(tmp_path):
    counts = {"test": {"harmful": [9, 10], "pseudo_harmful": [2, 10], "benign": [0, 10]}}
    kinds = {"test": {"games": [1, 5], NASTY: [1, 5]}}
    other = {"test": {**counts["test"], "pseudo_harmful": [4, 10]}}
    cells = [
        AblationCell("transfer", "trained on", kind, seed)
        for kind, seed in (("games", 0), ("games", 1), (NASTY, 0))
    ]
    outcomes = [
        AblationOutcome(cell, float("nan"), "completed", "", {}, of_seed, kinds)
        for cell, of_seed in zip(cells[:2], (counts, other), strict=True)
    ]
    outcomes.append(AblationOutcome(cells[2], float("nan"), "failed", NASTY))
    about = {"model": NASTY, "seeds": [0, 1], "per_label": 4, "judge": "first-token:1:ab12"}
    about |= {"decoding": "greedy", "new_tokens": 1, "dtype": "float32", "device": "cpu"}
    about |= {"settings": {"alpha": 1.0}, "versions": {"torch": "2"}}
    result = Ablations(tuple(outcomes), 3, "it was named", about)
    text = body(write_ablations(result, tmp_path / "ablations.html").read_text())
    assert "<script>alert" not in text
    assert "70.0 %</strong><small><span>60.0 % to 80.0 %" in text
    assert "80.0 %</strong><small><span>75.0 % to 85.0 %" in text  # (0.6 + 0.9) / 2 to ...
    assert "90.0 %</strong></td>" in text  # the same for both seeds
    assert "<bdi>first-token</bdi>, greedy replies of at most 1 token." in text
    assert "T.S. (trade-off score): their mean" in text
    assert "trained on &lt;script&gt;alert(1)&lt;/script&gt; &amp; co, seed 0: failed" in text
    assert text.count('class="plotly-graph-div"') == 2
