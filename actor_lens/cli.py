"""The ``actor-lens`` command. It calls what the notebooks call.

Nothing heavy is imported before a command runs, so that ``--help`` and wrong arguments answer at
once. Results go to the standard output, progress and errors to the error stream.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from actor_lens.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from actor_lens.layer_choice import LayerChoice, LayerScores
    from actor_lens.models import ChatModel
    from actor_lens.prompts import PromptSet
    from actor_lens.stage_progress import StageProgress
    from actor_lens.study import Study, Trained
    from actor_lens.training_run import FinetuneConfig, TrainingRun

PROGRAM = "actor-lens"
EXIT_USER_ERROR, EXIT_INTERRUPTED = 2, 130

# Shown beside the fine-tune in the demo: what the choices of the method are worth.
DEMO_VARIANTS: dict[str, dict[str, Any]] = {
    "raw formula": {"origin": "zero"},
    "uniform shift": {"shift": "uniform"},
    "25 pseudo-harmful prompts": {"per_label": {"harmful": 60, "benign": 60, "pseudo_harmful": 25}},
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; its exit code is 0, 2 for what the user can mend, 130 after Ctrl-C."""
    parser = _parser()
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = parser.parse_args(words)
    arguments.command_line = shlex.join([PROGRAM, *words])
    try:
        arguments.run_command(arguments)
    except UserError as error:
        _say_error(str(error))
        return EXIT_USER_ERROR
    except _StoppedError as stopped:
        print(f"{PROGRAM}: {stopped}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output, for instance head, has gone
        sys.stderr.close()
        return 0
    return 0


class _StoppedError(Exception):
    """Training was interrupted and the run so far is saved."""


class _Parser(argparse.ArgumentParser):
    """Argument errors in one line, as all other errors."""

    def error(self, message: str) -> NoReturn:
        _say_error(f"{message}; see {self.prog} --help")
        sys.exit(EXIT_USER_ERROR)


def _say_error(message: str) -> None:
    print(f"{PROGRAM}: error: {' '.join(message.split())}", file=sys.stderr)


# ---- Commands ----


def demo(arguments: argparse.Namespace) -> None:
    """The whole job on the bundled model."""
    _study_command(arguments, variants=DEMO_VARIANTS, report=True)


def train(arguments: argparse.Namespace) -> None:
    """Fine-tune one layer and show what changed."""
    _study_command(arguments, variants={}, report=arguments.report)


def layers(arguments: argparse.Namespace) -> None:
    """Score every layer."""
    out = _prepare_out(arguments)
    with _progress(arguments) as progress:
        from actor_lens.directions import check_origin
        from actor_lens.layer_choice import check_score
        from actor_lens.study import look_at_layers
        from actor_lens.targets import check_positive

        # Looking takes long: first what would fail after it.
        check_score(arguments.by)
        check_origin(arguments.origin)
        check_positive("alpha", arguments.alpha)

        model, prompts, load_seconds = _load(arguments)
        train_prompts = prompts.where(split="train")
        if arguments.per_label is not None:
            train_prompts = train_prompts.sample(arguments.per_label, seed=arguments.seed)
        look = look_at_layers(
            model,
            prompts,
            train=train_prompts,
            alpha=arguments.alpha,
            origin=arguments.origin,
            seed=arguments.seed,
            batch_size=arguments.batch_size,
            on_progress=progress.stage,
        )
    from actor_lens.report import write_look
    from actor_lens.summary import versions

    choice = look.scores.best(arguments.by)
    record = {
        "model": model.name,
        "prompts": prompts.name,
        "layer": choice.layer,
        "layer_by": choice.by,
        "layer_reason": choice.reason,
        "layer_ties": list(choice.ties),
        "warnings": list(look.scores.warnings),
        "scores": json.loads(look.scores.frame().to_json(orient="records")),
        "train_prompts": train_prompts.counts(),
        "seconds": {"load": load_seconds, **look.seconds},
        "seed": arguments.seed,
        "versions": versions(),
    }
    if out is not None:
        _write_json(out / "summary.json", record)
        _write_csv(out / "layers.csv", look.scores.frame())
        write_look(look, choice, out / "layers.html")
    if arguments.json:
        _print_json(record)
        return
    _print_layers(look.scores, choice)
    _print_written(out, "layers.html")


def evaluate(arguments: argparse.Namespace) -> None:
    """Replies, judged, before and with a run applied."""
    run = _load_run(arguments.run)
    out = _prepare_out(arguments)
    with _progress(arguments) as progress:
        model, prompts, load_seconds = _load(arguments, run)
        from actor_lens.study import evaluate_run

        evaluated = evaluate_run(
            model,
            prompts,
            run,
            new_tokens=arguments.new_tokens,
            batch_size=arguments.batch_size,
            on_progress=progress.stage,
        )
    record = evaluated.summary()
    record["seconds"] = {"load": load_seconds, **record["seconds"]}
    if out is not None:
        _write_json(out / "summary.json", record)
        _write_csv(out / "evaluation.csv", evaluated.frame())
    if arguments.json:
        _print_json(record)
        return
    _print_rates(record)
    _print_written(out, "evaluation.csv")


def report(arguments: argparse.Namespace) -> None:
    """One HTML file about a run."""
    run = _load_run(arguments.run)
    assert run is not None
    from actor_lens.report import write_report
    from actor_lens.study import StudyPlan, run_study

    target = _report_path(arguments)
    with _progress(arguments) as progress:
        model, prompts, _ = _load(arguments, run)
        study = run_study(
            model,
            prompts,
            StudyPlan(
                settings=run.config,
                choose_layer=False,
                new_tokens=arguments.new_tokens,
            ),
            run=run,
            batch_size=arguments.batch_size,
            on_progress=progress.stage,
        )
    write_report(study, target, command=arguments.command_line)
    if arguments.json:
        _print_json({"report": str(target), **study.summary()})
    else:
        print(f"Report: {target}")


def toy_train(arguments: argparse.Namespace) -> None:
    """Build the bundled model anew."""
    out = _prepare_out(arguments)
    assert out is not None
    with _progress(arguments) as progress:
        from actor_lens.toy.building import train_toy

        result = train_toy(
            out,
            seed=arguments.seed,
            on_progress=lambda step: progress.stage(step.stage, step.step, step.steps),
        )
    record = result.summary()
    _write_json(out / "summary.json", record)
    if arguments.json:
        _print_json(record)
        return
    for rate in result.rates:
        print(f"{rate.label}, {rate.split}: {_percent(rate.refused)} of {rate.n} refused")
    print(f"{result.parameters:,} parameters in {result.seconds:.0f} s")
    _print_written(out, "summary.json")


# ---- What the commands share ----


def _study_command(
    arguments: argparse.Namespace, variants: dict[str, dict[str, Any]], *, report: bool
) -> None:
    if report and not arguments.evaluate:
        raise UserError("--report needs the evaluation; leave out --no-evaluate")
    resume = _resumed(arguments)
    out = _prepare_out(arguments)
    with _progress(arguments) as progress:
        from actor_lens.study import StudyPlan, run_study, train_chosen_layer

        model, prompts, load_seconds = _load(arguments)
        plan = StudyPlan(
            settings=_settings(arguments, resume),
            choose_layer=arguments.layer is None and resume is None,
            by=arguments.by,
            per_label=arguments.per_label,
            variants=variants,
            new_tokens=arguments.new_tokens,
        )

        def keep(trained: Trained) -> None:
            """Save the run before anything that follows can fail or be interrupted."""
            if out is not None:
                trained.run.save(out)
                _remove_older_results(out)
            if trained.run.status == "stopped":
                raise _StoppedError(_how_to_continue(arguments, trained.run, out))

        shared: dict[str, Any] = {
            "resume": resume,
            "batch_size": arguments.batch_size,
            "on_progress": progress.stage,
            "on_step": progress.step,
            "on_warning": progress.warn,
        }
        study = None
        if arguments.evaluate:
            study = run_study(model, prompts, plan, on_trained=keep, **shared)
            record = study.summary()
        else:
            trained = train_chosen_layer(model, prompts, plan, **shared)
            keep(trained)
            record = trained.summary()
    record["seconds"] = {"load": round(load_seconds, 3), **record["seconds"]}
    command = arguments.command_line if report else None
    _write_results(out, record, study, command)
    if arguments.json:
        _print_json(record)
        return
    _print_study(record)
    _print_written(out, "report.html" if report and study else "summary.json")


def _load(
    arguments: argparse.Namespace, run: TrainingRun | None = None
) -> tuple[ChatModel, PromptSet, float]:
    """Model and prompts, prompts first: a broken file shows before the model is read."""
    import time

    from actor_lens.prompts import load_prompts

    started = time.perf_counter()
    name = arguments.model or (run.model_name if run is not None else "toy")
    if arguments.seed is None:  # the seed that drew the splits which the run was trained on
        arguments.seed = run.config.seed if run is not None else 0
    prompts = load_prompts(arguments.prompts or _default_prompts(name, run), seed=arguments.seed)
    from actor_lens.models import load_model

    model = load_model(
        name,
        device=arguments.device,
        dtype=arguments.dtype,
        chat_template=arguments.chat_template,
        trust_remote_code=arguments.trust_remote_code,
    )
    return model, prompts, time.perf_counter() - started


def _default_prompts(model: str, run: TrainingRun | None) -> str:
    from actor_lens.prompts import BUNDLED

    if run is None:
        return "toy" if model == "toy" else "starter"
    if run.prompts_name in BUNDLED:
        return run.prompts_name
    raise UserError(
        f"the run was trained on the prompts '{run.prompts_name}'; give that file with --prompts"
    )


def _settings(arguments: argparse.Namespace, resume: TrainingRun | None) -> FinetuneConfig:
    from actor_lens.training_run import FinetuneConfig

    layer = arguments.layer
    if layer is None:
        layer = resume.layer if resume is not None else 0  # 0 stands in until one is chosen
    return FinetuneConfig(
        layer=layer,
        alpha=arguments.alpha,
        origin=arguments.origin,
        anchor=arguments.anchor,
        shift=arguments.shift,
        refresh=arguments.refresh,
        epochs=arguments.epochs,
        lr=arguments.lr,
        batch_size=arguments.train_batch_size,
        safety_floor=arguments.safety_floor,
        seed=arguments.seed,
    )


def _load_run(folder: str | None) -> TrainingRun | None:
    if folder is None:
        return None
    from actor_lens.training_run import TrainingRun

    return TrainingRun.load(folder)


def _resumed(arguments: argparse.Namespace) -> TrainingRun | None:
    if not getattr(arguments, "resume", False):
        return None
    if arguments.out is None:
        raise UserError("--resume needs --out, the folder of the run to continue")
    arguments.overwrite = True
    return _load_run(arguments.out)


def _how_to_continue(arguments: argparse.Namespace, run: TrainingRun, out: Path | None) -> str:
    said = run.message.rstrip(".").lower()
    if out is not None and run.resume_state is None:
        return f"{said}; the run so far is in {out} and cannot be continued; train it again"
    if out is None:
        return f"{said}; nothing was saved, as there is no --out"
    line = arguments.command_line
    again = line if " --resume" in line else f"{line} --resume"
    return f"{said}; the run so far is in {out}; continue with: {again}"


def _prepare_out(arguments: argparse.Namespace) -> Path | None:
    """Make the output folder and try it, before any work is done.

    Raises:
        UserError: If it is a file, holds files and ``--overwrite`` was not given, or cannot be
            written.
    """
    if arguments.out is None:
        return None
    out = Path(arguments.out).expanduser()
    try:
        if out.is_dir() and any(out.iterdir()) and not arguments.overwrite:
            raise UserError(f"--out {out} is not empty; give another folder or add --overwrite")
        if out.exists() and not out.is_dir():
            raise UserError(f"--out {out} is a file; give a folder")
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise UserError(
            f"--out {out} cannot be written ({error.strerror or error}); give another folder"
        ) from error
    return out


def _report_path(arguments: argparse.Namespace) -> Path:
    """Where the report goes: ``--out``, else beside the run; an old report is replaced."""
    if arguments.out is None:
        arguments.out, arguments.overwrite = arguments.run, True
    out = _prepare_out(arguments)
    assert out is not None
    return out / "report.html"


def _progress(arguments: argparse.Namespace) -> StageProgress:
    from actor_lens.stage_progress import StageProgress

    return StageProgress(quiet=arguments.quiet)


def _write_results(
    out: Path | None, record: dict[str, Any], study: Study | None, command: str | None
) -> None:
    """``summary.json`` last: where it is, all else is."""
    if out is None:
        return
    if study is not None:
        from actor_lens.evaluation import compare_evaluations

        _write_csv(out / "layers.csv", study.look.scores.frame())
        change = compare_evaluations(study.before, study.outcome.evaluation)
        _write_csv(out / "evaluation.csv", change.examples())
        if command is not None:
            from actor_lens.report import write_report

            write_report(study, out / "report.html", command=command)
    _write_json(out / "summary.json", record)


def _remove_older_results(out: Path) -> None:
    """What an earlier run left there does not belong to the new weights."""
    for name in ("summary.json", "evaluation.csv", "layers.csv", "report.html"):
        (out / name).unlink(missing_ok=True)


def _write_json(path: Path, record: dict[str, Any]) -> None:
    from actor_lens.saving import replacing

    with replacing(path) as temporary:
        temporary.write_text(_json(record) + "\n", encoding="utf-8")


def _write_csv(path: Path, frame: pd.DataFrame) -> None:
    from actor_lens.saving import replacing

    with replacing(path) as temporary:
        frame.to_csv(temporary, index=False)


def _json(record: dict[str, Any]) -> str:
    return json.dumps(record, indent=2, allow_nan=False, ensure_ascii=False)


# ---- What is printed ----


def _print_json(record: dict[str, Any]) -> None:
    print(_json(record))


def _print_study(record: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.print(f"\nLayer {record['layer']}: {record['layer_reason']}.", markup=False)
    if record["message"]:
        console.print(record["message"], style="bold yellow", markup=False)
    share = ""
    if "model_parameters" in record:
        share = f" of {record['model_parameters']:,}"
    console.print(
        f"Trained {record['trained_parameters']:,}{share} parameters in "
        f"{record['seconds']['train']:.1f} s, checks on the validation prompts included."
    )
    if "before" not in record:
        return
    console.print(f"Parameters changed outside it: {record['parameters_changed_outside_layer']}.")
    _print_rates(record)


def _print_rates(record: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.print(_rates_table(record))
    if record["after"]:
        scores = {"C.R.": "compliance_rate", "S.S.": "safety_score", "T.S.": "tradeoff_score"}
        console.print(
            "   ".join(
                f"{short} {_percent(record[name]['before'])} -> {_percent(record[name]['after'])}"
                for short, name in scores.items()
            )
        )
    if record.get("variants"):
        console.print(_variants_table(record))
    console.print(f"Judge {record['judge']}, greedy replies of {record['new_tokens']} tokens.")


def _rates_table(record: dict[str, Any]) -> Table:
    """Before and after, one row a label, with intervals."""
    from rich.table import Table

    table = Table(title="Refused (95 % interval)", title_justify="left")
    table.add_column("prompts")
    for column in ("n", "before", *(["after"] if record["after"] else [])):
        table.add_column(column, justify="right", no_wrap=True)
    for split, before, after in (
        ("", record["before"], record["after"]),
        (", out of distribution", record["ood"]["before"], record["ood"]["after"]),
    ):
        for label, rate in before.items():
            cells = [_rate(rate)] + ([_rate(after[label])] if after else [])
            table.add_row(label.replace("_", "-") + split, str(rate["n"]), *cells)
    return table


def _variants_table(record: dict[str, Any]) -> Table:
    """One row a variant: what it does to each label, and whether the preview had warned."""
    from rich.table import Table

    from actor_lens.prompts import LABELS

    table = Table(title="Beside it: refused on test", title_justify="left")
    table.add_column("variant")
    for column in (*(label.replace("_", "-") for label in LABELS), "T.S."):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("warned before")
    main = {"test": record["after"], **{"tradeoff_score": record["tradeoff_score"]["after"]}}
    rows = {"this fine-tune": {**main, "warnings": record["warnings"]}, **record["variants"]}
    for name, row in rows.items():
        rates = (_percent(row["test"][label]["refused"]) for label in LABELS)
        warned = "yes" if row["warnings"] else "no"
        table.add_row(name, *rates, _percent(row["tradeoff_score"]), warned)
    return table


def _print_layers(scores: LayerScores, choice: LayerChoice) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    short = {"silhouette": "silh.", "harmful_vs_benign": "\nh/b", "all": "\n"}
    short["harmful_vs_pseudo_harmful"] = "\nh/p"
    frame = scores.frame()
    frame["column"] = frame["score"].replace(short) + frame["pair"].map(short)
    wide = frame.pivot_table(index="layer", columns="column", values="value", sort=False)
    table = Table(title="Layer scores (h harmful, b benign, p pseudo-harmful)")
    for column in ("layer", *wide.columns):
        table.add_column(column)
    for layer, row in wide.iterrows():
        mark = " *" if layer == choice.layer else ""
        table.add_row(f"{layer}{mark}", *(f"{value:.2f}" for value in row))
    console.print(table)
    console.print(f"Layer {choice.layer}: {choice.reason}.", markup=False)
    for warning in scores.warnings:
        console.print(f"Warning: {warning}.", style="bold yellow", markup=False)


def _print_written(out: Path | None, name: str) -> None:
    if out is not None:
        print(f"Written to {out}: look at {out / name}")


def _rate(rate: dict[str, float]) -> str:
    return f"{_percent(rate['refused'])} ({100 * rate['low']:.0f}-{100 * rate['high']:.0f})"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


# ---- Arguments ----


def _parser() -> _Parser:
    parser = _Parser(
        prog=PROGRAM,
        description="See why a chat model refuses harmless prompts, choose the one layer to "
        "train, and repair it.",
        epilog="Each command has its own --help.",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {_version()}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_demo(commands)
    _add_layers(commands)
    _add_train(commands)
    _add_evaluate(commands)
    _add_report(commands)
    _add_toy(commands)
    return parser


def _version() -> str:
    from actor_lens import __version__

    return __version__


def _add_demo(commands: Any) -> None:
    parser = _command(commands, "demo", demo, "the whole job on the bundled model, with a report")
    _add_common(parser, out="demo")
    _add_training(parser, new_tokens=48)  # the bundled model's replies are shorter
    parser.set_defaults(evaluate=True)


def _add_layers(commands: Any) -> None:
    parser = _command(commands, "layers", layers, "score every layer and say which to train")
    _add_common(parser)
    _add_choice(parser)
    _add_target(parser)


def _add_train(commands: Any) -> None:
    parser = _command(commands, "train", train, "fine-tune one layer; rates before and after")
    _add_common(parser)
    _add_training(parser)
    parser.add_argument(
        "--no-evaluate", dest="evaluate", action="store_false", help="train and save only"
    )
    parser.add_argument("--report", action="store_true", help="write report.html too")


def _add_evaluate(commands: Any) -> None:
    parser = _command(
        commands, "evaluate", evaluate, "refusal rates of a model, and with a run applied"
    )
    _add_common(parser, seed=None)
    parser.add_argument("--run", metavar="DIR", help="a folder that train wrote")
    _add_replies(parser)


def _add_report(commands: Any) -> None:
    parser = _command(commands, "report", report, "one HTML file about a run, works offline")
    _add_common(parser, seed=None)
    parser.add_argument("--run", metavar="DIR", required=True, help="a folder that train wrote")
    _add_replies(parser)


def _add_toy(commands: Any) -> None:
    parser = commands.add_parser(
        "toy", help="rebuild the bundled model", description="Rebuild the bundled model."
    )
    inner = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    toy = _command(inner, "train", toy_train, "train the bundled model from scratch on a CPU")
    toy.add_argument("--out", metavar="DIR", required=True, help="folder for model and prompts")
    toy.add_argument("--overwrite", action="store_true", help="write into a folder with files")
    toy.add_argument("--seed", type=_seed, default=0, metavar="N", help="default: 0")
    _add_output(toy)


def _command(commands: Any, name: str, function: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}."
    )
    parser.set_defaults(run_command=function)
    return parser


def _add_common(
    parser: argparse.ArgumentParser, out: str | None = None, seed: int | None = 0
) -> None:
    add = parser.add_argument
    add("--model", metavar="NAME|DIR", help="hub name or folder; default: the bundled 'toy'")
    add("--prompts", metavar="NAME|FILE", help="toy, starter, or a .jsonl or .csv file")
    add(
        "--out",
        metavar="DIR",
        default=out,
        help=f"folder for the results; default: {out or 'none'}",
    )
    add("--overwrite", action="store_true", help="write into a folder that holds files")
    add("--seed", type=_seed, default=seed, metavar="N", help="default: 0, or that of the run")
    add("--device", default="auto", metavar="auto|cpu|cuda", help="default: auto")
    add("--dtype", default="auto", metavar="auto|float32|bfloat16", help="default: auto")
    add("--batch-size", type=_batch_size, default=64, metavar="N|auto", help="default: 64")
    add("--chat-template", metavar="FILE", help="Jinja template for a tokenizer without one")
    add("--trust-remote-code", action="store_true", help="run code from the model's folder")
    _add_output(parser)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress on the error stream")


def _add_training(parser: argparse.ArgumentParser, new_tokens: int = 64) -> None:
    add = parser.add_argument
    add("--layer", type=_layer, metavar="N|auto", help="default: auto, by the validation prompts")
    _add_choice(parser)
    _add_target(parser)
    add("--anchor", default="initial", metavar="initial|current", help="default: initial")
    add("--shift", default="projected", metavar="projected|uniform", help="default: projected")
    add("--refresh", default="epoch", metavar="epoch|step|never", help="default: epoch")
    add("--epochs", type=_integer, default=8, metavar="N", help="default: 8")
    add("--lr", type=_number, default=1e-3, metavar="X", help="learning rate; default: 0.001")
    add("--train-batch-size", type=_integer, default=16, metavar="N", help="default: 16")
    add(
        "--safety-floor",
        type=_number,
        metavar="X",
        help="keep the best weights at which refusals of harmful validation prompts fell by at "
        "most this share; default: none",
    )
    add(
        "--resume",
        action="store_true",
        help="continue the stopped run in --out, with the same settings (--epochs may differ)",
    )
    _add_replies(parser, new_tokens)


def _add_choice(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--by", metavar="SCORE", help="score that chooses the layer; default: causal"
    )
    _add_per_label(parser)


def _add_per_label(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--per-label",
        type=_per_label,
        default=60,
        metavar="N|all|L=N,..",
        help="most training prompts of each label, for instance 60 or "
        "harmful=60,benign=60,pseudo_harmful=25; default: 60",
    )


def _add_target(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--alpha", type=_number, default=1.0, metavar="X", help="default: 1")
    add(
        "--origin",
        default="benign_mean",
        metavar="benign_mean|midpoint|zero",
        help="where a projection counts as none; zero is the paper's formula; default: benign_mean",
    )


def _add_replies(parser: argparse.ArgumentParser, new_tokens: int = 64) -> None:
    parser.add_argument(
        "--new-tokens",
        type=_integer,
        default=new_tokens,
        metavar="N",
        help=f"longest reply; default: {new_tokens}",
    )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number") from None


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number") from None


def _seed(text: str) -> int:
    if _integer(text) < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative; give a number from 0")
    return int(text)


def _layer(text: str) -> int | None:
    return None if text == "auto" else _integer(text)


def _batch_size(text: str) -> int:
    size = 64 if text == "auto" else _integer(text)
    if size < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1, or auto")
    return size


def _per_label(text: str) -> int | dict[str, int] | None:
    if text == "all":
        return None
    if "=" not in text:
        return _integer(text)
    pairs = (part.partition("=") for part in text.split(","))
    return {label.strip().replace("-", "_"): _integer(number) for label, _, number in pairs}
