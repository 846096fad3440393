"""The command ``compare``: methods side by side, on the same prompts under the same judge.

Every method is fitted on the same training prompts, once with each seed where it has one, and asked
the same test prompts; prompts of the split ``ood`` are asked too. Tables on the screen give the
scores in percent and what fitting costs; sentences below them say which differences are more than
chance, after Holm's correction.

Files in ``--out``:
    outcomes.jsonl: Outcome of every finished fit; the same command goes on from there, with the
        same settings. ``--overwrite`` starts anew.
    leaderboard.csv, leaderboard-sets.csv: Scores of every method, and by set of prompts.
    pairs.csv: Paired tests of every method against the reference.
    published.csv: The paper's figures beside those measured.
    replies.csv: Every verdict; the text of a reply to a harmful prompt is left out.
    report.html: With ``--report``, figures and findings, offline.
    summary.json: The record that ``--json`` prints.

``--preset paper`` stands for the setting of the paper, ``paper-hidden-states`` for the same with
its layers counted as Hugging Face's hidden states are; ``--dry-run`` prints each setting with its
source and does nothing. Ctrl-C ends the work after the fits that are done: they are shown and
written, and the exit code is 130.

Examples:
    actor-lens compare --methods all --out board --report
    actor-lens compare --methods actor,sft-layer,lora --seeds 0,1,2 --out board
    actor-lens compare --preset paper --dry-run
    actor-lens compare --methods actor,lora --test-per-label 50 --out few
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from actor_lens.cli.arguments import NEW_TOKENS, PER_LABEL, add_command, add_common, add_flags
from actor_lens.cli.inputs import load_anchors, load_model_and_prompts, open_judge, open_progress
from actor_lens.cli.printing import (
    give_results,
    print_published,
    print_table,
    say,
    score_cells,
    score_heads,
)
from actor_lens.cli.values import names
from actor_lens.cli.writing import check_complete, prepare_to_go_on
from actor_lens.errors import UserError
from actor_lens.files.paths import user_path
from actor_lens.results import records
from actor_lens.text import NOT_MEASURED

if TYPE_CHECKING:
    from actor_lens.experiments.comparison.leaderboard import Leaderboard


def add_commands(commands: Any) -> None:
    """Register ``compare``."""
    text = "compare methods on the same prompts: scores, intervals, paired tests, costs"
    parser = add_command(commands, "compare", compare, text)
    add_common(parser)
    add_flags(parser, "--per-label", "--anchors")
    add = parser.add_argument
    add(
        "--methods",
        default="all",
        metavar="all|A,B,..",
        help="methods to compare; default: all, or those of the preset",
    )
    text = "each method with a seed is fitted once with each"
    add_flags(parser, "--seeds", default="0", help=text)
    add_flags(parser, "--test-per-label")
    add("--text", metavar="FILE", help="measure the change of perplexity on this text")
    add_flags(parser, "--judge", "--new-tokens")
    # Those of the preset, or the usual ones; None is "all" of --per-label.
    parser.set_defaults(judge=None, new_tokens=None, per_label=...)
    add("--report", action="store_true", help="write report.html too")
    add("--preset", metavar="paper|paper-hidden-states", help="the settings of the paper")
    add("--dry-run", action="store_true", help="with --preset: print the plan and do nothing")


def compare(arguments: argparse.Namespace) -> None:
    """Fit and try every method; a folder that holds a comparison is continued.

    Raises:
        UserError: If a method, preset or judge is not known, or ``--out`` holds another comparison.
        StoppedError: If Ctrl-C left methods untried.
    """
    if arguments.preset is not None:
        from actor_lens.cli.preset_plan import apply_preset

        if apply_preset(arguments):
            return
    elif arguments.dry_run:
        raise UserError("--dry-run prints the plan of a preset; add --preset paper")
    arguments.new_tokens = arguments.new_tokens or NEW_TOKENS
    if arguments.per_label is ...:
        arguments.per_label = PER_LABEL
    from actor_lens.experiments.comparison.compare import OUTCOMES_FILE
    from actor_lens.experiments.comparison.compare import compare as run_comparison
    from actor_lens.experiments.older_files import OUTCOMES_FOLDER
    from actor_lens.report.findings import findings

    judge = open_judge(arguments)
    if arguments.report and arguments.out is None:
        raise UserError("--report needs a folder; add --out DIR")
    out = prepare_to_go_on(arguments, OUTCOMES_FILE, OUTCOMES_FOLDER)
    methods: Any = arguments.methods
    if isinstance(methods, str) and methods != "all":
        methods = names(methods)
    anchors = load_anchors(arguments)
    with open_progress(arguments):
        model, prompts, _ = load_model_and_prompts(arguments)
        board = run_comparison(
            model,
            prompts,
            methods,
            seeds=arguments.seeds,
            judge=judge,
            per_label=arguments.per_label,
            test_per_label=arguments.test_per_label,
            new_tokens=arguments.new_tokens,
            text=arguments.text and user_path(arguments.text),
            anchors=anchors,
            out=out,
        )
    sentences = findings(board)
    record = {**board.summary(), "findings": list(sentences)}
    if out is not None and arguments.report:
        from actor_lens.report.comparison_report import write_comparison

        write_comparison(board, out / "report.html", command=arguments.command_line)
    tables = {
        "leaderboard.csv": board.frame,
        "leaderboard-sets.csv": board.by_set,
        "pairs.csv": board.pairs,
        "published.csv": board.published,
        "replies.csv": board.replies,
    }
    page = "report.html" if arguments.report else "leaderboard.csv"
    give_results(arguments, out, record, tables, lambda: _print(board, sentences), page)
    check_complete(board.complete, out)


def _print(board: Leaderboard, findings: Sequence[str]) -> None:
    """Print one table a split, the best trade-off score first, and the findings in words."""
    from actor_lens.report.findings import provenance

    frame = board.frame()
    for split, title in (("test", "Test prompts"), ("ood", "Out of distribution")):
        rows = frame[frame["split"] == split]
        if not rows.empty:
            ordered = rows.sort_values("tradeoff_score", ascending=False, kind="stable")
            twins = bool(rows["n_twins"].any())
            print_table(
                f"{title}: %, T.S. with its 95 % interval",
                (
                    *("method", *score_heads(board.safety_means), "benign"),
                    *(["twins"] if twins else ["MiB"]),  # both do not fit into 80 columns
                    "fit s",
                ),
                (_cells(row, twins=twins) for row in records(ordered)),
            )
            if not twins:
                say("Among these prompts are no twins (pairs of a safe and an unsafe prompt).")
    print_published(board.published(), ("method",), board.safety_means)
    for sentence in findings:
        say(sentence)
    say(provenance(board), "dim")


def _cells(row: dict[str, Any], *, twins: bool) -> list[str]:
    """A row of the leaderboard: the scores, pairs of twins or else MiB, the seconds of the fit."""
    if row["status"] == "failed":
        return [row["method"], "failed", *[""] * 5]
    scores = score_cells(row, "_low", "_high", with_bounds=("tradeoff_score",))
    if not twins:
        scores.append(f"{row['fit_bytes'] / 2**20:.0f}")
    else:
        scores.append(NOT_MEASURED if row["twins"] is None else f"{100 * row['twins']:.1f}")
    return [row["method"], *scores, f"{row['fit_seconds']:.1f}"]
