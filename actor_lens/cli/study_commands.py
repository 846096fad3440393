"""The commands about one fine-tuned layer: ``demo``, ``train`` and ``report``.

``train`` collects residuals, chooses a layer unless ``--layer`` names one, trains it, and asks the
test prompts before and after. ``demo`` does the same on the bundled model and adds three variants
of the method and a report. ``report`` writes the HTML page about a run that was trained before.

Files that ``train`` and ``demo`` write into ``--out``:
    block.safetensors, run.json, history.csv: The run, for ``evaluate``, ``utility``, ``export`` and
        ``report``; and resume.safetensors while its training can be continued.
    layers.csv: Scores of every layer, unless ``--no-evaluate``.
    trials.csv: What came of each layer and setting that was tried, where some were.
    evaluation.csv: One row a prompt with its verdicts before and after, unless ``--no-evaluate``.
    report.html: With ``--report`` and from ``demo``, one page that works offline.
    summary.json: The record that ``--json`` prints; written last, so that where it is, all else is.

The run is saved at the end of an epoch now and then, and before anything is evaluated. Ctrl-C while
training ends after the step with exit code 130 and prints the command that goes on (``--resume``);
the weights at the end are then those of an uninterrupted training, bit for bit. Ctrl-C later leaves
the finished run.

Examples:
    actor-lens demo --out demo
    actor-lens demo --overwrite --quiet --json
    actor-lens train --layer 4 --epochs 12 --out run --report
    actor-lens train --layer 4 --out run --resume
    actor-lens report --run run --out page
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actor_lens.cli.arguments import (
    NEW_TOKENS,
    PROGRAM,
    add_command,
    add_common,
    add_flags,
    add_training,
    settings_of,
)
from actor_lens.cli.inputs import (
    load_anchors,
    load_model_and_prompts,
    load_run,
    model_settings,
    open_judge,
    open_progress,
    read_summary,
)
from actor_lens.cli.printing import give_results, print_json, print_study
from actor_lens.cli.writing import StoppedError, prepare_out
from actor_lens.errors import UserError
from actor_lens.training.config import FinetuneConfig

if TYPE_CHECKING:
    import pandas as pd

    from actor_lens.evaluation.utility import Utility
    from actor_lens.experiments.study import Study
    from actor_lens.training.run import TrainingRun

# What is written beside a run, and goes when another takes its place.
_RESULTS = ("summary.json", "evaluation.csv", "layers.csv", "trials.csv", "report.html")

# Shown beside the fine-tune in the demo: what the choices of the method are worth.
DEMO_VARIANTS: dict[str, dict[str, Any]] = {
    "raw formula": {"origin": "zero"},
    "uniform shift": {"shift": "uniform"},
    "25 pseudo-harmful prompts": {"per_label": {"harmful": 60, "benign": 60, "pseudo_harmful": 25}},
}


def add_commands(commands: Any) -> None:
    """Register ``demo``, ``train`` and ``report``."""
    text = "the whole job on the bundled model, with a report"
    parser = add_command(commands, "demo", train, text)
    add_common(parser, out="demo")
    add_training(parser, new_tokens=32)  # nearly all of the bundled model's replies are shorter
    parser.set_defaults(evaluate=True, report=True, variants=DEMO_VARIANTS)

    parser = add_command(commands, "train", train, "fine-tune one layer; rates before and after")
    add_common(parser)
    add_training(parser)
    parser.set_defaults(variants={})
    text = "train and save only; a layer that --layer names is not compared with others"
    parser.add_argument("--no-evaluate", dest="evaluate", action="store_false", help=text)
    parser.add_argument("--report", action="store_true", help="write report.html too")

    parser = add_command(commands, "report", report, "one HTML file about a run, works offline")
    add_common(parser, seed=None, out_text="default: the folder of the run")
    add_flags(parser, "--run", required=True)
    parser.add_argument("--utility", metavar="DIR", help="a folder that utility wrote, for a table")
    add_flags(parser, "--judge", "--new-tokens")


# ---- demo and train ----

# What ``report`` takes as ``train`` does and no run records, with the usual values.
_OF_REPORTS = {
    **dict.fromkeys(("prompts", "split_by", "balance", "quantization", "device_map")),
    **{"device": "auto", "dtype": "auto", "judge": "keywords", "new_tokens": NEW_TOKENS},
}


def train(arguments: argparse.Namespace) -> None:
    """Fine-tune one layer, with the variants beside it, and show what changed.

    Raises:
        UserError: If flags contradict each other, a setting is not allowed, the prompts lack a
            label or a split, the run in ``--out`` cannot be continued, or ``--out`` cannot be used.
        StoppedError: If Ctrl-C came once there was something to keep.
    """
    if arguments.report and not arguments.evaluate:
        raise UserError("--report needs the evaluation; leave out --no-evaluate")
    resume = _open_resumed(arguments)
    out = prepare_out(arguments)
    saver = _RunSaver(arguments.command_line, out)
    with saver.saying_what_is_saved():
        with open_progress(arguments):
            record, study = _train_and_evaluate(arguments, resume, saver)
        tables: dict[str, Callable[[], pd.DataFrame]] = {}
        if arguments.evaluate:
            tables = {"layers.csv": study.look.scores.frame, "evaluation.csv": study.frame}
        if study.trials is not None:
            tables["trials.csv"] = study.trials.frame
        if arguments.report and out is not None:
            from actor_lens.report.study_report import write_report

            write_report(study, out / "report.html", command=arguments.command_line)
        page = "report.html" if arguments.report else "summary.json"
        give_results(arguments, out, record, tables, lambda: print_study(record), page)
        if out is not None and not (arguments.report or arguments.json or arguments.test_per_label):
            print(f"As a page: {_report_command(arguments)}")


def _report_command(arguments: argparse.Namespace) -> str:
    """The command that writes the page about what was trained, as this one evaluates it."""
    words = [PROGRAM, "report", "--run", arguments.out]
    for name, usual in _OF_REPORTS.items():
        if (given := getattr(arguments, name)) != usual:
            words += [f"--{name.replace('_', '-')}", str(given)]
    return shlex.join(words + ["--trust-remote-code"] * arguments.trust_remote_code)


def _train_and_evaluate(
    arguments: argparse.Namespace, resume: TrainingRun | None, saver: _RunSaver
) -> tuple[dict[str, Any], Study]:
    """Train, and evaluate unless ``--no-evaluate``.

    Args:
        arguments: Values of the flags.
        resume: The stopped run that goes on; None for a new one.
        saver: Saver of checkpoints and of the trained run.

    Returns:
        What ``summary.json`` will hold, and the study.
    """
    from actor_lens.experiments.study_plan import StudyPlan, run_study, train_chosen_layer

    # Layer 0 stands in until one is chosen, or taken from the run that goes on.
    layer = arguments.layer or 0
    plan = StudyPlan(
        settings=FinetuneConfig(layer=layer, seed=arguments.seed, **settings_of(arguments)),
        choose_layer=arguments.layer is None,
        by=arguments.by,
        search=_searches(arguments),
        per_label=arguments.per_label,
        variants=arguments.variants,
        new_tokens=arguments.new_tokens,
        judge=open_judge(arguments) if arguments.evaluate else None,
        anchors=load_anchors(arguments),
    )
    model, prompts, load_seconds = load_model_and_prompts(arguments, resume)
    if arguments.test_per_label is not None:
        parts = prompts.for_experiment(test_per_label=arguments.test_per_label, seed=arguments.seed)
        prompts = replace(prompts, prompts=tuple(prompt for part in parts for prompt in part))
    if arguments.evaluate:
        study = run_study(
            model,
            prompts,
            plan,
            resume=resume,
            on_trained=saver.save,
            on_checkpoint=saver.checkpoint,
        )
    else:
        study = train_chosen_layer(
            model, prompts, plan, resume=resume, on_checkpoint=saver.checkpoint
        )
        saver.save(study)
    record = {**study.summary(), "model_settings": model_settings(model)}
    record["seconds"] = {"load": load_seconds, **record["seconds"]}
    return record, study


def _searches(arguments: argparse.Namespace) -> bool:
    """Whether alpha and learning rate are to be found.

    Raises:
        UserError: If one of them was given as well.
    """
    if arguments.settings == "own":
        return False
    for name in ("alpha", "lr"):
        if getattr(arguments, name) != getattr(FinetuneConfig, name):
            raise UserError(f"--{name} and --settings auto were given, which finds it; give one")
    return True


def _open_resumed(arguments: argparse.Namespace) -> TrainingRun | None:
    """The run in ``--out`` that is to be continued; None without ``--resume``.

    Args:
        arguments: ``resume`` and ``out`` are read; ``overwrite`` is set where a run goes on.

    Raises:
        UserError: If ``--out`` is missing or holds no run.
    """
    if not arguments.resume:
        return None
    if arguments.out is None:
        raise UserError("--resume needs --out, the folder of the run to continue")
    arguments.overwrite = True
    return load_run(arguments.out)


@dataclass
class _RunSaver:
    """Saves a run as soon as it is trained, and says so when what follows is interrupted.

    Attributes:
        command_line: The command, from which the one that goes on is made.
        out: Folder of the run; None where nothing is saved.
        saved: Whether the trained run is in the folder.
    """

    command_line: str
    out: Path | None
    saved: bool = False

    def checkpoint(self, run: TrainingRun) -> None:
        """Save the run so far: after a crash ``--resume`` goes on from there.

        What an earlier run left in the folder goes: it does not belong to the new weights.
        """
        if self.out is not None:
            run.save(self.out)
            for name in _RESULTS:
                (self.out / name).unlink(missing_ok=True)

    def save(self, study: Study) -> None:
        """Save the run before anything that follows can fail or be interrupted.

        Raises:
            StoppedError: If its training was interrupted.
        """
        self.checkpoint(study.run)
        self.saved = self.out is not None
        if study.run.status == "stopped":
            raise StoppedError(self._how_to_continue(study.run))

    @contextmanager
    def saying_what_is_saved(self) -> Iterator[None]:
        """Turn Ctrl-C after training into an error that names the folder.

        Raises:
            StoppedError: If interrupted once the run is saved.
        """
        try:
            yield
        except KeyboardInterrupt:
            if not self.saved:
                raise
            raise StoppedError(
                f"interrupted; training was done and the run is saved in {self.out}"
            ) from None

    def _how_to_continue(self, run: TrainingRun) -> str:
        """What became of a stopped training, where it is, and the command that goes on."""
        reason, line = run.message.rstrip(".").lower(), self.command_line
        if self.out is None:
            return f"{reason}; nothing was saved, as there is no --out"
        place = f"{reason}; the run so far is in {self.out}"
        if run.resume_state is None:
            return f"{place} and cannot be continued; train it again"
        return f"{place}; continue with: {line if ' --resume' in line else f'{line} --resume'}"


# ---- report ----


def report(arguments: argparse.Namespace) -> None:
    """Write one HTML file about a run, into ``--out`` or beside the run.

    The model is loaded and asked again with the run applied, on the prompts that it was trained on.
    An old report beside the run is replaced; another folder must be empty or ``--overwrite`` given.

    Raises:
        UserError: If the run does not fit the model or the prompts, ``--utility`` holds no summary,
            or the page cannot be written.
    """
    run = load_run(arguments.run)
    from actor_lens.experiments.study_plan import StudyPlan, run_study
    from actor_lens.report.study_report import write_report

    utility = None if arguments.utility is None else _utility(arguments.utility)
    if arguments.out is None:
        arguments.out, arguments.overwrite = arguments.run, True
    out = prepare_out(arguments)
    assert out is not None
    target = out / "report.html"
    judge = open_judge(arguments)
    with open_progress(arguments):
        model, prompts, _ = load_model_and_prompts(arguments, run)
        new_tokens = arguments.new_tokens
        plan = StudyPlan(run.config, choose_layer=False, new_tokens=new_tokens, judge=judge)
        study = run_study(model, prompts, plan, run=run)
    write_report(study, target, command=arguments.command_line, utility=utility)
    if arguments.json:
        measured = utility.summary() if utility is not None else {}
        record = {**study.summary(), "model_settings": model_settings(model)}
        print_json({"report": str(target), **measured, **record})
    else:
        print(f"Report: {target}")


def _utility(folder: str) -> Utility:
    """What ``actor-lens utility`` wrote into a folder.

    Raises:
        UserError: If there is no summary, or it is one of another command.
    """
    from actor_lens.evaluation.utility import Utility

    record = read_summary(folder)
    if record is None:
        raise UserError(f"{folder}: holds no summary.json; give a folder that utility wrote")
    return Utility.from_record(record)
