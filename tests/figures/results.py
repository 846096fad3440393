"""Small results with known numbers: what a figure sees of a stage is only this."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pandas as pd

LABELS = ("harmful", "pseudo_harmful", "benign")
NASTY = (
    "<script>alert(1)</script> & <b>bold</b> <a href='https://x.y'>link</a>\n\n"
    'costs $5, not $6 %{y} "quoted" 🔥👩‍👩‍👧 كيف أقتل العملية\u202e ' + "x" * 10_000
)


@dataclass
class Framed:
    """Any result whose table does not depend on an argument."""

    table: pd.DataFrame

    def frame(self) -> pd.DataFrame:
        return self.table


@dataclass
class Projected:
    """Projections; keeps the origins it was asked for."""

    table: pd.DataFrame
    asked: list[str] = field(default_factory=list)

    def frame(self, origin: str = "zero") -> pd.DataFrame:
        self.asked.append(origin)
        return self.table


@dataclass
class Map:
    table: pd.DataFrame
    layer: int = 3
    method: str = "pca"
    axes: tuple[str, str] = ("PC 1 (40%)", "PC 2 (<9%)")

    def frame(self) -> pd.DataFrame:
        return self.table


@dataclass
class Scores:
    table: pd.DataFrame
    warnings: tuple[str, ...] = ()
    ties: tuple[int, ...] = (2, 3)

    def frame(self) -> pd.DataFrame:
        return self.table

    def best(self, by: str) -> SimpleNamespace:
        return SimpleNamespace(layer=3, by=by, ties=self.ties)


def subspace_table(pair: str = "harmful_vs_benign") -> pd.DataFrame:
    """Three directions, of which two add something."""
    areas = {
        "auroc": [0.8, 0.9, 0.9],
        "auroc_low": [0.7, 0.85, 0.85],
        "auroc_high": [0.9, 0.95, 0.95],
        "gain": [0.3, 0.1, 0.0],
        "random_low": [0.4, 0.78, 0.88],
        "random_high": [0.6, 0.82, 0.91],
    }
    numbers = {"layer": 2, "directions": [1, 2, 3], "adds": [True, True, False], "whole": 0.95}
    return pd.DataFrame({"pair": pair, **numbers, **areas})


@dataclass
class Preview:
    table: pd.DataFrame
    warnings: tuple[str, ...] = ()

    def frame(self) -> pd.DataFrame:
        return self.table


@dataclass
class Targets:
    table: pd.DataFrame
    means: Preview
    layer: int = 4

    def frame(self) -> pd.DataFrame:
        return self.table

    def preview(self) -> Preview:
        return self.means


@dataclass
class Run:
    table: pd.DataFrame
    layer: int = 4
    best_step: int | None = 20
    message: str = ""
    config: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(safety_floor=0.02))
    refused_before: dict[str, float] | None = None

    def frame(self) -> pd.DataFrame:
        return self.table


@dataclass
class Sweep:
    table: pd.DataFrame
    refused_before: dict[str, float] = field(default_factory=dict)
    best: SimpleNamespace | None = None

    def frame(self) -> pd.DataFrame:
        return self.table


@dataclass
class Evaluation:
    table: pd.DataFrame

    def rates(self) -> pd.DataFrame:
        return self.table


@dataclass
class Tokens:
    table: pd.DataFrame
    prompt: str = "How?"

    def frame(self) -> pd.DataFrame:
        return self.table


def token_table(
    n_layers: int = 4, texts: tuple[str, ...] = ("<s>", "How", " to", " kill")
) -> pd.DataFrame:
    rows = [
        {
            "layer": layer,
            "token_index": place,
            "token": text,
            "projection": 10.0 * layer + place,
            "relative": layer - place / 10,
        }
        for layer in range(n_layers)
        for place, text in enumerate(texts)
    ]
    return pd.DataFrame(rows)


def prompt_table(per_label: int, labels: tuple[str, ...] = LABELS) -> pd.DataFrame:
    n = per_label * len(labels)
    return pd.DataFrame(
        {
            "prompt_index": np.arange(n),
            "prompt": [f"How do I kill process {i}?" for i in range(n)],
            "label": np.repeat(labels, per_label),
            "split": "validation",
            "category": [None if i % 2 else "software" for i in range(n)],
        }
    )


def projections(
    per_label: int = 8, n_layers: int = 5, labels: tuple[str, ...] = LABELS, seed: int = 0
) -> Projected:
    rng = np.random.default_rng(seed)
    height = {"harmful": 3.0, "pseudo_harmful": 2.0, "benign": -1.0}
    table = pd.concat(
        [prompt_table(per_label, labels).assign(layer=layer) for layer in range(n_layers)],
        ignore_index=True,
    )
    table["projection"] = table["label"].map(height) * table["layer"] + rng.normal(size=len(table))
    return Projected(table)


def scores(n_layers: int = 5, *, causal: bool = True, warnings: tuple[str, ...] = ()) -> Scores:
    rows = []
    for layer in range(n_layers):
        for score in ("silhouette", "auroc", "gap", "probe"):
            for pair, share in (("harmful_vs_benign", 1.0), ("harmful_vs_pseudo_harmful", 0.5)):
                value = share * layer / 10
                rows.append((layer, score, pair, value, value - 0.05, value + 0.1, -0.02, 0.03))
        if causal:
            rows.append((layer, "causal", "all", 0.5, 0.4, 0.6, np.nan, np.nan))
    names = ["layer", "score", "pair", "value", "low", "high", "null_low", "null_high"]
    return Scores(pd.DataFrame(rows, columns=names), warnings)


def targets(per_label: int = 8, labels: tuple[str, ...] = LABELS, origin: float = -2.0) -> Targets:
    """Just-enough targets with the benign mean at -2; an origin above it moves benign up."""
    rng = np.random.default_rng(1)
    table = prompt_table(per_label, labels)
    height = {"harmful": 6.0, "pseudo_harmful": 3.0, "benign": -2.0}
    table["before"] = table["label"].map(height) + rng.normal(size=len(table))
    sign = np.where(table["label"] == "harmful", 1.0, -1.0)
    table["shift"] = sign * (table["before"] - origin)
    table["after"] = table["before"] + table["shift"]
    means = table.groupby("label", sort=False)[["before", "after"]].mean().reset_index()
    means = means.assign(origin=origin, harmful_mean=6.0, benign_mean=-2.0)
    means["toward"] = np.where(means["after"] > means["before"], "refusal", "compliance")
    wrong = (means["label"] != "harmful") & (means["toward"] == "refusal") & (origin > -1)
    warnings = ("benign prompts would move toward refusal",) if wrong.any() else ()
    return Targets(table, Preview(means.assign(wrong_way=wrong), warnings))


@dataclass
class Shifts:
    """Shifts that over-refused prompts need, as their table and what the summary says of them."""

    table: pd.DataFrame
    about: dict[str, object]

    def frame(self) -> pd.DataFrame:
        return self.table

    def summary(self) -> dict[str, object]:
        return self.about


def shifts(per_label: int = 8, missed: int = 2, *, line: bool = True) -> Shifts:
    """Needed shifts that rise from an origin at 1, for some of which nothing was enough."""
    table = prompt_table(per_label, ("pseudo_harmful", "benign"))
    table["projection"] = np.linspace(2, 9, len(table))
    table["gamma"] = (0.1 * (table["projection"] - 1)).round(1)
    table.loc[table.index[:missed], "gamma"] = np.nan
    table["line"] = 0.1 * (table["projection"] - 1) if line else np.nan
    known = {"value": 1.0, "low": 0.5, "high": 1.5, "n": len(table) - missed}
    nothing = {"value": None, "low": None, "high": None, "n": 0}
    about = {"layer": 4, "tried": [0.1, 0.5, 1.0], "benign_mean": -2.0, "harmful_mean": 10.0}
    about |= {"correlation": known if line else nothing, "origin": known if line else nothing}
    return Shifts(table, {**about, "alpha": 1.2 if line else None})


def training(n_steps: int = 30, check_every: int = 10) -> pd.DataFrame:
    steps = np.arange(1, n_steps + 1)
    rng = np.random.default_rng(2)
    table = pd.DataFrame({"step": steps, "epoch": 1, "loss": 1 / steps + 0.1 * rng.random(n_steps)})
    checked = steps % check_every == 0
    for label, start in zip(LABELS, (6.0, 3.0, -2.0), strict=True):
        table[f"loss_{label}"] = table["loss"] * 1.5
        table[f"projection_{label}"] = start / steps
        table[f"refused_{label}"] = np.where(checked, 0.5, np.nan)
    return table.assign(direction_cosine=1 - steps / 1000, seconds=steps * 0.1)


def sweep_table(n_layers: int = 5, alphas: tuple[float, ...] = (1.0,)) -> pd.DataFrame:
    cells = [(layer, alpha) for layer in range(n_layers) for alpha in alphas]
    table = pd.DataFrame(cells, columns=["layer", "alpha"]).assign(seed=0)
    for place, label in enumerate(LABELS):
        share = np.linspace(0.2, 0.8, len(cells)) / (place + 1)
        table[f"refused_{label}"] = share
        table[f"refused_{label}_low"] = share - 0.05
        table[f"refused_{label}_high"] = share + 0.1
    return table


@dataclass
class Ablations:
    table: pd.DataFrame
    transfer: pd.DataFrame

    def means(self) -> pd.DataFrame:
        return self.table

    def matrix(self) -> pd.DataFrame:
        return self.transfer


SCORES = ("compliance_rate", "safety_score", "tradeoff_score", "benign_refused")


def board(
    scores: dict[str, tuple[float, float]] | None = None, splits: tuple[str, ...] = ("test", "ood")
) -> Framed:
    """A leaderboard: compliance rate and safety score of each method."""
    scores = scores or {"actor": (0.9, 1.0), "default": (0.2, 1.0), "control-x": (0.2, 0.9)}
    rows = []
    for split in splits:
        for method, (answered, safe) in scores.items():
            values = (answered, safe, (answered + safe) / 2, 0.02)
            row = {"method": method, "split": split, "status": "completed", "seeds": 2}
            for name, value in zip(SCORES, values, strict=True):
                row |= {name: value, f"{name}_low": value - 0.05, f"{name}_high": value + 0.01}
                row[f"{name}_sd"] = 0.01
            costs = {"kl": 0.01, "trained_parameters": 1234, "fit_seconds": 1.5, "token_cost": 1.1}
            rows.append({**row, **costs, "fit_bytes": 2**21})
    return Framed(pd.DataFrame(rows))


def ablations() -> Ablations:
    """One series of numbers, one of names, and a matrix of two kinds by three."""
    rows = []
    for series, values in (("alpha", ("0.5", "1")), ("origin", ("zero", "benign mean"))):
        for split in ("test", "ood"):
            for value in values:
                row = {"factor": series, "series": series, "value": value}
                row |= {"number": float(value) if series == "alpha" else np.nan}
                row |= {"split": split, "seeds": 3}
                for name in (*SCORES, "moved"):
                    row |= {name: 0.5, f"{name}_min": 0.4, f"{name}_max": 0.7, f"{name}_sd": 0.1}
                rows.append(row)
    cells = [(one, other) for one in ("games", "garden") for other in ("games", "garden", "music")]
    matrix = pd.DataFrame(cells, columns=["trained_on", "tested_on"])
    matrix = matrix.assign(split="test", n=12, seeds=3, compliance_rate=np.linspace(0, 1, 6))
    return Ablations(pd.DataFrame(rows), matrix)


def evaluation(*refused: float, n: int = 200) -> Evaluation:
    rows = [
        {"label": label, "refused": share, "n": n, "low": share * 0.9, "high": share * 0.9 + 0.1}
        for label, share in zip(LABELS, refused, strict=False)
    ]
    return Evaluation(pd.DataFrame(rows))


@dataclass(frozen=True)
class Verdicts:
    table: pd.DataFrame

    def confusion(self) -> pd.DataFrame:
        return self.table


def verdict_table() -> pd.DataFrame:
    kinds = ("answered", "refused", "partly_refused", "unreadable")
    rows = [
        {
            "judge": "a",
            "other": "b",
            "verdict": one,
            "other_verdict": other,
            "n": 9 * (one == other),
        }
        for one in kinds
        for other in kinds
    ]
    return pd.DataFrame(rows)
