"""Every figure is a pure function of its tables, and drawing needs neither torch nor the stages."""

import json
import subprocess
import sys

import pytest

from actor_lens import figures
from tests.figures.results import (
    Framed,
    Map,
    Run,
    Sweep,
    Tokens,
    Verdicts,
    ablations,
    board,
    evaluation,
    projections,
    prompt_table,
    scores,
    shifts,
    subspace_table,
    sweep_table,
    targets,
    token_table,
    training,
    verdict_table,
)

RESULTS = {
    "projections_by_layer": [projections()],
    "layer_scores": [scores()],
    "subspace_steps": [Framed(subspace_table())],
    "layer_outcomes": [Sweep(sweep_table())],
    "layer_map": [Map(prompt_table(4).assign(x=0.5, y=1.5))],
    "target_preview": [targets()],
    "just_enough_shift": [shifts()],
    "training_curves": [Run(training())],
    "refusal_rates": [evaluation(1.0, 0.5, 0.0)],
    "prompt_shifts": [projections(), projections(seed=1)],
    "prompts_at_layer": [projections()],
    "token_heatmap": [Tokens(token_table())],
    "judge_confusion": [Verdicts(verdict_table())],
    "leaderboard_table": [board()],
    "compliance_against_safety": [board()],
    "tradeoff_scores": [board()],
    "ablation_scores": [ablations()],
    "ablation_series": [ablations()],
    "transfer_matrix": [ablations()],
}
NOT_DRAWN = ["Composition", "Panel", "compose", "config", "training_lines", "use_in_notebook"]


def draw(name):
    if name == "refusal_rates":
        return figures.refusal_rates(before=RESULTS[name][0])
    extra = (2,) if name in ("prompt_shifts", "prompts_at_layer") else ()
    if name.startswith("ablation_"):
        extra = ("alpha",)
    return getattr(figures, name)(*RESULTS[name], *extra)


def test_every_public_figure_is_tested_here():
    assert sorted([*RESULTS, *NOT_DRAWN]) == sorted(figures.__all__)


@pytest.mark.parametrize("name", RESULTS)
def test_drawing_twice_gives_the_same_and_leaves_the_table_alone(name):
    tables = [result.table for result in RESULTS[name]]
    copies = [table.copy(deep=True) for table in tables]
    first, second = draw(name).to_json(), draw(name).to_json()
    assert first == second
    for table, copy in zip(tables, copies, strict=True):
        assert table.equals(copy)


@pytest.mark.parametrize("name", RESULTS)
def test_figures_fit_any_width_and_say_what_they_show(name):
    layout = draw(name).layout
    assert layout.width is None
    assert layout.autosize is True
    assert layout.height >= 250
    assert 10 < len(layout.title.text) < 60 or layout.title.text == "Training layer 4"
    assert "sendChartToCloud" in layout.template.layout.modebar.remove


@pytest.mark.parametrize("name", RESULTS)
def test_a_page_with_the_figure_names_no_upload_server_in_its_settings(name):
    page = draw(name).to_html(config=figures.config(), include_plotlyjs=False)
    assert '"showSendToCloud": false' in page
    assert "https://" not in page.replace("https://plotly.com", "")


@pytest.mark.parametrize("name", RESULTS)
def test_docstrings_say_how_the_figure_is_misread(name):
    assert "misread" in getattr(figures, name).__doc__


def test_figures_load_no_torch_and_no_stage():
    code = "import actor_lens.figures, json, sys; print(json.dumps(sorted(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = json.loads(ran.stdout)
    assert "torch" not in loaded
    ours = {name.split(".")[1] for name in loaded if name.startswith("actor_lens.")}
    assert ours <= {"figures", "errors", "text"}
