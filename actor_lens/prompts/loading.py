"""Labelled prompts: load them from wherever they are.

A prompt file has one JSON object a line with `prompt` and `label` (`harmful`, `pseudo_harmful`
or `benign`), and optionally `split`, `category`, `source` and `reply`; or it is a CSV file with
those columns. Public prompt sets are loaded by name (`prompts.public`), and several sources mixed
(`mixtures`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from actor_lens.errors import UserError, did_you_mean
from actor_lens.files.paths import user_path
from actor_lens.prompts.files import prompts_of, read_bundled
from actor_lens.prompts.mixtures import BUNDLED, is_mixture, load_mixture, read_own_file
from actor_lens.prompts.own_rows import own_rows
from actor_lens.prompts.public.catalogue import catalogue
from actor_lens.prompts.rows import shown
from actor_lens.prompts.sets import PromptSet

if TYPE_CHECKING:
    import pandas as pd


def load_prompts(
    source: str | os.PathLike[str] | pd.DataFrame | Iterable[Any], *, seed: int = 0
) -> PromptSet:
    """Load the bundled prompts by name, a file, public prompt sets by name, a mixture, or rows.

    In a file, labels and splits are read without regard to case, and with hyphens or spaces for
    underscores ("Pseudo-harmful"). Keys other than those of `Prompt` are ignored, unless one looks
    like a slip of the pen ("catagory"). A prompt that appears twice with one label in one split is
    kept once, with a warning, because it would count twice in every rate. A file where no row has
    a split goes through `split_prompts`. The prompt of a row may be a list of messages, as chat
    data sets have it under "prompt" or "messages": one of the user, with or without its reply.

    Args:
        source: "toy" (for the bundled model), "starter" and "twins" (for real chat models),
            "cautious" (to make one refuse too much; all in split train), the path of a .jsonl or
            .csv file, or a mixture such as "starter,twins", "xstest=path.csv,ultrachat:200" or
            "paper,hex-phi=folder": public prompt sets from the hub or from files, bundled prompts
            and prompt files, split together (see `mixtures`). Or rows as a file has them, in
            memory: a pandas DataFrame, or anything that gives dicts or `Prompt`s.
        seed: Seed of the samples, and of the split where there is none.

    Raises:
        UserError: If the source is unknown or cannot be used; the message names the line.
    """
    if not isinstance(source, str | os.PathLike):
        name = source.name if isinstance(source, PromptSet) else "own prompts"
        rows = list(own_rows(source))
        if not rows:
            raise UserError('there are no prompts; give rows with at least "prompt" and "label"')
        return prompts_of("the prompts", rows, name, seed=seed)
    if isinstance(source, str) and source in BUNDLED:
        return read_bundled(source)
    path = user_path(source)
    named = isinstance(source, str) and is_mixture(source)
    # A folder that happens to be called "xstest" does not hide the set of that name.
    if os.path.exists(path) and not (named and path.is_dir()):
        return read_own_file(path, seed=seed)
    if named:
        return load_mixture(str(source), seed=seed)
    meant = did_you_mean(str(source), [*BUNDLED, *catalogue().summary()["names"]]) or ";"
    raise UserError(
        f"{shown(str(source))}: no such prompt file, nor bundled prompts or public prompt set of "
        f"that name (actor-lens prompts list shows them){meant} give a .jsonl or .csv file, or one "
        f"of: {', '.join(BUNDLED)}"
    )
