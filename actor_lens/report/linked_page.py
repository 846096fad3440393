"""One HTML page that stays linked without Python: a layer is chosen, and every panel follows.

The figures are those of ``actor_lens.figures``, drawn once; what changes with the layer is stored
beside them, and ``templates/linked.js`` moves it. The page's policy names the two scripts that may
run by their hashes: nothing that a prompt could bring in does, and nothing is asked of a network.
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
from collections.abc import Mapping, Sequence
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
from actor_lens.figures.theme import LABEL_STYLES, ORIGIN_NAMES
from actor_lens.models.chat_model import ChatModel
from actor_lens.report.pages import number, render_page, reply_rows, write_page
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


def write_linked_page(look: Look, path: str | os.PathLike[str], **content: Any) -> Path:
    """Write what is known of every layer as one HTML file that works offline and stays linked.

    The file is 5 to 6 MB for 32 layers and 1,000 prompts, most of it plotly.js. It holds prompts,
    harmful ones among them, but no answer to a harmful prompt.

    Args:
        look: Scores and projections of every layer, from ``look_at_layers``.
        path: Path of the file; one that is there is replaced whole. Its folder must exist.
        content: What else it shows; see ``render_linked_page``.

    Raises:
        UserError: If the file cannot be written; an old one survives.
    """
    return write_page(render_linked_page(look, **content), path)


def render_linked_page(
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
) -> str:
    """The text of the page that ``write_linked_page`` writes; a panel without numbers is left out.

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
    drawn = _figures(look, frame, layer, origin, outcomes, run, after, change)
    known = look.projections.prompts
    content = {
        "layer": layer,
        "notes": _notes(choice),
        "words": _words(look, frame, outcomes),
        "values": _packed(look.projections.values.numpy()),
        "origins": _packed(look.directions.origins(origin).numpy()),
        "after": None if after is None else _packed(after.values.numpy()),
        "prompts": _prompts(frame[frame["layer"] == 0], known.texts),
        "hovers": prompt_hovers(frame[frame["layer"] == 0]),
        "tokens": [
            {"prompt": one_line(one.prompt, 80), "figure": _plain(figures.token_heatmap(one))}
            for one in tokens
        ],
        "figures": {name: _plain(figure) for name, figure in drawn.items()},
        "config": figures.config(),
    }
    script = _SCRIPT.read_text(encoding="utf-8")
    rows = [] if change is None else reply_rows(change.where("test").sides().head(ROWS))
    return render_page(
        "linked.html.j2",
        look=look,
        choice=choice,
        origin=ORIGIN_NAMES[origin],
        content=content,
        script=Markup(script),
        hash_of=_hash,
        panels=[name for name in drawn if name != "training"],
        run=run,
        steps=0 if run is None or not run.history else run.history[-1].step,
        tokens=tokens,
        reply_rows=rows,
    )


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
        return _packed(value) if value.dtype.kind in "fiu" else _shrunk(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    # JSON has neither NaN nor infinity, such as the loss of a run that diverged.
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _packed(values: np.ndarray) -> dict[str, Any]:
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


def _notes(choice: LayerChoice) -> dict[int, str]:
    """What is to be said of single layers beside the slider."""
    return dict.fromkeys(choice.ties, "ties with the recommended one") | {
        choice.layer: "recommended"
    }


def _words(
    look: Look, frame: pd.DataFrame, outcomes: LayerOutcomes | None
) -> list[list[tuple[str, str]]]:
    """The numbers of each layer as rows of a name and a text: what a screen reader reads."""
    words: list[list[tuple[str, str]]] = [[] for _ in range(look.scores.n_layers)]
    quartiles = frame.groupby(["layer", "label"])["projection"].quantile(
        np.array([0.25, 0.5, 0.75])
    )
    for (layer, label), low, median, high in quartiles.unstack().itertuples():
        text = f"{number(median)} ({number(low)} to {number(high)})"
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


def _hash(script: str) -> Markup:
    """How a content security policy names a script that may run."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Markup(f"'sha256-{digest}'")
