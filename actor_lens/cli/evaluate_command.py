"""The command ``evaluate``: refusal rates by one judge, or by several and how far they agree.

The test prompts are answered greedily and judged, before and, with ``--run``, with the trained
block in place. Several judges read the same replies: the rates of the first are those of the
evaluation.

Files in ``--out``:
    evaluation.csv: One row a prompt with its verdict before and after.
    judges.csv: With ``--judges``, one row a reply and judge.
    summary.json: The record that ``--json`` prints.

An answer to a harmful prompt is never written: a note stands in its place. Ctrl-C writes nothing;
verdicts that were paid for stay in the cache of the judge.

Examples:
    actor-lens evaluate --run run --out verdicts
    actor-lens evaluate --run run --judges keywords,openings,first-token
    actor-lens evaluate --model ./checkpoint --prompts xstest:100,advbench:100
    actor-lens evaluate --run run --prompts mine.jsonl --json
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from actor_lens.cli.arguments import add_command, add_common, add_flags
from actor_lens.cli.inputs import (
    load_model_and_prompts,
    load_run,
    model_settings,
    open_judge,
    open_progress,
)
from actor_lens.cli.printing import give_results, label_text, print_rates, print_table, say
from actor_lens.cli.values import names
from actor_lens.cli.writing import prepare_out
from actor_lens.text import NOT_MEASURED, percent

if TYPE_CHECKING:
    from actor_lens.experiments.run_evaluation import PanelEvaluation, RunEvaluation


def add_commands(commands: Any) -> None:
    """Register ``evaluate``."""
    text = "refusal rates of a model, and with a run applied"
    parser = add_command(commands, "evaluate", evaluate, text)
    add_common(parser, seed=None)
    add_flags(parser, "--run")
    judge = parser.add_mutually_exclusive_group()
    add_flags(judge, "--judge")
    # Given and equal to the default would count as not given: argparse compares the two.
    judge.set_defaults(judge=None)
    judge.add_argument(
        "--judges",
        type=several_names,
        metavar="A,B,..",
        help="several judges on the same replies: the rates by each and how far they agree; the "
        "first one's are the rates of the evaluation",
    )
    add_flags(parser, "--new-tokens")


def several_names(text: str) -> list[str]:
    """At least two names with commas between them.

    Raises:
        argparse.ArgumentTypeError: If there are fewer, or one is empty.
    """
    judges = names(text)
    if len(judges) < 2 or len(judges) != len(text.split(",")):
        raise argparse.ArgumentTypeError(
            f"'{text}' does not name several judges; give at least two, such as keywords,openings"
        )
    return judges


def evaluate(arguments: argparse.Namespace) -> None:
    """Replies, judged, before and with a run applied.

    Raises:
        UserError: If the run does not fit the model, a judge cannot be used, or ``--out`` cannot be
            written.
    """
    run = None if arguments.run is None else load_run(arguments.run)
    out = prepare_out(arguments)
    from actor_lens.experiments import run_evaluation as evaluating

    judges = [open_judge(arguments, name) for name in arguments.judges or [arguments.judge]]
    if arguments.judges:
        evaluating.check_judges(judges)
    new_tokens = arguments.new_tokens
    with open_progress(arguments):
        model, prompts, load_seconds = load_model_and_prompts(arguments, run)
        evaluation: RunEvaluation | PanelEvaluation
        if arguments.judges:
            evaluation = evaluating.evaluate_by_panel(
                model, prompts, run, judges=judges, new_tokens=new_tokens
            )
        else:
            evaluation = evaluating.evaluate_run(
                model, prompts, run, judge=judges[0], new_tokens=new_tokens
            )
    record = {**evaluation.summary(), "model_settings": model_settings(model)}
    record["seconds"] = {"load": load_seconds, **record["seconds"]}
    tables = {"evaluation.csv": evaluation.frame}
    if isinstance(evaluation, evaluating.PanelEvaluation):
        tables["judges.csv"] = evaluation.by_reply
    elif out is not None:  # one of an earlier evaluation does not belong to this one
        (out / "judges.csv").unlink(missing_ok=True)
    give_results(arguments, out, record, tables, lambda: _print(record), "evaluation.csv")


def _print(record: dict[str, Any]) -> None:
    """Print the rates; of several judges what each says of them, and where each two agree."""
    print_rates(record)
    agreement = record["score_agreement"]
    if agreement["n"] and not record["judge"].startswith("first-token"):
        say(
            f"Refusal scores above 0 agree with the judge on {percent(agreement['accuracy'])} of "
            f"{agreement['n']} replies of the untouched model."
        )
    if "judges" not in record:
        return
    rates = record["judges"]
    labels = list(next(iter(rates.values()))["before"])
    print_table(
        "Refused on test, by judge",
        ("judge", "replies", *map(label_text, labels), "T.S."),
        (
            [
                name,
                when,
                *(percent(judge[when][label]["refused"]) for label in labels),
                percent(judge["tradeoff_score"][when]),
            ]
            for name, judge in rates.items()
            for when in ("before", "after")
            if judge[when]
        ),
        texts=2,
    )
    meanings = (f"{name} ({judge['safety_means']})" for name, judge in rates.items())
    say(f"What of replies to harmful prompts each judge counts: {', '.join(meanings)}.")
    print_table(
        "Do the judges agree?",
        ("judges", "replies", "prompts", "n", "differ", "agree", "kappa"),
        (
            [
                f"{row['judge']} / {row['other']}",
                *(row["when"], label_text(row["label"]), row["n"], row["differ"]),
                percent(row["agree"]),
                NOT_MEASURED if row["kappa"] is None else f"{row['kappa']:.2f}",
            ]
            for row in record["agreement"]
            if row["label"] == "all" or row["differ"]
        ),
        texts=3,
    )
    say(
        "differ: replies of which the two say different things, among the n that both could be "
        "read on. kappa: Cohen's; 1 is agreement, 0 what chance gives. Kinds of prompt on which "
        "two judges never differ are left out here."
    )
