"""Who solved what, read from the notebooks that a class has handed in.

Nothing in them is run: what counts is what a notebook printed when its owner ran it. That is as
trustworthy as the class is, and enough to see which exercise to talk about.
"""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from actor_lens.errors import UserError
from actor_lens.files.paths import user_path
from actor_lens.results import Result
from actor_lens.text import plural

RIGHT, WRONG, NO_ANSWER, NOT_RUN = "right", "wrong", "no answer", "not run"
_SAID = {"Right.": RIGHT, "Not yet.": WRONG, "No answer yet.": NO_ANSWER}

# What a file that is no notebook, or one made to be deep, brings about.
_FAULTS = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True, eq=False, repr=False)
class ClassCheck(Result):
    """What became of each exercise in each notebook.

    Attributes:
        rows: File (from the folder on), name of the answer, and ``"right"``, ``"wrong"``,
            ``"no answer"`` or ``"not run"``.
        unread: Files that hold no exercise of ours, with the reason.
    """

    rows: tuple[tuple[str, str, str], ...]
    unread: tuple[tuple[str, str], ...] = ()

    def frame(self) -> pd.DataFrame:
        """One row a notebook and exercise: file, answer, result."""
        return pd.DataFrame(self.rows, columns=["file", "answer", "result"])

    def table(self) -> pd.DataFrame:
        """One row a notebook with its right answers, how many it has, and what is left to do."""
        rows = []
        for file, part in self.frame().groupby("file"):
            left = part[part["result"] != RIGHT]
            open_ones = [f"{one.answer} ({one.result})" for one in left.itertuples()]
            rows.append((file, len(part) - len(left), len(part), ", ".join(open_ones)))
        return pd.DataFrame(rows, columns=["file", "right", "exercises", "left"])

    def by_exercise(self) -> pd.DataFrame:
        """One row an exercise: in how many notebooks it is right, wrong, not answered, not run."""
        frame = self.frame()
        counts = frame.groupby(["answer", "result"], sort=False).size().unstack(fill_value=0)
        names = [RIGHT, WRONG, NO_ANSWER, NOT_RUN]
        return counts.reindex(columns=names, fill_value=0).reset_index().rename_axis(columns=None)

    def summary(self) -> dict[str, Any]:
        """Notebooks, exercises and the files that could not be read."""
        return {
            "notebooks": self.table().to_dict("records"),
            "exercises": self.by_exercise().to_dict("records"),
            "unread": dict(self.unread),
        }

    def _table(self) -> pd.DataFrame:
        return self.table()

    def _headline(self) -> str:
        right = sum(result == RIGHT for _, _, result in self.rows)
        files = len({file for file, _, _ in self.rows})
        return f"ClassCheck: {plural(files, 'notebook')}, {right} of {len(self.rows)} answers right"


def check_class(folder: str | Path) -> ClassCheck:
    """Read which exercises are solved in the notebooks of a folder and of the folders in it.

    Args:
        folder: Folder of handed-in notebooks (``.ipynb``), saved with their outputs.

    Raises:
        UserError: If there is no such folder, or no notebook in it.
    """
    root = user_path(folder)
    if not root.is_dir():
        raise UserError(f"{folder}: is not a folder; give the one with the handed-in notebooks")
    paths = sorted(path for path in root.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
    if not paths:
        raise UserError(f"{folder}: holds no notebook (.ipynb)")
    rows: list[tuple[str, str, str]] = []
    unread = []
    for path in paths:
        name = path.relative_to(root).as_posix()
        try:
            cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
            found = [row for cell in cells for row in _exercises(cell)]
        except _FAULTS as error:
            unread.append((name, f"no notebook that can be read ({type(error).__name__})"))
            continue
        if not found:
            unread.append((name, "no exercise in it"))
        rows += [(name, *row) for row in found]
    return ClassCheck(tuple(rows), tuple(unread))


def _exercises(cell: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The answers that a cell checks, with what it printed; folded solutions have no hint."""
    if cell["cell_type"] != "code":
        return
    source = "".join(cell["source"])
    asked = [_answer(call) for call in _calls(source)]
    streams = (one for one in cell["outputs"] if one.get("output_type") == "stream")
    printed = "".join("".join(one["text"]) for one in streams if one.get("name") == "stdout")
    said = [
        result
        for line in printed.splitlines()
        for start, result in _SAID.items()
        if line.startswith(start)
    ]
    for number, answer in enumerate(asked):
        if answer is not None:
            yield answer, said[number] if len(said) == len(asked) else NOT_RUN


def _calls(source: str) -> list[ast.Call]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes in a learner's text
            tree = ast.parse(source)
    except SyntaxError:  # a magic, or half a line of a learner
        return []
    calls = [one for one in ast.walk(tree) if isinstance(one, ast.Call)]
    calls = [one for one in calls if isinstance(one.func, ast.Name) and one.func.id == "verdict"]
    return sorted(calls, key=lambda call: call.lineno)


def _answer(call: ast.Call) -> str | None:
    """The name of the answer that a call checks; None in a solution."""
    hints = [one.value for one in call.keywords if one.arg == "hint"]
    is_solution = bool(hints) and isinstance(hints[0], ast.Constant) and not hints[0].value
    return None if is_solution or not call.args else ast.unparse(call.args[0])
