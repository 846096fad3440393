"""Just-enough targets: how far along the refusal direction each prompt should move.

With ``u`` the unit refusal direction and ``o`` an origin on it, a prompt with activation ``a``
gets the target ``a + s u`` with the shift

    projected   s = -alpha (a.u - o)   pseudo-harmful and benign prompts
                s = +alpha (a.u - o)   harmful prompts
    uniform     s = -alpha |R|         pseudo-harmful and benign prompts
                s = +alpha |R|         harmful prompts

The projected shift with ``o = 0`` is the paper's ``a -/+ alpha Proj_R(a)``. The residual stream
has a large mean, so benign prompts may well have a negative projection, and then the paper's
formula moves them *toward* refusal: hence the choice of origin and the preview.

Source: Dabas et al. 2025 (arXiv 2507.04250).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from actor_lens.activations.positions import LAST
from actor_lens.activations.residuals import Residuals
from actor_lens.directions.options import FIXED_ORIGINS, SHIFTS, Origin, Shift
from actor_lens.directions.refusal_directions import Directions
from actor_lens.errors import UserError, check_choice, check_positive
from actor_lens.prompts.columns import prompt_columns
from actor_lens.prompts.rows import LABELS
from actor_lens.prompts.sets import PromptSet
from actor_lens.results import Result
from actor_lens.text import plural

if TYPE_CHECKING:
    import pandas as pd

# A class mean that moves less than this share of the gap between the means stays where it is.
_NEGLIGIBLE = 0.05


@dataclass(frozen=True, eq=False, repr=False)
class Targets(Result):
    """The target of every prompt at one layer.

    Attributes:
        values: Target activations.
        shifts: Signed distance along the unit direction, in units of the residual stream.
        projections: ``a.u`` of each prompt before.
        prompts: The prompts.
        layer: The layer.
        directions: Directions that R and the origin come from.
        alpha: Share of the distance to the origin.
        origin: ``"zero"``, ``"benign_mean"``, ``"midpoint"`` or ``"fitted"``.
        shift: ``"projected"`` or ``"uniform"``.
    """

    values: Float[Tensor, "prompt d_model"]
    shifts: Float[Tensor, " prompt"]
    projections: Float[Tensor, " prompt"]
    prompts: PromptSet
    layer: int
    directions: Directions
    alpha: float
    origin: Origin
    shift: Shift

    _figure = "target_preview"
    _hint = "next: targets.preview()"

    @property
    def unit(self) -> Float[Tensor, " d_model"]:
        """The unit direction along which the prompts are shifted."""
        vector = self.directions.vectors[self.layer]
        unit: Tensor = vector / vector.norm()
        return unit

    def frame(self) -> pd.DataFrame:
        """One row a prompt: those of ``prompt_columns``, ``before``, ``after``, ``shift``.

        ``before`` and ``after`` are projections on the unit direction.
        """
        import pandas as pd

        before = self.projections.numpy()
        shift = self.shifts.numpy()
        return pd.DataFrame(
            {
                **prompt_columns(self.prompts),
                "before": before,
                "after": before + shift,
                "shift": shift,
            }
        )

    def summary(self) -> dict[str, Any]:
        """``layer``, ``alpha``, ``origin``, ``shift`` and the number of ``prompts``."""
        return {**super().summary(), "prompts": len(self.prompts)}

    def _headline(self) -> str:
        return (
            f"Targets: {plural(len(self.prompts), 'prompt')} at layer {self.layer}; alpha "
            f"{self.alpha:g}, origin {self.origin}, shift {self.shift}"
        )

    def preview(self) -> TargetPreview:
        """Where the mean of each class will move, with warnings where that is the wrong way."""
        return TargetPreview(self)


@dataclass(frozen=True, eq=False, repr=False)
class TargetPreview(Result):
    """What the targets would do to each class, before a single gradient step."""

    targets: Targets

    _hint = "figure: preview.targets.plot()"

    @cached_property
    def _rows(self) -> list[dict[str, object]]:
        targets, layer = self.targets, self.targets.layer
        harmful = float(targets.directions.mean_projections("harmful")[layer])
        benign = float(targets.directions.mean_projections("benign")[layer])
        before = targets.projections.double().numpy()
        after = before + targets.shifts.double().numpy()
        labels = np.array(targets.prompts.labels)
        rows: list[dict[str, object]] = []
        for label in (label for label in LABELS if label in labels):
            start, end = float(before[labels == label].mean()), float(after[labels == label].mean())
            toward = _toward(start, end, gap=harmful - benign)
            rows.append(
                {
                    "label": label,
                    "before": start,
                    "after": end,
                    "origin": float(targets.directions.origins(targets.origin)[layer]),
                    "harmful_mean": harmful,
                    "benign_mean": benign,
                    "toward": toward,
                    "wrong_way": toward == ("compliance" if label == "harmful" else "refusal"),
                }
            )
        return rows

    @property
    def warnings(self) -> tuple[str, ...]:
        """One sentence for each class that would move the wrong way, or stay among the refused."""
        warnings = []
        for row in self._rows:
            name = str(row["label"]).replace("_", "-")
            way = f"mean projection {row['before']:.2f} -> {row['after']:.2f}"
            if row["wrong_way"] and row["label"] == "harmful":
                warnings.append(f"harmful prompts would move toward compliance ({way})")
            elif row["wrong_way"]:
                warnings.append(f"{name} prompts would move toward refusal ({way})")
            elif row["label"] != "harmful" and _overshoots(row):
                warnings.append(
                    f"{name} prompts would move far below the benign mean "
                    f"{row['benign_mean']:.2f} ({way}), where the model was never trained"
                )
        return tuple(warnings)

    def frame(self) -> pd.DataFrame:
        """One row a label, all numbers projections on the unit direction.

        Columns: ``label``, ``before``, ``after``, ``origin``, ``harmful_mean``, ``benign_mean``,
        ``toward`` (``refusal``, ``compliance`` or ``neither``), ``wrong_way``.
        """
        import pandas as pd

        return pd.DataFrame(self._rows)

    def summary(self) -> dict[str, Any]:
        """Settings of the targets and the ``warnings``."""
        return {**self.targets.summary(), "warnings": list(self.warnings)}

    def _headline(self) -> str:
        ways = ", ".join(
            f"{str(row['label']).replace('_', '-')} toward {row['toward']}" for row in self._rows
        )
        advice = "; ".join(self.warnings)
        return f"TargetPreview: layer {self.targets.layer}: {ways}" + (advice and f"; {advice}")


def just_enough_targets(
    residuals: Residuals,
    directions: Directions,
    layer: int,
    *,
    alpha: float = 1.0,
    origin: Origin = "benign_mean",
    shift: Shift = "projected",
) -> Targets:
    """Targets of every prompt at one layer.

    Args:
        residuals: Residuals of the prompts as they are now.
        directions: Refusal directions of the same model.
        layer: The layer.
        alpha: 1 moves pseudo-harmful and benign prompts all the way to the origin.
        origin: Place where a projection counts as none; see ``Directions.origins``.
        shift: ``"projected"``, each prompt by its own projection, or ``"uniform"``, all by
            ``alpha`` times R (the paper's ablation).

    Raises:
        UserError: If an argument has a value that is not allowed, no origin was fitted at the
            layer, the directions belong to a model of another shape, or the residuals were not read
            at the last token.
    """
    directions.check_fit(residuals)
    if residuals.position != LAST:
        raise UserError(
            f"targets move the last token, where a model decides, and these residuals are of "
            f"{residuals.position}: collect them without a position"
        )
    layer = residuals.check_layer(layer)
    activations = residuals.at(layer)
    alpha = check_positive("alpha", alpha)
    vector = directions.vectors[layer]
    place = float(directions.origins(origin)[layer])
    if math.isnan(place):
        raise UserError(
            f"no origin was fitted at layer {layer}: measure it with al.just_enough_shift and "
            "directions.with_fitted, or name one of " + ", ".join(FIXED_ORIGINS)
        )
    shifts = target_shifts(
        activations,
        vector,
        place,
        label_signs(residuals.prompts.labels),
        alpha=alpha,
        shift=shift,
    )
    return Targets(
        values=activations + shifts[:, None] * (vector / vector.norm()),
        shifts=shifts,
        projections=activations @ (vector / vector.norm()),
        prompts=residuals.prompts,
        layer=layer,
        directions=directions,
        alpha=alpha,
        origin=origin,
        shift=shift,
    )


def target_shifts(
    activations: Float[Tensor, "prompt d_model"],
    vector: Float[Tensor, " d_model"],
    origin: float | Float[Tensor, ""],
    signs: Float[Tensor, " prompt"],
    *,
    alpha: float,
    shift: Shift = "projected",
) -> Float[Tensor, " prompt"]:
    """Signed distance of each prompt along the unit direction; the formula is above.

    Args:
        activations: Residuals at the layer.
        vector: R, of any length but zero.
        origin: Place of the origin on the unit direction.
        signs: Signs from ``label_signs``.
        alpha: Share of the distance to the origin.
        shift: ``"projected"`` or ``"uniform"``.

    Raises:
        UserError: If the shift has another name.
    """
    check_choice("shift", shift, SHIFTS)
    if shift == "uniform":
        amounts = vector.norm().expand(len(signs))
    else:
        amounts = activations @ (vector / vector.norm()) - origin
    shifts: Tensor = signs * alpha * amounts
    return shifts


def label_signs(labels: tuple[str, ...]) -> Float[Tensor, " prompt"]:
    """+1 for harmful prompts, which keep away from the origin, -1 for all others."""
    signs = [1.0 if label == "harmful" else -1.0 for label in labels]
    return torch.tensor(signs, dtype=torch.float32, device="cpu")


def _toward(start: float, end: float, *, gap: float) -> str:
    if abs(end - start) <= _NEGLIGIBLE * abs(gap):
        return "neither"
    return "refusal" if end > start else "compliance"


def _overshoots(row: dict[str, object]) -> bool:
    """Whether a class ends further below the benign mean than half the gap between the means."""
    harmful, benign, after = (
        float(str(row[key])) for key in ("harmful_mean", "benign_mean", "after")
    )
    return after < benign - (harmful - benign) / 2
