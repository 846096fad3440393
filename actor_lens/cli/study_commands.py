"""The commands about one fine-tuned layer: ``demo``, ``train`` and ``report``.

``train`` collects residuals, chooses a layer unless ``--layer`` names one, trains it, and asks the
test prompts before and after. ``demo`` does the same on the bundled model and adds three variants
of the method and a report. ``report`` writes the HTML page about a run that was trained before.

Files that ``train`` and ``demo`` write into ``--out``:
    block.safetensors, run.json, history.csv: The run, for ``evaluate``, ``utility``, ``export`` and
        ``report``; and resume.safetensors while its training can be continued.
    layers.csv: Scores of every layer, unless ``--no-evaluate``.
    evaluation.csv: One row a prompt with its verdicts before and after, unless ``--no-evaluate``.
    report.html: With ``--report`` and from ``demo``, one page that works offline.
    summary.json: What ``--json`` prints; written last, so that where it is, all else is.

The run is saved at the end of an epoch now and then, and before anything is evaluated. Ctrl-C while
training ends after the step with exit code 130 and prints the command that goes on (``--resume``);
the weights at the end are then those of an uninterrupted training, bit for bit. Ctrl-C later leaves
the finished run.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actor_lens.cli.arguments import (
    add_command,
    add_common,
    add_replies,
    add_run,
    add_training,
    settings_of,
)
from actor_lens.cli.inputs import (
    load_model_and_prompts,
    load_run,
    model_settings,
    open_judge,
    open_progress,
    read_summary,
)
from actor_lens.cli.printing import print_json, print_results, print_study
from actor_lens.cli.writing import StoppedError, prepare_out, write_results
from actor_lens.errors import UserError
from actor_lens.training.config import FinetuneConfig

if TYPE_CHECKING:
    from actor_lens.evaluation.utility import Utility
    from actor_lens.experiments.study import Study
    from actor_lens.experiments.study_plan import StudyPlan
    from actor_lens.training.run import TrainingRun

# Shown beside the fine-tune in the demo: what the choices of the method are worth.
DEMO_VARIANTS: dict[str, dict[str, Any]] = {
    "raw formula": {"origin": "zero"},
    "uniform shift": {"shift": "uniform"},
    "25 pseudo-harmful prompts": {"per_label": {"harmful": 60, "benign": 60, "pseudo_harmful": 25}},
}


def add_commands(commands: Any) -> None:
    """Register ``demo``, ``train`` and ``report``."""
    _add_demo(commands)
    _add_train(commands)
    _add_report(commands)


def _add_demo(commands: Any) -> None:
    text = "the whole job on the bundled model, with a report"
    parser = add_command(commands, "demo", demo, text)
    add_common(parser, out="demo")
    add_training(parser, new_tokens=48)  # the bundled model's replies are shorter
    parser.set_defaults(evaluate=True)


def _add_train(commands: Any) -> None:
    parser = add_command(commands, "train", train, "fine-tune one layer; rates before and after")
    add_common(parser)
    add_training(parser)
    parser.add_argument(
        "--no-evaluate", dest="evaluate", action="store_false", help="train and save only"
    )
    parser.add_argument("--report", action="store_true", help="write report.html too")


def _add_report(commands: Any) -> None:
    text = "one HTML file about a run, works offline"
    parser = add_command(commands, "report", report, text)
    add_common(parser, seed=None)
    add_run(parser)
    parser.add_argument("--utility", metavar="DIR", help="a folder that utility wrote, for a table")
    add_replies(parser)


# ---- demo and train ----


def demo(arguments: argparse.Namespace) -> None:
    """The whole job on the bundled model; errors as of ``train``."""
    _study_command(arguments, variants=DEMO_VARIANTS, report=True)


def train(arguments: argparse.Namespace) -> None:
    """Fine-tune one layer and show what changed.

    Raises:
        UserError: If flags contradict each other, a setting is not allowed, the prompts lack a
            label or a split, the run in ``--out`` cannot be continued, or ``--out`` cannot be used.
        StoppedError: If Ctrl-C came once there was something to keep.
    """
    _study_command(arguments, variants={}, report=arguments.report)


def _study_command(
    arguments: argparse.Namespace, variants: dict[str, dict[str, Any]], *, report: bool
) -> None:
    """Train, evaluate, write and print.

    Args:
        arguments: Values of the flags of ``add_training``.
        variants: Settings that are trained beside the fine-tune, by name.
        report: Whether to write report.html.
    """
    if report and not arguments.evaluate:
        raise UserError("--report needs the evaluation; leave out --no-evaluate")
    resume = _resumed(arguments)
    out = prepare_out(arguments)
    saver = _RunSaver(arguments, out)
    with saver.saying_what_is_saved():
        with open_progress(arguments):
            record, study = _train_and_evaluate(arguments, variants, resume, saver)
        command = arguments.command_line if report else None
        _write_results(out, record, study, command)
    page = "report.html" if report and study else "summary.json"
    print_results(arguments, record, lambda: print_study(record), out, page)


def _train_and_evaluate(
    arguments: argparse.Namespace,
    variants: dict[str, dict[str, Any]],
    resume: TrainingRun | None,
    saver: _RunSaver,
) -> tuple[dict[str, Any], Study | None]:
    """Train, and evaluate unless ``--no-evaluate``.

    Args:
        arguments: Values of the flags.
        variants: Settings of the variants, by name.
        resume: The stopped run that goes on; None for a new one.
        saver: Hears of checkpoints and of the trained run.

    Returns:
        What ``summary.json`` will hold, and the study if it was evaluated.
    """
    from actor_lens.experiments.study_plan import run_study, train_chosen_layer

    plan = _plan(arguments, variants, resume)
    model, prompts, load_seconds = load_model_and_prompts(arguments, resume)
    study = None
    if arguments.evaluate:
        study = run_study(
            model,
            prompts,
            plan,
            resume=resume,
            on_trained=saver.save,
            on_checkpoint=saver.checkpoint,
        )
        record = study.summary()
    else:
        trained = train_chosen_layer(
            model, prompts, plan, resume=resume, on_checkpoint=saver.checkpoint
        )
        saver.save(trained)
        record = trained.summary()
    record["model_settings"] = model_settings(model)
    record["seconds"] = {"load": round(load_seconds, 3), **record["seconds"]}
    return record, study


def _plan(
    arguments: argparse.Namespace,
    variants: dict[str, dict[str, Any]],
    resume: TrainingRun | None,
) -> StudyPlan:
    """The plan of the study: the layer is chosen where neither a flag nor a run names it."""
    from actor_lens.experiments.study_plan import StudyPlan

    return StudyPlan(
        settings=_settings(arguments, resume),
        choose_layer=arguments.layer is None and resume is None,
        by=arguments.by,
        per_label=arguments.per_label,
        variants=variants,
        new_tokens=arguments.new_tokens,
        judge=open_judge(arguments) if arguments.evaluate else None,
    )


def _settings(arguments: argparse.Namespace, resume: TrainingRun | None) -> FinetuneConfig:
    """Settings of the fine-tune; layer 0 stands in until one is chosen."""
    layer = arguments.layer
    if layer is None:
        layer = resume.layer if resume is not None else 0
    return FinetuneConfig(layer=layer, seed=arguments.seed, **settings_of(arguments))


def _resumed(arguments: argparse.Namespace) -> TrainingRun | None:
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
        arguments: ``command_line`` is read, for the command that goes on.
        out: Folder of the run; None where nothing is saved.
        saved: Whether the trained run is in the folder.
    """

    arguments: argparse.Namespace
    out: Path | None
    saved: bool = False

    def save(self, study: Study) -> None:
        """Save the run before anything that follows can fail or be interrupted.

        Args:
            study: The study so far, with a fine-tune that was completed or stopped.

        Raises:
            StoppedError: If its training was interrupted.
        """
        if self.out is not None:
            study.run.save(self.out)
            _remove_older_results(self.out)
            self.saved = True
        if study.run.status == "stopped":
            raise StoppedError(_how_to_continue(self.arguments, study.run, self.out))

    def checkpoint(self, run: TrainingRun) -> None:
        """Save the run so far: after a crash ``--resume`` goes on from there."""
        if self.out is not None:
            run.save(self.out)
            _remove_older_results(self.out)

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


def _how_to_continue(arguments: argparse.Namespace, run: TrainingRun, out: Path | None) -> str:
    """What became of a stopped training, where it is, and the command that goes on.

    Args:
        arguments: ``command_line`` is read.
        run: The stopped run; its message says why.
        out: Folder that it is in; None where it is lost.
    """
    reason = run.message.rstrip(".").lower()
    if out is not None and run.resume_state is None:
        return f"{reason}; the run so far is in {out} and cannot be continued; train it again"
    if out is None:
        return f"{reason}; nothing was saved, as there is no --out"
    line = arguments.command_line
    again = line if " --resume" in line else f"{line} --resume"
    return f"{reason}; the run so far is in {out}; continue with: {again}"


def _remove_older_results(out: Path) -> None:
    """Remove what an earlier run left there, as it does not belong to the new weights."""
    for name in ("summary.json", "evaluation.csv", "layers.csv", "report.html"):
        (out / name).unlink(missing_ok=True)


def _write_results(
    out: Path | None, record: dict[str, Any], study: Study | None, command: str | None
) -> None:
    """Write the results of a study, or the summary alone where nothing was evaluated.

    Args:
        out: Folder of the run; None where nothing is written.
        record: What ``summary.json`` holds.
        study: The study; None without an evaluation.
        command: The command line, to stand in a report; None for no report.
    """
    if study is None:
        write_results(out, record, {})
    elif out is not None:
        if command is not None:
            from actor_lens.report.study_report import write_report

            write_report(study, out / "report.html", command=command)
        tables = {"layers.csv": study.look.scores.frame, "evaluation.csv": study.frame}
        write_results(out, record, tables)


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

    utility = _utility(arguments.utility)
    target = _report_path(arguments)
    judge = open_judge(arguments)
    with open_progress(arguments):
        model, prompts, _ = load_model_and_prompts(arguments, run)
        study = run_study(
            model,
            prompts,
            StudyPlan(
                settings=run.config,
                choose_layer=False,
                new_tokens=arguments.new_tokens,
                judge=judge,
            ),
            run=run,
        )
    write_report(study, target, command=arguments.command_line, utility=utility)
    if arguments.json:
        measured = utility.summary() if utility is not None else {}
        record = {**study.summary(), "model_settings": model_settings(model)}
        print_json({"report": str(target), **measured, **record})
    else:
        print(f"Report: {target}")


def _utility(folder: str | None) -> Utility | None:
    """What ``actor-lens utility`` wrote into a folder; None for None.

    Raises:
        UserError: If there is no summary, or it is one of another command.
    """
    if folder is None:
        return None
    from actor_lens.evaluation.utility import Utility

    record = read_summary(folder)
    if record is None:
        raise UserError(f"{folder}: holds no summary.json; give a folder that utility wrote")
    return Utility.from_record(record)


def _report_path(arguments: argparse.Namespace) -> Path:
    """Where the report goes: ``--out``, else beside the run.

    Args:
        arguments: ``out``, ``overwrite`` and ``run`` are read; the first two are set where the
            report goes beside the run.
    """
    if arguments.out is None:
        arguments.out, arguments.overwrite = arguments.run, True
    out = prepare_out(arguments)
    assert out is not None
    return out / "report.html"
