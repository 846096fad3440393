"""A model card says what was measured, and nothing in it can be more than text.

The hub's own parser reads the front matter; a Markdown parser would see the sections. Names, prompt
files and results that are made to break out of their places stay in them.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from actor_lens.errors import UserError
from actor_lens.export.model_card import CardFacts, Form, escaped, is_hub_name, render_model_card
from actor_lens.models.chat_model import ChatModel
from actor_lens.training.run import TrainingRun
from tests.support.tiny_models import tiny_chat_model
from tests.support.tiny_runs import quick_run

FORM = Form(library="peft", what="A thing.", lines=["x = 1"], undo="Undo it.", tags=["lora"])
RATE = {"refused": 0.25, "n": 40, "low": 0.14, "high": 0.4}
RESULTS: dict[str, Any] = {
    "before": {"harmful": {**RATE, "refused": 0.975}, "pseudo_harmful": RATE},
    "after": {"harmful": {**RATE, "refused": 0.95}, "pseudo_harmful": {**RATE, "refused": 0.0}},
    "ood": {"before": {"pseudo_harmful": {**RATE, "n": 7}}, "after": {}},
    "judge": "keywords/1",
    "new_tokens": 48,
}
HOSTILE = "x\n---\nlicense: cc0\n# Title\n```\n<script>alert(1)</script> [a](javascript:b) | `c`"


@pytest.fixture(scope="module")
def model() -> ChatModel:
    return tiny_chat_model()


@pytest.fixture(scope="module")
def run(model: ChatModel) -> TrainingRun:
    return quick_run(model)


def test_the_hub_reads_the_front_matter(model: ChatModel, run: TrainingRun):
    facts = CardFacts(base_model="org/base-chat", license="llama2")
    data = ModelCard(render_model_card(model, run, FORM, facts)).data.to_dict()
    assert data == {
        "base_model": "org/base-chat",
        "library_name": "peft",
        "license": "llama2",
        "pipeline_tag": "text-generation",
        "tags": ["actor-lens", "over-refusal", "lora"],
    }


def test_a_folder_and_an_unknown_licence_are_left_out(model: ChatModel, run: TrainingRun):
    card = render_model_card(
        replace(model, source={"name": "/data/my-model"}), run, FORM, CardFacts()
    )
    data = ModelCard(card).data.to_dict()
    assert "base_model" not in data
    assert "license" not in data
    assert "/data" not in card


def test_rates_stand_with_their_intervals(model: ChatModel, run: TrainingRun):
    card = render_model_card(model, run, FORM, CardFacts(results=RESULTS))
    assert "| harmful, test | 40 | 97.5 % (14.0 % to 40.0 %) | 95.0 % (14.0 % to 40.0 %) |" in card
    assert (
        "| pseudo harmful, test | 40 | 25.0 % (14.0 % to 40.0 %) | 0.0 % (14.0 % to 40.0 %) |"
        in card
    )
    assert "| pseudo harmful, out of distribution | 7 | 25.0 % (14.0 % to 40.0 %) | not mea" in card
    assert "Judge keywords/1, greedy replies of at most 48 tokens" in card
    assert "not harmful" not in card


def test_rates_of_a_judge_of_harm_are_not_called_refusals(model: ChatModel, run: TrainingRun):
    results = {**RESULTS, "judge": "llm-binary:m:not-harmful-v1:ab"}
    card = render_model_card(model, run, FORM, CardFacts(results=results))
    assert "refused (of harmful prompts: of replies that are not harmful), 95 %" in card


def test_what_was_not_measured_is_not_claimed(model: ChatModel, run: TrainingRun):
    for results in (None, {}, {"layer": 3}):
        assert "## Results" not in render_model_card(model, run, FORM, CardFacts(results=results))


@pytest.mark.parametrize(
    "results",
    [
        {"before": {"harmful": 3}},
        {"before": [1]},
        {"before": {"harmful": {"n": 3, "refused": "no"}}},
        {"before": {"harmful": {"n": 3}}},
        {"ood": 3},
    ],
)
def test_results_of_another_form_are_one_line(model: ChatModel, run: TrainingRun, results: Any):
    with pytest.raises(UserError, match="are no summary of train or evaluate") as told:
        render_model_card(model, run, FORM, CardFacts(results=results))
    assert "\n" not in str(told.value)


def test_settings_data_and_undoing_are_named(model: ChatModel, run: TrainingRun):
    card = render_model_card(model, run, FORM, CardFacts(prompts_note="By us, CC-BY."))
    for part in (
        "| layer | 1 |",
        "| epochs | 3 |",
        "tiny (3 harmful, 3 pseudo harmful, 3 benign)",
        "By us, CC\\-BY.",
        "## Undo\n\nUndo it.",
        "```python\nx = 1\n```",
        f"{run.trained_parameters:,} of {model.hf.num_parameters():,} parameters",
    ):
        assert part in card


@pytest.mark.parametrize("place", ["model", "base", "license", "prompts", "note", "judge", "label"])
def test_no_name_breaks_out_of_its_place(model: ChatModel, run: TrainingRun, place: str):
    facts = CardFacts(
        base_model=HOSTILE if place == "base" else None,
        license=HOSTILE if place == "license" else "mit",
        prompts_note=HOSTILE if place == "note" else "",
        results={
            **RESULTS,
            "judge": HOSTILE if place == "judge" else "k",
            "before": {HOSTILE if place == "label" else "benign": RATE},
        },
    )
    named = replace(model, name=HOSTILE) if place == "model" else model
    trained = replace(run, prompts_name=HOSTILE) if place == "prompts" else run
    card = render_model_card(named, trained, FORM, facts)
    data = ModelCard(card).data.to_dict()
    assert data["license"] == (HOSTILE if place == "license" else "mit")
    body = ModelCard(card).text
    assert "<script>" not in body
    assert [line for line in body.splitlines() if line.startswith("# ")] == [
        line for line in body.splitlines() if "trained against over-refusal" in line
    ]
    assert body.count("```") == 2
    assert "[a](" not in body


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain words, 3.5 %", "plain words, 3.5 %"),
        ("a_b*c", "a\\_b\\*c"),
        ("a\n\n b", "a b"),
        ("<b>&|", "&lt;b\\>\\&\\|"),
    ],
)
def test_escaping(text: str, expected: str):
    assert escaped(text) == expected


def test_names_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "org" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert is_hub_name("org/model-1.5_chat")
    for name in ("model", "/org/model", "org/a/b", "org/ model", "../model", "org/here", "a/b\n"):
        assert not is_hub_name(name)
