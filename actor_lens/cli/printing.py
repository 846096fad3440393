"""What commands print: tables, rates and JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from actor_lens.cli.writing import as_json

if TYPE_CHECKING:
    from rich.table import Table

    from actor_lens.directions.layer_scores import LayerChoice, LayerScores


def print_json(record: dict[str, Any]) -> None:
    """The record that ``summary.json`` holds."""
    print(as_json(record))


def print_study(record: dict[str, Any]) -> None:
    """The layer, the training and, where it was evaluated, the rates."""
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
    print_rates(record)


def print_rates(record: dict[str, Any]) -> None:
    """Refusal rates before and after, the scores, and the variants beside them."""
    from rich.console import Console

    console = Console(highlight=False, emoji=False)
    console.print(_rates_table(record))
    if record["after"]:
        scores = {"C.R.": "compliance_rate", "S.S.": "safety_score", "T.S.": "tradeoff_score"}
        console.print(
            "   ".join(
                f"{short} {percent(record[name]['before'])} -> {percent(record[name]['after'])}"
                for short, name in scores.items()
            )
        )
    if record.get("variants"):
        console.print(_variants_table(record))
    judged = f"Judge {record['judge']}, greedy replies of {record['new_tokens']} tokens."
    console.print(judged, markup=False)


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

    from actor_lens.prompts.rows import LABELS

    table = Table(title="Beside it: refused on test", title_justify="left")
    table.add_column("variant")
    for column in (*(label.replace("_", "-") for label in LABELS), "T.S."):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("warned before")
    main = {"test": record["after"], **{"tradeoff_score": record["tradeoff_score"]["after"]}}
    rows = {"this fine-tune": {**main, "warnings": record["warnings"]}, **record["variants"]}
    for name, row in rows.items():
        rates = (percent(row["test"][label]["refused"]) for label in LABELS)
        warned = "yes" if row["warnings"] else "no"
        table.add_row(name, *rates, percent(row["tradeoff_score"]), warned)
    return table


def print_layers(scores: LayerScores, choice: LayerChoice) -> None:
    """One row a layer, the chosen one marked, and why it was chosen."""
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


def print_written(out: Path | None, name: str) -> None:
    """Where the results are; nothing without an output folder."""
    if out is not None:
        print(f"Written to {out}: look at {out / name}")


def _rate(rate: dict[str, Any]) -> str:
    text = f"{percent(rate['refused'])} ({100 * rate['low']:.0f}-{100 * rate['high']:.0f})"
    unreadable = rate.get("n_unreadable", 0)
    return f"{text}, {unreadable} unreadable" if unreadable else text


def percent(share: float | None) -> str:
    """A share as "12.3 %"; "-" where there is none."""
    return "-" if share is None else f"{100 * share:.1f} %"
