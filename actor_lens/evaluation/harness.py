"""Benchmarks of EleutherAI's lm-eval harness, MMLU among them, on a model in memory."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from actor_lens.errors import UserError, check_whole, require
from actor_lens.evaluation.divergence import Applicable
from actor_lens.files.paths import user_path
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.chat_templates import (
    asks_for_date,
    has_thinking_switch,
    pin_template,
)
from actor_lens.results import Result
from actor_lens.text import one_line, plural


@dataclass(frozen=True)
class TaskScore:
    """One figure of one task.

    Attributes:
        task: Name of the task in the harness.
        metric: Name of the metric, such as ``"acc"``; a filter other than the usual one is named
            after a comma.
        value: Value of the metric.
        stderr: Standard error by the harness's own bootstrap or formula; NaN where it gives none.
        samples: Number of questions that were asked.
        few_shot: Number of worked examples before each question.
    """

    task: str
    metric: str
    value: float
    stderr: float
    samples: int
    few_shot: int


@dataclass(frozen=True, repr=False)
class TaskScores(Result):
    """What a model reached on some tasks.

    Attributes:
        scores: One score for every task and metric.
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
        columns = [field.name for field in fields(TaskScore)]
        return pd.DataFrame([vars(score) for score in self.scores], columns=columns)

    def _headline(self) -> str:
        tasks = list(dict.fromkeys(score.task for score in self.scores))
        names = f" ({', '.join(tasks)})" if tasks else ""
        return f"TaskScores: {plural(len(tasks), 'task')}{names} of lm-eval {self.harness}"


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
        model: The model as it is now.
        tasks: Names of tasks or groups, for instance ``"mmlu"``.
        run: A run or another fitted method that is put in place meanwhile.
        include_path: A folder of task files (YAML) of your own, or several.
        limit: Most questions of each task; None for all.
        num_fewshot: Number of worked examples before each question; None for what the task says.
        chat: Put questions into the model's chat template, with its system prompt and without
            thinking and with the same date as everywhere.
        seed: Seed of the choice of worked examples.

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
    return TaskScores(tuple(_scores(results)), version("lm_eval"), limit, chat)


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


# ---- The harness ----


def _check_numbers(tasks: Sequence[str], limit: int | None, num_fewshot: int | None) -> None:
    if isinstance(tasks, str) or not tasks:
        raise UserError("no tasks were given; give a list of names, such as ['mmlu']")
    if limit is not None:
        check_whole("limit", limit, 1)
    if num_fewshot is not None:
        check_whole("num_fewshot", num_fewshot, 0)


def _harness(
    tasks: Sequence[str], include_path: str | Path | Sequence[str | Path] | None
) -> tuple[Any, Any]:
    """The evaluator, and what knows the tasks."""
    given = [include_path] if isinstance(include_path, str | Path) else include_path or []
    folders = [user_path(folder) for folder in given]
    for folder in folders:
        if not os.path.isdir(folder):
            raise UserError(f"{folder}: is no folder; give the folder of your task files")
    evaluator = require("lm_eval.evaluator", "tasks", "a benchmark")
    TaskManager = require("lm_eval.tasks", "tasks", "a benchmark").TaskManager
    # The harness logs every step; what matters is in its results and errors.
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

    tokenizer = model.tokenizer
    if asks_for_date(tokenizer):  # the harness renders by itself, and would say today's
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.chat_template = pin_template(tokenizer)
    asked = HFLM(
        pretrained=model.hf,
        tokenizer=tokenizer,
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
    except Exception as error:
        by_kind = isinstance(error, (OSError, ValueError, TypeError, LookupError, ImportError))
        # Of the others only what is said of data that cannot be read; the rest are faults.
        if not by_kind and not type(error).__module__.startswith(("datasets", "jinja2", "yaml")):
            raise
        raise UserError(
            f"tasks {', '.join(tasks)} cannot be run ({type(error).__name__}: "
            f"{one_line(error, 200)}); check the task files and that their data are at hand"
        ) from error


def _scores(results: Mapping[str, Any]) -> Iterator[TaskScore]:
    for task, values in results["results"].items():
        samples = _samples(results, task)
        for key, value in values.items():
            metric, _, filtered = key.partition(",")
            if metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            if not filtered:  # settings of the task and not figures
                continue
            error = values.get(f"{metric}_stderr,{filtered}")
            yield TaskScore(
                task=task,
                metric=metric if filtered == "none" else f"{metric}, {filtered}",
                value=float(value),
                stderr=float(error) if isinstance(error, int | float) else float("nan"),
                samples=samples,
                few_shot=int(results.get("n-shot", {}).get(task, 0) or 0),
            )


def _samples(results: Mapping[str, Any], task: str) -> int:
    """Questions of a task, or of all tasks of a group."""
    parts = results.get("group_subtasks", {}).get(task, ())
    if parts:
        return sum(_samples(results, part) for part in parts)
    return int(results.get("n-samples", {}).get(task, {}).get("effective", 0))
