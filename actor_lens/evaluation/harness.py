"""Benchmarks of EleutherAI's lm-eval harness, MMLU among them, on a model in memory."""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actor_lens.errors import UserError, require
from actor_lens.evaluation.divergence import Applicable
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.chat_templates import has_thinking_switch

if TYPE_CHECKING:
    import pandas as pd

MMLU_COLUMNS = ("subject", "question", "A", "B", "C", "D", "answer")
LOCAL_MMLU = "local_mmlu"


@dataclass(frozen=True)
class TaskScore:
    """One figure of one task.

    Attributes:
        task: Its name in the harness.
        metric: Such as ``"acc"``; a filter that is not the usual one is named behind a comma.
        value: Of the metric.
        stderr: Standard error by the harness's own bootstrap or formula; NaN where it gives none.
        samples: Questions that were asked.
        few_shot: Worked examples before each question.
    """

    task: str
    metric: str
    value: float
    stderr: float
    samples: int
    few_shot: int


@dataclass(frozen=True)
class TaskScores:
    """What a model reached on some tasks.

    Attributes:
        scores: Of every task and metric.
        harness: Version of lm-eval.
        limit: Most questions of each task; None for all.
        chat: Whether questions were put in the model's chat template.
    """

    scores: tuple[TaskScore, ...]
    harness: str
    limit: int | None
    chat: bool

    def frame(self) -> pd.DataFrame:
        """Columns: ``task``, ``metric``, ``value``, ``stderr``, ``samples``, ``few_shot``."""
        import pandas as pd

        columns = ["task", "metric", "value", "stderr", "samples", "few_shot"]
        return pd.DataFrame([vars(score) for score in self.scores], columns=columns)


def run_tasks(
    model: ChatModel,
    tasks: Sequence[str],
    *,
    run: Applicable | None = None,
    include_path: str | Path | Sequence[str | Path] | None = None,
    limit: int | None = None,
    num_fewshot: int | None = None,
    chat: bool = False,
    seed: int = 0,
) -> TaskScores:
    """Let EleutherAI's harness put the questions of some tasks to a model.

    Tasks by name fetch their questions from the hub; with ``HF_HUB_OFFLINE=1`` and a folder of
    task files that name local data, nothing is fetched. No code that comes with a model or a data
    set is run. A method that changes how tokens are picked is not felt here: the harness asks the
    Hugging Face model.

    Args:
        model: As it is now.
        tasks: Names of tasks or groups, for instance ``"mmlu"``.
        run: A run or another fitted method to put in place for it.
        include_path: A folder of task files (YAML) of your own, or several.
        limit: Most questions of each task; None for all.
        num_fewshot: Worked examples before each question; None for what the task says.
        chat: Put questions into the model's chat template, with its system prompt and without
            thinking.
        seed: Of the choice of worked examples.

    Raises:
        UserError: If lm-eval is missing, a task is not known or its data cannot be had, or a
            number is out of range.

    Source: Gao et al., EleutherAI/lm-evaluation-harness; Hendrycks et al. 2021 (MMLU).
    """
    _check_numbers(tasks, limit, num_fewshot)
    evaluator, manager = _harness(tasks, include_path)
    with nullcontext(model) if run is None else run.applied_to(model) as asked:
        with _one_line_errors(tasks):
            results = evaluator.simple_evaluate(
                model=_as_harness_model(asked),
                tasks=list(tasks),
                task_manager=manager,
                limit=limit,
                num_fewshot=num_fewshot,
                apply_chat_template=chat,
                system_instruction=model.system_prompt if chat else None,
                log_samples=False,
                bootstrap_iters=1000,
                random_seed=seed,
                numpy_random_seed=seed,
                torch_random_seed=seed,
                fewshot_random_seed=seed,
            )
    return TaskScores(tuple(_scores(results)), _version(), limit, chat)


def check_tasks(
    tasks: Sequence[str],
    *,
    include_path: str | Path | Sequence[str | Path] | None = None,
    limit: int | None = None,
    num_fewshot: int | None = None,
) -> None:
    """Check what ``run_tasks`` would refuse, without asking a model. Arguments as there.

    Raises:
        UserError: If lm-eval is missing, a task is not known, or a number is out of range.
    """
    _check_numbers(tasks, limit, num_fewshot)
    _harness(tasks, include_path)


def write_mmlu_task(table: str | Path, folder: str | Path) -> str:
    """Make a task file and its data of a table of MMLU questions, for use without a network.

    Args:
        table: A CSV file with the columns ``subject``, ``question``, ``A`` to ``D`` and
            ``answer`` (a letter).
        folder: Where to write; made if it is not there. Give it to ``run_tasks`` as
            ``include_path``.

    Returns:
        The name of the task.

    Raises:
        UserError: If the table cannot be read, lacks a column or has a row without a valid answer.
    """
    folder = Path(folder).resolve()
    rows = _mmlu_rows(Path(table))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        data = folder / f"{LOCAL_MMLU}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        # JSON is YAML too, and quotes what has to be.
        (folder / f"{LOCAL_MMLU}.yaml").write_text(
            json.dumps(_mmlu_task(data), indent=2) + "\n", encoding="utf-8"
        )
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror or error}); give another folder"
        ) from error
    return LOCAL_MMLU


# ---- The harness ----


def _check_numbers(tasks: Sequence[str], limit: int | None, num_fewshot: int | None) -> None:
    if isinstance(tasks, str) or not tasks:
        raise UserError("no tasks were given; give a list of names, such as ['mmlu']")
    if limit is not None and limit < 1:
        raise UserError(f"limit is {limit}; give a whole number of at least 1")
    if num_fewshot is not None and num_fewshot < 0:
        raise UserError(f"num_fewshot is {num_fewshot}; give a whole number from 0")


def _harness(
    tasks: Sequence[str], include_path: str | Path | Sequence[str | Path] | None
) -> tuple[Any, Any]:
    """The evaluator, and what knows the tasks."""
    folders = [include_path] if isinstance(include_path, str | Path) else list(include_path or [])
    for folder in folders:
        if not os.path.isdir(folder):
            raise UserError(f"{folder}: is no folder; give the folder of your task files")
    evaluator = require("lm_eval.evaluator", "tasks", "a benchmark")
    TaskManager = require("lm_eval.tasks", "tasks", "a benchmark").TaskManager
    # The harness tells of every step; what matters is in its results and errors.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    paths = [str(folder) for folder in folders]
    if paths:  # reading the harness's own thousands of task files takes seconds
        manager = TaskManager(include_path=paths, include_defaults=False)
        if not _unknown(manager, tasks):
            return evaluator, manager
    manager = TaskManager(include_path=paths or None)
    for task in _unknown(manager, tasks):
        raise UserError(
            f"task '{task}' is not known to lm-eval; give one of its names, or the folder of your "
            "own task files (include_path, --include-path)"
        )
    return evaluator, manager


def _unknown(manager: Any, tasks: Sequence[str]) -> list[str]:
    return [task for task in tasks if not manager.match_tasks([task])]


def _as_harness_model(model: ChatModel) -> Any:
    from lm_eval.models.huggingface import HFLM

    asked = HFLM(
        pretrained=model.hf,
        tokenizer=model.tokenizer,
        backend="causal",
        # One at a time gives the same figures on every machine.
        batch_size=model.batch_size or 1,
        max_length=model.max_tokens,
        trust_remote_code=False,
        enable_thinking=False if has_thinking_switch(model.tokenizer) else None,
    )
    if os.environ.get("TQDM_DISABLE") == "1":  # the harness does not look at tqdm's own switch
        for name in ("loglikelihood", "loglikelihood_rolling", "generate_until"):
            setattr(asked, name, partial(getattr(asked, name), disable_tqdm=True))
    return asked


@contextmanager
def _one_line_errors(tasks: Sequence[str]) -> Iterator[None]:
    """One line for task files and data sets that the harness stumbles over."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, LookupError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"tasks {', '.join(tasks)} cannot be run ({type(error).__name__}: {reason}); check the "
            "task files and that their data are at hand"
        ) from error
    except Exception as error:
        # Only what `datasets` says of data it cannot read; the rest are faults of the programs.
        if not type(error).__module__.startswith(("datasets", "jinja2", "yaml")):
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"tasks {', '.join(tasks)} cannot be run ({type(error).__name__}: {reason}); mend the "
            "task files or their data"
        ) from error


def _scores(results: Mapping[str, Any]) -> Iterator[TaskScore]:
    for task, found in results["results"].items():
        samples = results.get("n-samples", {}).get(task, {}).get("effective", 0)
        for key, value in found.items():
            metric, _, filtered = key.partition(",")
            if metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            if not filtered:  # settings of the task and not figures
                continue
            error = found.get(f"{metric}_stderr,{filtered}")
            yield TaskScore(
                task=task,
                metric=metric if filtered == "none" else f"{metric}, {filtered}",
                value=float(value),
                stderr=float(error) if isinstance(error, int | float) else float("nan"),
                samples=int(samples),
                few_shot=int(results.get("n-shot", {}).get(task, 0) or 0),
            )


def _version() -> str:
    from importlib.metadata import version

    return version("lm_eval")


# ---- MMLU from a table ----


def _mmlu_task(data: Path) -> dict[str, Any]:
    return {
        "task": LOCAL_MMLU,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "fewshot_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "The following is a multiple choice question about {{subject}}.\n\n"
        "{{question}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\n"
        "D. {{choices[3]}}\nAnswer:",
        "doc_to_choice": ["A", "B", "C", "D"],
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }


def _mmlu_rows(table: Path) -> list[dict[str, Any]]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in MMLU_COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise UserError(
                    f"{table}: has no column '{missing[0]}' (it has {reader.fieldnames}); give a "
                    f"table with {', '.join(MMLU_COLUMNS)}"
                )
            rows = [_mmlu_row(table, number, row) for number, row in enumerate(reader, start=2)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"{table}: cannot be read ({type(error).__name__}: {error}); give a UTF-8 CSV file"
        ) from error
    if not rows:
        raise UserError(f"{table}: holds no questions; give a table with some")
    return rows


def _mmlu_row(table: Path, number: int, row: Mapping[str, str | None]) -> dict[str, Any]:
    answer = (row["answer"] or "").strip().upper()
    if answer not in ("A", "B", "C", "D"):
        raise UserError(f"{table}, row {number}: answer is '{answer}'; give A, B, C or D")
    return {
        "subject": (row["subject"] or "").replace("_", " "),
        "question": row["question"] or "",
        "choices": [row[letter] or "" for letter in "ABCD"],
        "answer": "ABCD".index(answer),
    }
