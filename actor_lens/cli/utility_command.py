"""The command ``utility``: what a run costs where it should change nothing.

The divergence of the next-token distributions on benign test prompts always, the perplexity of a
text with ``--text``, MT-Bench with ``--mt-bench`` (two turns, rated from 1 to 10 by a language
model), and benchmarks of the lm-eval harness with ``--tasks``; each before and after, MT-Bench and
MMLU beside what the paper says of them.

Files in ``--out``, which ``report --utility`` reads:
    utility.csv: One row a measure.
    summary.json: The record that ``--json`` prints.

Ctrl-C writes nothing: measures are not kept one by one. Ratings that were paid for stay in the
cache of the judge.

Examples:
    actor-lens utility --run run
    actor-lens utility --run run --prompts mine.jsonl --json
    actor-lens utility --run run --text wikitext.txt --window 512 --stride 256
    actor-lens utility --run run --mt-bench question.jsonl --judge llm:gpt-4o
    actor-lens utility --run run --tasks arc_easy,hellaswag --out measured
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actor_lens.cli.arguments import add_command, add_common, add_flags
from actor_lens.cli.inputs import load_model_and_prompts, load_run, open_judge, open_progress
from actor_lens.cli.printing import give_results, number_text, print_table, say
from actor_lens.cli.values import integer, positive
from actor_lens.cli.writing import prepare_out
from actor_lens.errors import UserError
from actor_lens.files.paths import user_path
from actor_lens.results import records, versions
from actor_lens.text import NOT_MEASURED

if TYPE_CHECKING:
    from actor_lens.evaluation.utility import Measure, Utility


def add_commands(commands: Any) -> None:
    """Register ``utility``."""
    text = "what a run costs: divergence on benign prompts, perplexity, benchmarks"
    parser = add_command(commands, "utility", utility, text)
    add_common(parser, seed=None)
    add_flags(parser, "--new-tokens", default=32)
    add = parser.add_argument
    add_flags(parser, "--run", required=True)
    add("--text", metavar="FILE", help="a UTF-8 text for the perplexity, such as WikiText-2")
    add(
        "--window",
        type=integer,
        metavar="N",
        help="tokens of a pass over the text; default: 1024, or what the model takes",
    )
    add("--stride", type=integer, metavar="N", help="tokens between windows; default: half of one")
    add(
        "--mt-bench",
        metavar="FILE|hub",
        help="questions of MT-Bench: question.jsonl, its folder with reference_answer, or hub",
    )
    add(
        "--judge",
        metavar="llm:MODEL",
        help="language model that rates MT-Bench (at $OPENAI_BASE_URL, key in $OPENAI_API_KEY)",
    )
    add(
        "--mt-bench-tokens",
        type=positive,
        metavar="N",
        help="longest reply to MT-Bench; default: 1024",
    )
    add(
        "--tasks",
        nargs="+",
        default=[],
        metavar="NAME",
        help="tasks of the lm-eval harness: mmlu, ...",
    )
    add("--include-path", metavar="DIR", help="a folder of task files of your own")
    add("--limit", type=positive, metavar="N", help="most questions of each task; default: all")
    add(
        "--num-fewshot",
        type=integer,
        metavar="N",
        help="worked examples before each question; default: what the task says",
    )
    add("--chat", action="store_true", help="put questions into the model's chat template")


def utility(arguments: argparse.Namespace) -> None:
    """Measure, write and print what a run costs.

    Raises:
        UserError: If a flag has nothing to act on, the run does not fit the model, the text or
            MT-Bench cannot be read, the judge gives no ratings, a task is not known or lm-eval is
            not installed.
    """
    from actor_lens.evaluation import mt_bench
    from actor_lens.evaluation.utility import measure_utility
    from actor_lens.experiments.published import published_utility

    run = load_run(arguments.run)
    # A path: a file that is not there must not pass for a text.
    text = None if arguments.text is None else user_path(arguments.text)
    _check(arguments, text)
    questions = None
    if arguments.mt_bench is not None:
        questions = mt_bench.read_mt_bench(
            arguments.mt_bench
        )  # a missing file before a missing key
    judge = None if arguments.judge is None else open_judge(arguments)
    if arguments.mt_bench is not None:
        mt_bench.check_rater(judge)
    out = prepare_out(arguments)
    with open_progress(arguments):
        model, prompts, load_seconds = load_model_and_prompts(arguments, run)
        benign = prompts.where(split="test", label="benign")
        result = measure_utility(
            model,
            run,
            prompts=benign if len(benign) else None,
            text=text,
            tasks=arguments.tasks,
            include_path=arguments.include_path,
            window=arguments.window,
            stride=arguments.stride,
            limit=arguments.limit,
            num_fewshot=arguments.num_fewshot,
            chat=arguments.chat,
            new_tokens=arguments.new_tokens,
            mt_bench=questions,
            judge=judge,
            mt_bench_tokens=arguments.mt_bench_tokens or mt_bench.NEW_TOKENS,
        )
    published = records(published_utility())
    record = {
        **result.summary(),
        "prompts": prompts.name,
        "judge": None if judge is None else judge.identity,
        "limit": arguments.limit,
        "published": published,
        "seconds": {"load": load_seconds},
        "versions": versions(),
    }
    tables = {"utility.csv": result.frame}
    give_results(arguments, out, record, tables, lambda: _print(result, published), "utility.csv")


def _check(arguments: argparse.Namespace, text: Path | None) -> None:
    """Find what would be passed over, or could not be read, before a model is loaded.

    Raises:
        UserError: If the text cannot be read, or a flag that was given (0 is given too) is about a
            measure that is not taken.
    """
    from actor_lens.evaluation.perplexity import read_text

    idle: dict[str, str] = {}
    if text is not None:
        read_text(text)
    else:
        about = "the perplexity of a text; add --text FILE"
        idle |= dict.fromkeys(("window", "stride"), about)
    if not arguments.tasks:
        names = ("include_path", "limit", "num_fewshot", "chat")
        idle |= dict.fromkeys(names, "benchmarks; add --tasks NAME")
    if arguments.mt_bench is None:
        idle |= dict.fromkeys(("judge", "mt_bench_tokens"), "MT-Bench; add --mt-bench FILE")
    for name, about in idle.items():
        value = getattr(arguments, name)
        if value is not None and value is not False:
            raise UserError(f"--{name.replace('_', '-')} is about {about}")


def _change_text(measure: Measure) -> str:
    """Points of shares, else percent; nothing for a divergence, which has no before."""
    if math.isnan(measure.change):
        return NOT_MEASURED
    return f"{measure.change:+.2f} {'points' if measure.is_share else '%'}"


def _print(result: Utility, published: list[dict[str, Any]]) -> None:
    """Print one row a measure, the paper's figures, and what became of the paper's claims.

    Changes of shares are in percentage points, those of perplexity in percent.
    """
    print_table(
        "Utility before and after",
        ("measure", "n", "before", "after", "change"),
        (
            [
                f"{each.measure}, {each.unit}",
                f"{each.n:,}",
                number_text(each.before, ".4g"),
                f"{each.after:.4g}",
                _change_text(each),
            ]
            for each in result.measures
        ),
    )
    theirs = {row["benchmark"]: row for row in published}
    known = [theirs[each.benchmark] for each in result.measures if each.benchmark in theirs]
    if known:
        print_table(
            f"The paper on {known[0]['model']}",
            ("benchmark", "before", "after", "said to change by at most"),
            (
                [
                    row["benchmark"],
                    f"{row['before']:.4g}",
                    f"{row['after']:.4g}",
                    NOT_MEASURED if row["claim"] is None else f"{row['claim']:g} %",
                ]
                for row in known
            ),
        )
    say(result.claim)
