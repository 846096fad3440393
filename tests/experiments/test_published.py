"""The paper's figures agree with themselves, and stand beside ours under their model's name."""

import re
from pathlib import Path

import pandas as pd
import pytest

from actor_lens.experiments.presets import PRESETS
from actor_lens.experiments.published import (
    SETS,
    beside,
    published_ablations,
    published_methods,
    published_utility,
)

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "comparing-methods.md"
TABLE = published_methods()
MEASURED = pd.DataFrame(
    {
        "method": ["actor", "mine", "default"],
        "compliance_rate": [0.5, 0.1, 0.2],
        "safety_score": [0.7, 0.1, 0.4],
        "tradeoff_score": [0.6, 0.1, 0.3],
    }
)


def test_means_and_trade_offs_follow_from_the_other_figures():
    assert len(TABLE) == 18
    means = TABLE[list(SETS)].mean(axis=1)
    assert (TABLE["compliance_rate"] - means).abs().max() < 1e-4
    scores = (TABLE["compliance_rate"] + TABLE["safety_score"]) / 2
    assert (TABLE["tradeoff_score"] - scores).abs().max() < 1.1e-4
    full = TABLE[TABLE["model"] == "Llama-2-7b-chat"]
    assert list(full["method"]) == list(PRESETS["paper"].methods)


@pytest.mark.parametrize(
    ("model", "theirs", "score"),
    [
        ("toy", "Llama-2-7b-chat", 0.9488),
        ("google/gemma-7b-it", "Gemma-7b-it", 0.8475),
        ("/models/Llama-2-13b-chat-hf", "Llama-2-13b-chat", 0.9186),
    ],
)
def test_each_figure_stands_under_the_name_of_its_model(model, theirs, score):
    table = beside(MEASURED, TABLE, model, ["method"]).set_index("method")
    assert set(table.index) == {"actor", "default"}
    row = table.loc["actor"]
    assert (row["model"], row["published_model"]) == (model, theirs)
    assert (row["tradeoff_score"], row["published_tradeoff_score"]) == (0.6, pytest.approx(score))


def test_a_value_that_was_not_tried_has_no_measured_figure():
    published = published_ablations()
    measured = pd.DataFrame(
        {"series": ["benign prompts"], "value": ["15"], "tradeoff_score": [0.9]}
    )
    table = beside(measured, published, "toy", ["series", "value"], how="left")
    assert len(table) == len(published)
    tried = table.dropna(subset=["tradeoff_score"])
    assert list(tried["value"]) == ["15"]
    assert tried["published_tradeoff_score"].item() == pytest.approx(0.9417)
    nothing = beside(pd.DataFrame(), published[:0], "toy", ["series", "value"], how="left")
    assert nothing.empty


def test_the_guide_shows_these_figures():
    rows = re.findall(
        r"^\| `([a-z-]+)` \| ([\d.]+) % \| ([\d.]+) %", GUIDE.read_text(), re.MULTILINE
    )
    assert [name for name, *_ in rows] == list(PRESETS["paper"].methods)
    scores = TABLE.set_index(["model", "method"])["tradeoff_score"]
    for name, llama, gemma in rows:
        assert float(llama) == pytest.approx(100 * scores["Llama-2-7b-chat", name])
        assert float(gemma) == pytest.approx(100 * scores["Gemma-7b-it", name])


def test_what_the_paper_claims_of_a_benchmark_holds_of_its_own_figures():
    table = published_utility().set_index("benchmark")
    assert list(table.index) == ["MT-Bench", "MMLU", "WikiText-2"]
    changes = 100 * (table["after"] / table["before"] - 1).abs()
    claimed = table["claim"].dropna()
    assert claimed.to_dict() == {"MT-Bench": 1.5, "MMLU": 1.0}
    assert (changes[claimed.index] <= claimed).all()
