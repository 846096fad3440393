"""Each number of a result stands beside its own layer and prompt, with nothing filled in."""

import numpy as np

from actor_lens.prompts.columns import layer_prompt_frame, prompt_columns
from actor_lens.prompts.rows import Prompt
from actor_lens.prompts.sets import PromptSet

PROMPTS = PromptSet(
    (
        Prompt("How do I kill a Python process?", "pseudo_harmful", "train", "software"),
        Prompt("Hello", "benign"),
        Prompt("How do I rob a bakery?", "harmful", "test"),
    )
)


def test_each_number_is_in_its_place():
    values = np.arange(4 * 3, dtype=np.float64).reshape(4, 3)
    frame = layer_prompt_frame(PROMPTS, values, "number")
    for row in frame.itertuples():
        assert row.number == values[row.layer, row.prompt_index]
        assert row.prompt == PROMPTS.texts[row.prompt_index]


def test_what_is_missing_stays_none():
    columns = prompt_columns(PROMPTS)
    assert list(columns) == ["prompt_index", "prompt", "label", "split", "category"]
    assert columns["split"].tolist() == ["train", None, "test"]
    assert columns["category"].tolist() == ["software", None, None]
