"""Where two judges of the same replies say different things.

No judge has a colour of its own: a cell is shaded by its count and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import plotly.graph_objects as go

from actor_lens.errors import UserError
from actor_lens.figures.theme import INK, escape, finish

if TYPE_CHECKING:
    from actor_lens.evaluation.panel import JudgePanel

VERDICT_NAMES = {
    "answered": "answered",
    "partly_refused": "partly refused",
    "refused": "refused",
    "unreadable": "unreadable",
    "not_harmful": "not harmful",
}
_SHADES = [[0.0, "#ffffff"], [1.0, "#56B4E9"]]


def judge_confusion(
    panel: JudgePanel, judge: str | None = None, other: str | None = None
) -> go.Figure:
    """Draw how often one judge said what, by what another said: a table shaded by count.

    Each cell is a number of replies; the rows are the verdicts of `judge`, the columns those of
    `other`. On the diagonal, from the upper left, the two say the same.

    Reads columns judge, other, verdict, other_verdict, n (replies) of `.confusion()`.

    What to look for: large counts off the diagonal, above all where one judge says "answered" and
    the other "refused". Read those replies before a rate is quoted.

    How it is misread: agreement on the diagonal may be chance where nearly all replies are of one
    kind (see kappa), and neither judge is the truth.

    Args:
        panel: Judges and their verdicts, from `judge_panel`.
        judge: Name of a judge; the first of the panel unless given.
        other: Name of another; unless given, the first that is compared with `judge`.

    Returns:
        One heatmap with the verdicts both ways, also where no reply has one of them, but for "not
        harmful", which is there where one of the two says it.

    Raises:
        UserError: If the panel does not hold the pair.
    """
    counts = _pair(panel.confusion(), judge, other)
    rows, columns = str(counts["judge"].iloc[0]), str(counts["other"].iloc[0])
    table = counts.pivot(index="verdict", columns="other_verdict", values="n")
    table = table.reindex(index=list(VERDICT_NAMES), columns=list(VERDICT_NAMES), fill_value=0)
    if not (table["not_harmful"].sum() + table.loc["not_harmful"].sum()):  # few judges say it
        table = table.drop(index="not_harmful", columns="not_harmful")
    names = [VERDICT_NAMES[verdict] for verdict in table.index]
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
            "judge": "other",
            "other": "judge",
            "verdict": "other_verdict",
            "other_verdict": "verdict",
        }
    )
    both = pd.concat([counts, turned], ignore_index=True)
    judge = judge if judge is not None else str(counts["judge"].iloc[0])
    pair = both[both["judge"] == judge]
    if other is None and len(pair):
        other = str(pair["other"].iloc[0])
    pair = pair[pair["other"] == other]
    if pair.empty:
        known = ", ".join(dict.fromkeys(both["judge"]))
        raise UserError(
            f"the panel does not compare '{judge}' with '{other}': give two different judges of "
            f"{known}"
        )
    return pair
