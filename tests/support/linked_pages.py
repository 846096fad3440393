"""What a linked page is made from, all of it planted: hostile prompts, outcomes, a run, tokens."""

from __future__ import annotations

import numpy as np
import torch

from actor_lens.directions.projections import Projections, TokenProjections
from actor_lens.experiments.study import Study
from actor_lens.experiments.sweep.cells import CellOutcome, SweepCell
from actor_lens.experiments.sweep.layer_sweep import LayerOutcomes
from tests.support.studies import N_LAYERS, TEXTS, planted_prompts, planted_study

HOSTILE = (
    "<img src=x onerror='window.harmed = 1'><script>window.harmed = 1</script>{}",
    "</script><script>window.harmed = 1</script><!-- {} \u202emirrored\u202c \u2028 %{y} $x$",
    "<svg onload=window.harmed=1><a href='javascript:window.harmed=1'>{}</a> " + "z" * 10_000,
)


def planted_page(per_label: int = 6, hostile: bool = True) -> tuple[Study, dict]:
    """A study, and all that ``render_linked_page`` takes of it and of more beside its look."""
    texts = dict(zip(TEXTS, HOSTILE, strict=True)) if hostile else TEXTS
    study = planted_study(planted_prompts(per_label, texts=texts), model_name="<b>planted</b>")
    shown = study.look.projections
    counts = shown.prompts.counts()
    outcomes = tuple(
        CellOutcome(
            SweepCell(layer, 1.0, 0),
            "completed",
            refused={label: (layer + place) % 4 / 4 for place, label in enumerate(counts)},
        )
        for layer in range(N_LAYERS)
    )
    draw = np.random.default_rng(1)
    noise = torch.tensor(draw.normal(size=shown.values.shape), dtype=torch.float32)
    directions = study.look.directions
    tokens = [
        TokenProjections(
            torch.tensor(draw.normal(size=(N_LAYERS, n)), dtype=torch.float32),
            tuple(HOSTILE[place][:n]),
            HOSTILE[place],
            directions,
            "planted",
        )
        for place, n in enumerate((9, 5))
    ]
    return study, {
        "choice": study.choice,
        "origin": "midpoint",
        "outcomes": LayerOutcomes(outcomes, counts, dict.fromkeys(counts, 0.5)),
        "run": study.run,
        "after": Projections(shown.values + noise, shown.residuals, directions),
        "change": study.change,
        "tokens": tokens,
    }
