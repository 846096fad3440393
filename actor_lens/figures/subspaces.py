"""How many directions it takes to tell two labels apart at a layer, one panel a pair of labels."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from actor_lens.figures.frames import Framed, finite_rows
from actor_lens.figures.layer_choice import PAIR_STYLES
from actor_lens.figures.theme import INK, LABEL_STYLES, Style, chance_band, finish, whiskers

_STYLES = {
    **PAIR_STYLES,
    "pseudo_harmful_vs_benign": Style(
        "pseudo-harmful vs benign", LABEL_STYLES["pseudo_harmful"].color, "diamond", "dot"
    ),
}


def subspace_steps(subspaces: Framed | Sequence[Framed]) -> go.Figure:
    """Draw the AUROC of the first one, two, ... directions, on prompts held out from them.

    Whiskers are 95 % intervals. The grey band is where 95 % of the AUROCs fall with a random
    direction in the place of the last one; the dotted line is the whole residual. A mark is solid
    where its direction adds something: more than nothing, and more than random directions.

    Reads columns pair, layer, directions, auroc, random and whole with _low and _high, gain, adds.

    What to look for: whether the line climbs after the first mark, and whether the marks are solid
    and above the band. The dotted line is no ceiling: of few prompts the whole residual may tell
    less than a few directions, among so many others in which the prompts differ by chance.

    How it is misread: a line that is flat near 1 does not say that there is one direction only,
    but that no other is needed. Directions come in the order of how much the kinds of prompts
    differ along them, not of how much they tell; a later one may add what an earlier one does not.

    Args:
        subspaces: One or several results of `refusal_subspace`; each has a panel.

    Returns:
        `meta` of a trace holds its `kind` (`steps`, `random` or `whole`) and `pair`.
    """
    given = [subspaces] if isinstance(subspaces, Framed) else list(subspaces)
    frames = [frame for one in given if len(frame := finite_rows(one.frame(), ["auroc"]))]
    titles = [
        f"{_STYLES[frame['pair'].iloc[0]].name}, layer {frame['layer'].iloc[0]}" for frame in frames
    ]
    columns = min(3, max(1, len(frames)))
    rows = -(-max(1, len(frames)) // columns)
    figure = make_subplots(
        rows, columns, shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.03
    )
    for place, frame in enumerate(frames):
        at = {"row": 1 + place // columns, "col": 1 + place % columns}
        for trace in _traces(frame, showlegend=place == 0):
            figure.add_trace(trace, **at)
        figure.update_xaxes(title_text="directions", dtick=1, **at)
    figure.update_yaxes(title_text="AUROC", col=1)
    figure.update_annotations(font_size=12)
    return finish(
        figure,
        title="How many directions it takes",
        notes=["On held-out prompts, with 95 % intervals. Solid: the direction adds something."],
        height=130 + 260 * rows,
        empty="no directions to show",
    )


def _traces(frame: pd.DataFrame, *, showlegend: bool) -> list[go.Scatter]:
    """The band of random directions, the line of the whole residual, and the steps."""
    pair = frame["pair"].iloc[0]
    style, x = _STYLES[pair], frame["directions"].to_numpy(dtype=float)
    band = chance_band(
        x,
        frame["random_low"],
        frame["random_high"],
        group="random",
        name="last direction random",
        showlegend=showlegend,
        meta={"kind": "random", "pair": pair},
    )
    whole = go.Scatter(
        x=[x[0] - 0.3, x[-1] + 0.3],
        y=[frame["whole"].iloc[0]] * 2,
        name="whole residual",
        mode="lines",
        line={"color": INK, "width": 1, "dash": "dot"},
        hovertemplate="whole residual: %{y:.3f}<extra></extra>",
        legendgroup="whole",
        showlegend=showlegend,
        meta={"kind": "whole", "pair": pair},
    )
    fills = [style.color if adds else "#ffffff" for adds in frame["adds"]]
    steps = go.Scatter(
        x=x,
        y=frame["auroc"].to_numpy(dtype=float),
        customdata=frame[["auroc_low", "auroc_high", "gain"]].to_numpy(dtype=float),
        error_y=whiskers(
            frame["auroc"], frame["auroc_low"], frame["auroc_high"], thickness=1.2, width=2
        ),
        name=style.name,
        mode="lines+markers",
        line={"color": style.color, "width": 1.8},
        marker={"size": 9, "color": fills, "line": {"color": style.color, "width": 1.8}},
        hovertemplate="%{x:d} directions: %{y:.3f}<br>interval %{customdata[0]:.3f} to "
        "%{customdata[1]:.3f}<br>the last adds %{customdata[2]:.3f}<extra></extra>",
        showlegend=False,
        meta={"kind": "steps", "pair": pair},
    )
    return [band, whole, steps]
