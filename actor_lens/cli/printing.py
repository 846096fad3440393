"""What commands print: tables, rates, sentences and JSON, each in one way.

Results go to the standard output, what is said about the work to the error stream. Text from
outside is printed as it is: nothing in it is taken for markup or for a picture. A share is written
in percent with its 95 % interval; what was not measured is a dash.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actor_lens.cli.writing import as_json, write_results
from actor_lens.results import rate_text
from actor_lens.text import NOT_MEASURED, percent

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from actor_lens.directions.layer_scores import LayerChoice
    from actor_lens.experiments.look import Look


def console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """The terminal; numbers in sentences are not coloured, and no name becomes a picture."""
    from rich.console import Console

    return Console(stderr=stderr, quiet=quiet, highlight=False, emoji=False)


def say(text: str, style: str | None = None) -> None:
    """Print a sentence as it is, in a style of rich such as ``"dim"``."""
    console().print(text, style=style, markup=False)


def warn(warning: str) -> None:
    """Print a warning so that it is seen."""
    say(f"Warning: {warning}.", "bold yellow")


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    texts: int = 1,
) -> None:
    """Print a table.

    Args:
        title: Above the table.
        columns: Titles of the columns.
        rows: Cells in the order of the columns; each is printed as it is.
        texts: Number of leading columns that hold text and may go on in the next line. The others
            hold numbers and stand to the right.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left")
    for place, column in enumerate(columns):
        if place < texts:
            # A name that is cut off says nothing: in a narrow terminal it goes on below.
            table.add_column(Text(column), overflow="fold", min_width=None if place else 12)
        else:
            table.add_column(Text(column), justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    console().print(table)


def print_json(record: dict[str, Any]) -> None:
    """Print the record that ``summary.json`` holds."""
    print(as_json(record, sys.stdout.encoding or "utf-8"))


def give_results(
    arguments: argparse.Namespace,
    out: Path | None,
    record: dict[str, Any],
    tables: Mapping[str, Callable[[], pd.DataFrame]],
    show: Callable[[], None],
    page: str,
) -> None:
    """Write what a command has found, then print it: the record, or tables and where files are.

    Args:
        arguments: ``json`` is read.
        out: Folder to write to; None for none.
        record: What ``summary.json`` holds, printed with ``--json`` and then alone.
        tables: Names of CSV files, each with the function that makes its table.
        show: Function that prints the tables.
        page: File in the folder that is worth a look.

    Raises:
        UserError: If a file cannot be written; what was there survives.
    """
    write_results(out, record, tables)
    if arguments.json:
        print_json(record)
        return
    show()
    print_written(out, page)


def print_study(record: dict[str, Any]) -> None:
    """Print the layer, the training and, where it was evaluated, the rates.

    Args:
        record: Summary of a study, or of a fine-tune without an evaluation.
    """
    say(f"\nLayer {record['layer']}: {record['layer_reason']}.")
    if record["message"]:
        say(record["message"], "bold yellow")
    share = f" of {record['model_parameters']:,}" if "model_parameters" in record else ""
    say(
        f"Trained {record['trained_parameters']:,}{share} parameters in "
        f"{record['seconds']['train']:.1f} s, checks on the validation prompts included."
    )
    if "before" in record:
        say(f"Parameters changed outside it: {record['parameters_changed_outside_layer']}.")
        print_rates(record)


def print_rates(record: dict[str, Any]) -> None:
    """Print refusal rates before and after, the scores, and the variants beside them.

    C.R. is the share of pseudo-harmful prompts that are answered, S.S. that of harmful prompts that
    are refused, or of replies to them that are not harmful, as it says; T.S. their mean.

    Args:
        record: Summary of an evaluation; ``after`` is empty where no run was applied.
    """
    columns = ["prompts", "n", "before", *(["after"] if record["after"] else [])]
    means = record["safety_means"]
    other = "" if means == "refused" else f"; of harmful prompts {means}"
    print_table(f"Refused{other} (95 % interval)", columns, _rate_rows(record))
    if record["after"]:
        scores = dict(zip(score_names(means), SCORES, strict=False))
        moves = (
            f"{short} {percent(record[name]['before'])} -> {percent(record[name]['after'])}"
            for short, name in scores.items()
        )
        say("   ".join(moves))
    say(_twins(record["twins"]))
    say(_faults(record["faults"]))
    if record.get("variants"):
        _print_variants(record)
    say(f"Judge {record['judge']}, greedy replies of {record['new_tokens']} tokens.")


def _rate_rows(record: dict[str, Any]) -> Iterable[list[str]]:
    """One row a label: the number of prompts, then the rate before and after."""
    for split, before, after in (
        ("", record["before"], record["after"]),
        (", out of distribution", record["ood"]["before"], record["ood"]["after"]),
    ):
        for label, rate in before.items():
            rates = [rate, after[label]] if after else [rate]
            yield [label_text(label) + split, str(rate["n"]), *map(_rate, rates)]


def _twins(twins: dict[str, dict[str, Any] | None]) -> str:
    """Pairs of twins dealt with as wanted, before and after, or that there are none."""
    pairs = [one for one in (twins["before"], twins["after"]) if one is not None]
    if not pairs:
        return "Among the test prompts are no twins (pairs of a safe and an unsafe prompt)."
    shares = " -> ".join(rate_text(one["value"], one["low"], one["high"]) for one in pairs)
    return f"Twins, the safe one answered and the unsafe one refused: {shares} of {pairs[0]['n']}"


def _faults(faults: dict[str, dict[str, Any] | None]) -> str:
    """Faults of replies to harmless prompts that occur, each before and after."""
    times = [one for one in (faults["before"], faults["after"]) if one is not None]
    names = dict.fromkeys(name for one in times for name in one)
    shares = []
    for name in names:
        values = (percent(one[name]["value"] if name in one else 0.0) for one in times)
        shares.append(f"{name} {' -> '.join(values)}")
    return f"Replies to harmless prompts: {', '.join(shares)}"


def _print_variants(record: dict[str, Any]) -> None:
    """One row a variant: what it does to each label, and whether the preview had warned."""
    labels = list(record["after"])
    own = {
        "test": record["after"],
        "tradeoff_score": record["tradeoff_score"]["after"],
        "warnings": record["warnings"],
    }
    rows = (
        [
            name,
            *(percent(variant["test"][label]["refused"]) for label in labels),
            percent(variant["tradeoff_score"]),
            "yes" if variant["warnings"] else "no",
        ]
        for name, variant in {"this fine-tune": own, **record["variants"]}.items()
    )
    columns = ["variant", *map(label_text, labels), "T.S.", "warned before"]
    print_table("Beside it: refused on test", columns, rows)


def print_layers(look: Look, choice: LayerChoice) -> None:
    """Print one row a layer, the chosen one marked, why it was chosen, and the warnings."""
    short = {"silhouette": "silh.", "harmful_vs_benign": "\nh/b", "all": "\n"}
    short["harmful_vs_pseudo_harmful"] = "\nh/p"
    frame = look.scores.frame()
    frame["column"] = frame["score"].replace(short) + frame["pair"].map(short)
    wide = frame.pivot_table(index="layer", columns="column", values="value", sort=False)
    print_table(
        f"Layer scores at {look.directions.position} (h harmful, b benign, p pseudo-harmful)",
        ["layer", *wide.columns],
        (
            [f"{layer} *" if layer == choice.layer else layer, *(f"{value:.2f}" for value in row)]
            for layer, row in wide.iterrows()
        ),
        texts=0,
    )
    say(f"Layer {choice.layer}: {choice.reason}.")
    for warning in look.scores.warnings:
        warn(warning)


def print_written(out: Path | None, name: str) -> None:
    """Print where the results are, and which of them to look at; nothing without a folder."""
    if out is not None:
        print(f"Written to {out}: look at {out / name}")


def label_text(label: str) -> str:
    """A label as it is read: ``pseudo-harmful``."""
    return label.replace("_", "-")


def number_text(value: float, form: str) -> str:
    """A number in a format such as ``".2f"``, or a dash where nothing was measured."""
    return NOT_MEASURED if value != value else f"{value:{form}}"


def _rate(rate: dict[str, Any]) -> str:
    """A rate with its interval, and the number of verdicts that could not be read, if any."""
    share = float("nan") if rate["refused"] is None else rate["refused"]
    unreadable = rate.get("n_unreadable", 0)
    text = rate_text(share, rate["low"], rate["high"])
    return f"{text}, {unreadable} unreadable" if unreadable else text


SCORES = ("compliance_rate", "safety_score", "tradeoff_score", "benign_refused")
"""Columns of scores, as the tables of methods and ablations show them: C.R., S.S., T.S., benign."""


def score_names(safety_means: str) -> tuple[str, str, str]:
    """Short names of the first three of ``SCORES``; S.S. with what it counts."""
    return "C.R.", f"S.S. ({safety_means})", "T.S."


def score_heads(safety_means: str) -> list[str]:
    """The same as heads of columns, which are narrow."""
    return [name.replace(" ", "\n") for name in score_names(safety_means)]


def print_published(table: pd.DataFrame, keys: Sequence[str], safety_means: str) -> None:
    """Print the paper's figures beside those measured, each under the name of its model.

    Args:
        table: From ``published`` of a leaderboard or of ablations; an empty one prints nothing.
        keys: Columns that name a row.
        safety_means: What S.S. counts in those measured.
    """
    from actor_lens.results import records

    rows = records(table)
    if not rows:
        return
    here, there = rows[0]["model"], rows[0]["published_model"]
    columns = [f"{whose}{score}" for whose in ("", "published_") for score in SCORES[:3]]
    shares = [[row[name] for name in columns] for row in rows]
    shown = [
        [
            *(row[key] for key in keys),
            *(NOT_MEASURED if one is None else f"{100 * one:.1f}" for one in values),
        ]
        for row, values in zip(rows, shares, strict=True)
    ]
    theirs = (f"{name}\npaper" for name in score_heads("not harmful"))
    print_table(
        f"Measured on {here}, and beside it the paper on {there}: %",
        [*keys, *score_heads(safety_means), *theirs],
        shown,
        texts=len(keys),
    )


def score_cells(
    row: dict[str, Any], low: str, high: str, with_bounds: Sequence[str] = SCORES
) -> list[str]:
    """The scores of a row in percent, with their bounds where they have any.

    Args:
        row: A row of a leaderboard or of means over seeds, as a plain record.
        low: Ending of the columns that hold lower bounds, such as ``"_low"``.
        high: Ending of the columns that hold upper bounds.
        with_bounds: The scores whose bounds are shown.

    Returns:
        One cell a score, in the order of ``SCORES``.
    """
    cells = []
    for name in SCORES:
        bounds = [row.get(name + end) if name in with_bounds else None for end in (low, high)]
        share = row[name]
        cell = NOT_MEASURED if share is None else f"{100 * share:.1f}"
        if share is not None and None not in bounds and bounds[0] != bounds[1]:
            cell += " ({:.0f}-{:.0f})".format(*(100 * float(bound or 0) for bound in bounds))
        cells.append(cell)
    return cells
