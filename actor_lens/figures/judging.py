"""Where two judges of the same replies say different things."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import pandas as pd
import plotly.graph_objects as go

from actor_lens.errors import UserError
from actor_lens.figures.theme import INK, escape, finish

VERDICT_NAMES = {
    "answered": "answered",
    "partly_refused": "partly refused",
    "refused": "refused",
    "unreadable": "unreadable",
}
_SHADES = [[0.0, "#ffffff"], [1.0, "#56B4E9"]]


@runtime_checkable
class Confused(Protocol):
    """A panel of judges."""

    def confusion(self) -> pd.DataFrame:
        """Return columns judge, other, verdict, other_verdict, n."""
        ...


def judge_confusion(
    panel: Confused, judge: str | None = None, other: str | None = None
) -> go.Figure:
    """Draw how often one judge said what, by what another said: a table shaded by count.

    Reads judge, other, verdict, other_verdict, n of `.confusion()`. Rows are `judge`, columns
    `other`; unless given, the first pair of the panel.

    How it is misread: agreement on the diagonal may be chance where nearly all replies are of one
    kind (see kappa), and neither judge is the truth.

    Raises:
        UserError: If the panel does not hold the pair.
    """
    counts = _pair(panel.confusion(), judge, other)
    rows, columns = str(counts["judge"].iloc[0]), str(counts["other"].iloc[0])
    table = counts.pivot(index="verdict", columns="other_verdict", values="n")
    table = table.loc[list(VERDICT_NAMES), list(VERDICT_NAMES)]
    names = list(VERDICT_NAMES.values())
    figure = go.Figure(
        go.Heatmap(
            z=table.to_numpy(),
            x=names,
            y=names,
            colorscale=_SHADES,
            showscale=False,
            xgap=2,
            ygap=2,
            text=table.to_numpy(),
            texttemplate="%{text}",
            textfont={"color": INK},
            hovertemplate=f"{escape(rows)}: %{{y}}<br>{escape(columns)}: %{{x}}<br>%{{z}} replies"
            "<extra></extra>",
            meta={"kind": "confusion"},
        )
    )
    figure.update_xaxes(title_text=escape(columns), side="bottom", showgrid=False)
    figure.update_yaxes(title_text=escape(rows), autorange="reversed", showgrid=False)
    return finish(
        figure,
        title="What two judges say of the same replies",
        notes=["Each cell: number of replies. On the diagonal both say the same."],
        height=420,
        legend=False,
    )


def _pair(counts: pd.DataFrame, judge: str | None, other: str | None) -> pd.DataFrame:
    """Return the counts of one pair, turned round if the panel holds it the other way."""
    turned = counts.rename(
        columns={
            **{"judge": "other", "other": "judge"},
            **{"verdict": "other_verdict", "other_verdict": "verdict"},
        }
    )
    both = pd.concat([counts, turned], ignore_index=True)
    judge = judge if judge is not None else str(counts["judge"].iloc[0])
    found = both[both["judge"] == judge]
    if other is None and len(found):
        other = str(found["other"].iloc[0])
    found = found[found["other"] == other]
    if found.empty:
        known = ", ".join(dict.fromkeys(both["judge"]))
        raise UserError(
            f"the panel does not compare '{judge}' with '{other}': give two different judges of "
            f"{known}"
        )
    return found
