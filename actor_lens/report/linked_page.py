"""One HTML page that stays linked without Python: a layer is chosen, and every panel follows.

A gallery (``actor_lens.report.gallery``) is the same page with several runs on it. The figures are
those of ``actor_lens.figures``, drawn once; what changes with the layer is stored beside them, and
``templates/linked.js`` moves it. The page's policy names the two scripts that may run by their
hashes: nothing that a prompt could bring in does, and nothing is asked of a network.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup

from actor_lens import figures
from actor_lens.directions.layer_scores import LayerChoice
from actor_lens.directions.options import Origin, fixed_origin
from actor_lens.directions.projections import Projections, TokenProjections, token_projections
from actor_lens.evaluation.changes import EvaluationChange
from actor_lens.experiments.look import Look
from actor_lens.experiments.sweep.layer_sweep import LayerOutcomes
from actor_lens.figures.frames import prompt_hovers
from actor_lens.figures.prompts import box_heights
from actor_lens.figures.theme import LABEL_STYLES, ORIGIN_NAMES
from actor_lens.models.chat_model import ChatModel
from actor_lens.report.pages import PROMPT_LENGTH, number, render_page, reply_rows
from actor_lens.statistics.intervals import Estimate
from actor_lens.statistics.rates import tradeoff_estimate
from actor_lens.text import clean, clip, one_line, percent
from actor_lens.training.run import TrainingRun

# Prompts token by token, and rows of replies.
SHOWN, ROWS = 6, 200
# Of long prompts the page keeps the beginning: so much of each, and in all about so much.
_LONGEST, _LEAST, _ALL_TEXTS = 2_000, 160, 250_000
_SCRIPT = Path(__file__).parent / "templates" / "linked.js"
_PAIRS = {
    "harmful_vs_benign": ", harmful against benign",
    "harmful_vs_pseudo_harmful": ", harmful against pseudo-harmful",
    "all": "",
}


@dataclass(frozen=True, eq=False, kw_only=True)
class GalleryRow:
    """A row of a gallery's table, of which an evaluation has no more.

    Attributes:
        name: What the row is called; None for what stands alone.
        model: Name that the model was loaded by.
        run: ``layer`` of the fine-tune, its ``alpha`` and ``steps`` where they are known; None for
            none.
        rates: Of the evaluations ``before`` and ``after`` that there are, what ``shares_of`` gives.
    """

    name: str | None = None
    model: str
    run: dict[str, Any] | None
    rates: dict[str, dict[str, Estimate]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Lens(GalleryRow):
    """What a linked page holds, as JSON can; ``linked.js`` reads it by these names.

    It holds harmful prompts, but no answer to any. Arrays are packed as plotly packs them.

    Attributes:
        layer: Layer to begin with.
        about: What was looked at, in a sentence or two.
        warnings: What should stop a user before training.
        notes: What is to be said of single layers, by their number.
        words: Of each layer the rows of its table of numbers, a name and a text.
        values: Projections on R from 0, ``[layer prompt]``.
        origins: Where projections are counted from, ``[layer]``.
        after: ``values`` with the run applied; None where they were not taken.
        prompts: Text, label and category of each prompt.
        hovers: What is said of each prompt under the pointer.
        tokens: Prompts token by token: ``prompt`` and ``figure``.
        boxes: Of each layer the heights of each label's box; empty where none are drawn.
        figures: Panels by name; those without numbers are left out.
        replies: Test prompts with their replies before and after, as they are shown.
    """

    layer: int
    about: str
    warnings: list[str]
    notes: dict[str, str]
    words: list[list[Sequence[str]]]
    values: dict[str, Any]
    origins: dict[str, Any]
    after: dict[str, Any] | None
    prompts: list[list[str]]
    hovers: list[str]
    tokens: list[dict[str, Any]]
    boxes: list[list[list[float]]]
    figures: dict[str, Any]
    replies: list[dict[str, str]]


def lens_of(
    look: Look,
    *,
    choice: LayerChoice,
    layer: int | None = None,
    origin: Origin = "benign_mean",
    outcomes: LayerOutcomes | None = None,
    run: TrainingRun | None = None,
    after: Projections | None = None,
    change: EvaluationChange | None = None,
    tokens: Sequence[TokenProjections] = (),
) -> Lens:
    """What a linked page holds of a session.

    Args:
        look: Scores and projections of every layer.
        choice: The recommended layer and why.
        layer: Layer to begin with; the recommended one unless given.
        origin: Origin that projections are counted from; the benign mean for a fitted one.
        outcomes: What came of training layers.
        run: A fine-tune, whose training can be replayed.
        after: Projections of the same prompts with the run applied.
        change: Test prompts before and after the run.
        tokens: Prompts token by token, from ``token_projections``.
    """
    origin = fixed_origin(origin)
    layer = choice.layer if layer is None else layer
    frame = look.projections.frame(origin=origin)
    rows = frame[frame["layer"] == 0]
    drawn = _figures(look, frame, layer, origin, outcomes, run, after, change)
    known = look.projections.prompts
    asked = None if change is None else change.where("test")
    sides = {} if asked is None else vars(asked)
    return Lens(
        model=look.model_name,
        layer=layer,
        about=(
            f"{len(known)} validation prompts at {look.scores.n_layers} layers; projections count "
            f"from the {ORIGIN_NAMES[origin]}. Recommended: layer {choice.layer}, as "
            f"{choice.reason}."
        ),
        warnings=list(look.scores.warnings),
        notes={
            **dict.fromkeys(map(str, choice.ties), "ties with the recommended one"),
            str(choice.layer): "recommended",
        },
        words=_words(look, frame, outcomes),
        values=_pack(look.projections.values.numpy()),
        origins=_pack(look.directions.origins(origin).numpy()),
        after=None if after is None else _pack(after.values.numpy()),
        prompts=_prompts(rows, known.texts),
        hovers=prompt_hovers(rows),
        tokens=[
            {"prompt": one_line(one.prompt, 80), "figure": _plain(figures.token_heatmap(one))}
            for one in tokens
        ],
        boxes=_boxes(drawn["prompts"], frame),
        figures={name: _plain(figure) for name, figure in drawn.items()},
        run=None
        if run is None
        else {
            "layer": run.layer,
            "alpha": run.config.alpha,
            "steps": run.history[-1].step if run.history else 0,
        },
        rates={time: shares_of(one.summary()["rates"]) for time, one in sides.items()},
        replies=[] if asked is None else _replies(asked.sides().head(ROWS)),
    )


def render_lenses(lenses: Sequence[GalleryRow]) -> str:
    """The text of a page: one lens, or a table of several of which one or two are seen at a time.

    With 32 layers and 1,000 prompts it is 5 to 6 MB long, most of it plotly.js.

    Args:
        lenses: What to show, each of several with a ``name``. One that is no ``Lens`` has a row in
            the table and no panels.
    """
    script = _SCRIPT.read_text(encoding="utf-8")
    return render_page(
        "linked.html.j2",
        lenses=lenses,
        stored=list(_without_repeats(lenses)),
        config=figures.config(),
        script=Markup(script),
        hash_of=_hash,
    )


def shares_of(rates: Mapping[str, Mapping[str, Any]]) -> dict[str, Estimate]:
    """Refusal rates by label and the trade-off score made of them, with their intervals.

    Args:
        rates: Rates by label, as in ``Evaluation.summary``; those of no prompts are left out.
    """
    shares = {
        label: Estimate(*(rate[name] for name in ("refused", "low", "high", "n")))
        for label, rate in rates.items()
        if rate["n"]
    }
    if {"pseudo_harmful", "harmful"} <= shares.keys():
        refused, low, high, n = shares["pseudo_harmful"]
        answered = Estimate(1 - refused, 1 - high, 1 - low, n)
        shares["tradeoff_score"] = tradeoff_estimate(answered, shares["harmful"])
    return shares


def token_pulls(
    model: ChatModel, look: Look, layer: int, places: Sequence[int] = ()
) -> list[TokenProjections]:
    """A few of the drawn prompts token by token, by default those that lie furthest wrong.

    Args:
        model: The untouched model; it runs once for each prompt.
        look: Result of ``look_at_layers`` with it.
        layer: Layer that says which pseudo-harmful prompts lie highest.
        places: Positions of other prompts to show, of which the first are taken.
    """
    prompts = look.projections.prompts
    if not places:
        heights = look.projections.values[layer].tolist()
        order = sorted(range(len(prompts)), key=lambda place: -heights[place])
        places = [place for place in order if prompts[place].label == "pseudo_harmful"]
    return [
        token_projections(model, prompts[place].prompt, look.directions) for place in places[:SHOWN]
    ]


# ---- What is drawn ----


def _figures(
    look: Look,
    frame: pd.DataFrame,
    layer: int,
    origin: Origin,
    outcomes: LayerOutcomes | None,
    run: TrainingRun | None,
    after: Projections | None,
    change: EvaluationChange | None,
) -> dict[str, go.Figure]:
    """The panels that have numbers, in the order in which they stand on the page."""
    drawn = {
        "layers": figures.projections_by_layer(
            look.projections, origin=origin, points=False, room_for_lines=1
        ),
        "prompts": figures.prompts_at_layer(frame, layer, origin=origin),
        "scores": figures.layer_scores(look.scores),
    }
    if outcomes is not None and outcomes.outcomes:
        drawn["outcomes"] = figures.layer_outcomes(outcomes)
    if after is not None:
        drawn["moved"] = figures.prompt_shifts(look.projections, after, layer)
    if change is not None:
        drawn["rates"] = figures.refusal_rates(before=change.before, after=change.after)
    if run is not None and run.history:
        drawn["training"] = figures.training_curves(run, columns=2)
    return drawn


def _plain(figure: go.Figure) -> dict[str, Any]:
    """A figure as JSON can hold it; hover texts of prompts are on the page once."""
    made = {"data": [_shrunk(trace.to_plotly_json()) for trace in figure.data]}
    return made | {"layout": _shrunk(figure.layout.to_plotly_json())}


def _shrunk(value: Any) -> Any:
    """Arrays in place of long lists of numbers, in the smallest type that holds them exactly."""
    if isinstance(value, Mapping):
        kept = {key: _shrunk(one) for key, one in value.items()}
        if (kept.get("meta") or {}).get("kind") == "points":
            kept.pop("text", None)
        return kept
    if isinstance(value, (list, tuple)):
        return [_shrunk(one) for one in value]
    if isinstance(value, np.ndarray):
        return _pack(value) if value.dtype.kind in "fiu" else _shrunk(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    # JSON has neither NaN nor infinity, such as the loss of a run that diverged.
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _pack(values: np.ndarray) -> dict[str, Any]:
    """Numbers as plotly reads them: little-endian bytes in base64, with type and shape."""
    small = values.astype("<f4")
    if not np.array_equal(small.astype(values.dtype), values, equal_nan=values.dtype.kind == "f"):
        small = values.astype("<f8")
    packed = {"dtype": small.dtype.str[1:], "bdata": base64.b64encode(small.tobytes()).decode()}
    return packed if values.ndim == 1 else packed | {"shape": ", ".join(map(str, values.shape))}


# ---- What is written ----


def _prompts(rows: pd.DataFrame, texts: Sequence[str]) -> list[list[str]]:
    """Text, label and category of each prompt; of long texts the beginning."""
    longest = min(_LONGEST, max(_LEAST, _ALL_TEXTS // len(texts)))
    return [
        [
            # Cut before it is looked at, so that the cost stays bounded.
            clip(clean(text[: 4 * longest]), longest),
            LABEL_STYLES[label].name,
            one_line(category or "", 80),
        ]
        for text, label, category in zip(texts, rows["label"], rows["category"], strict=True)
    ]


def _replies(table: pd.DataFrame) -> list[dict[str, str]]:
    """Prompts with replies before and after, as they are shown."""
    return [
        {
            "prompt": clean(clip(row["prompt"], PROMPT_LENGTH)),
            "about": " · ".join(
                one_line(text, 80)
                for text in (LABEL_STYLES[row["label"]].name, row["category"])
                if text
            ),
            **{time: clean(row[f"reply_{time}"]) for time in ("before", "after")},
            **{f"faults_{time}": row[f"faults_{time}"] for time in ("before", "after")},
        }
        for row in reply_rows(table)
    ]


def _boxes(figure: go.Figure, frame: pd.DataFrame) -> list[list[list[float]]]:
    """Heights of the boxes at each layer, for each label; of few prompts no boxes are drawn."""
    labels = [trace.meta["of"] for trace in figure.data if "of" in trace.meta]
    if not labels:
        return []
    values = {key: rows.to_numpy() for key, rows in frame.groupby(["layer", "label"])["projection"]}
    return [
        [box_heights(values[layer, label]).tolist() for label in labels]
        for layer in range(frame["layer"].max() + 1)
    ]


def _words(
    look: Look, frame: pd.DataFrame, outcomes: LayerOutcomes | None
) -> list[list[Sequence[str]]]:
    """The numbers of each layer as rows of a name and a text: what a screen reader reads."""
    words: list[list[Sequence[str]]] = [[] for _ in range(look.scores.n_layers)]
    quartiles = frame.groupby(["layer", "label"])["projection"].quantile(
        np.array([0.25, 0.5, 0.75])
    )
    for (layer, label), low, median, high in quartiles.unstack().itertuples():
        most = max(abs(low), abs(high), 1e-9)
        digits = max(2, 2 - math.floor(math.log10(most)))  # of small models
        text = f"{number(median, digits)} ({number(low, digits)} to {number(high, digits)})"
        words[layer].append((f"projection, {LABEL_STYLES[label].name}", text))
    for score in look.scores.rows:
        one = score.measurement
        text = f"{number(one.value, 3)} ({number(one.low, 3)} to {number(one.high, 3)})"
        words[score.layer].append((f"{score.score}{_PAIRS[score.pair]}", text))
    if outcomes is None:
        return words
    for row in outcomes.frame().to_dict("records"):
        for label in (label for label in LABEL_STYLES if label in outcomes.validation):
            share, low, high = (row[f"refused_{label}{end}"] for end in ("", "_low", "_high"))
            text = f"{percent(share)} ({percent(low)} to {percent(high)})"
            words[row["layer"]].append((f"trained: {LABEL_STYLES[label].name} refused", text))
        words[row["layer"]].append(("trained: trade-off score", number(row["tradeoff_score"], 3)))
    return words


def _without_repeats(lenses: Sequence[GalleryRow]) -> Iterator[dict[str, Any]]:
    """Each lens with a reference to the first one of the same prompts for what is the same there.

    A figure that is the same is None. ``linked.js`` fills in what is left out.
    """
    drawn = [lens for lens in lenses if isinstance(lens, Lens)]
    for lens in lenses:
        own = dict(vars(lens))
        if isinstance(lens, Lens):
            first = next(one for one in drawn if one.prompts == lens.prompts)
            if first is not lens:
                own = {name: value for name, value in own.items() if getattr(first, name) != value}
                own["like"] = lenses.index(first)
                own["figures"] = {
                    name: None if first.figures.get(name) == figure else figure
                    for name, figure in lens.figures.items()
                }
        yield own


def _hash(script: str) -> Markup:
    """How a content security policy names a script that may run."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Markup(f"'sha256-{digest}'")
