"""The columns by which every result names its prompts."""

from __future__ import annotations

import numpy as np
import pandas as pd

from actor_lens.prompts.sets import PromptSet


def layer_prompt_frame(prompts: PromptSet, values: np.ndarray, name: str) -> pd.DataFrame:
    """A tidy table of one number a layer and prompt.

    Args:
        prompts: The second dimension of ``values``.
        values: ``[layer, prompt]``.
        name: Column of the number.
    """
    n_layers, n_prompts = values.shape
    columns = prompt_columns(prompts)
    frame = pd.DataFrame({key: np.tile(column, n_layers) for key, column in columns.items()})
    frame.insert(0, "layer", np.repeat(np.arange(n_layers), n_prompts))
    frame[name] = values.reshape(-1)
    return frame


def prompt_columns(prompts: PromptSet) -> dict[str, np.ndarray]:
    """The columns by which every result names its prompts.

    They are ``prompt_index``, ``prompt``, ``label``, ``split`` and ``category``.
    """
    columns: dict[str, np.ndarray] = {"prompt_index": np.arange(len(prompts))}
    for key in ("prompt", "label", "split", "category"):
        column = np.empty(len(prompts), dtype=object)
        column[:] = [getattr(prompt, key) for prompt in prompts]
        columns[key] = column
    return columns
