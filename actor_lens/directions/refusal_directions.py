"""The refusal direction at every layer: difference in means, harmful minus benign."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from actor_lens.activations.positions import LAST, Position
from actor_lens.activations.residuals import Residuals
from actor_lens.directions.options import FIXED_ORIGINS, ORIGINS, Origin
from actor_lens.errors import UserError, check_choice
from actor_lens.models.chat_model import ChatModel
from actor_lens.prompts.rows import LABELS
from actor_lens.results import Result
from actor_lens.text import plural

if TYPE_CHECKING:
    import pandas as pd

# Means closer than float32 resolves at their size differ by rounding only.
SAME = torch.finfo(torch.float32).eps


@dataclass(frozen=True, eq=False, repr=False)
class Directions(Result):
    """Refusal directions and the class means they come from.

    Attributes:
        vectors: R of the paper at every layer, not normalised.
        means: Mean residual of each label that was present.
        fitted: By layer, the place of an origin that was fitted there; see ``with_fitted``.
        position: Where the residuals that they come from were read.
    """

    vectors: Float[Tensor, "layer d_model"]
    means: Mapping[str, Float[Tensor, "layer d_model"]]
    fitted: Mapping[int, float] = field(default_factory=dict)
    position: Position = LAST

    _hint = "next: al.project(residuals, directions)"

    @cached_property
    def unit(self) -> Float[Tensor, "layer d_model"]:
        """The direction at every layer with length one."""
        lengths: Tensor = self.vectors.norm(dim=-1, keepdim=True)
        return self.vectors / lengths

    def mean_projections(self, label: str) -> Float[Tensor, " layer"]:
        """Projection of a label's mean on the unit direction, summed in float64."""
        unit: Tensor = self.unit.double()
        return (self.means[label].double() * unit).sum(dim=-1).float()

    def origins(self, origin: Origin) -> Float[Tensor, " layer"]:
        """Where on the unit direction a projection of zero shift lies.

        Args:
            origin: ``"zero"``, the paper's formula as written; ``"benign_mean"``, the projection
                of the mean benign prompt; ``"midpoint"``, half way to that of the mean harmful
                prompt; ``"fitted"``, that of ``with_fitted``, NaN at layers without one.

        Raises:
            UserError: If the origin has another name.
        """
        benign = self.mean_projections("benign")
        places = [self.fitted.get(layer, math.nan) for layer in range(len(benign))]
        return origin_on(
            origin,
            benign=benign,
            harmful=self.mean_projections("harmful"),
            place=benign.new_tensor(places),
        )

    def with_fitted(self, layer: int, place: float) -> Directions:
        """These directions, with the origin that was fitted at a layer.

        Args:
            layer: The layer.
            place: The origin on a scale on which the projection of the mean benign prompt is 0 and
                that of the mean harmful prompt 1 (``JustEnoughShift.origin_place``).
        """
        return replace(self, fitted={**self.fitted, layer: place})

    def check_fit(self, residuals: Residuals) -> None:
        """Refuse residuals of a model of another shape, or of another position.

        Raises:
            UserError: If the number of layers or their width differs, or where they were read.
        """
        n_layers, _, d_model = residuals.values.shape
        self._check_shape("residuals have", n_layers, d_model)
        if residuals.position != self.position:
            raise UserError(
                f"residuals were read at {residuals.position}, the directions come from "
                f"{self.position}: collect with position=directions.position"
            )

    def check_model(self, model: ChatModel) -> None:
        """Refuse a model of another shape than the one the directions come from.

        Raises:
            UserError: If the number of layers or their width differs.
        """
        self._check_shape(f"'{model.name}' has", model.n_layers, model.d_model)

    def _check_shape(self, who_has: str, n_layers: int, d_model: int) -> None:
        if self.vectors.shape != (n_layers, d_model):
            raise UserError(
                f"{who_has} {n_layers} layers of width {d_model}, the directions "
                f"{len(self.vectors)} of width {self.vectors.shape[1]}: fit them on the same model"
            )

    def summary(self) -> dict[str, Any]:
        """``n_layers``, ``d_model`` and the ``labels`` that have a mean."""
        n_layers, d_model = self.vectors.shape
        return {"n_layers": n_layers, "d_model": d_model, "labels": list(self.means)}

    def _headline(self) -> str:
        n_layers, d_model = self.vectors.shape
        norms = self.vectors.norm(dim=-1)
        where = "" if self.position == LAST else f" at {self.position}"
        return (
            f"Directions{where}: {plural(n_layers, 'layer')}, width {d_model}; length of R from "
            f"{float(norms.min()):.3g} to {float(norms.max()):.3g}"
        )

    def frame(self) -> pd.DataFrame:
        """One row a layer: ``layer``, ``norm`` of R, mean projection of each label."""
        import pandas as pd

        columns = {f"mean_{label}": self.mean_projections(label).numpy() for label in self.means}
        norms = self.vectors.norm(dim=-1).numpy()
        return pd.DataFrame({"layer": range(len(norms)), "norm": norms, **columns})


def origin_on(
    origin: Origin, *, benign: Tensor, harmful: Tensor, place: Tensor | float | None = None
) -> Tensor:
    """An origin on the refusal direction, from the projections of two class means.

    Args:
        origin: See ``Directions.origins``.
        benign: Projection of the mean benign prompt, of any shape.
        harmful: The same for harmful prompts.
        place: Place of a fitted origin, between 0 for benign and 1 for harmful.

    Raises:
        UserError: If the origin has another name, or is fitted and has no place.
    """
    check_choice("origin", origin, ORIGINS)
    if origin == "zero":
        return torch.zeros_like(benign)
    if origin == "fitted":
        if place is None:
            raise UserError(
                "no origin was fitted on this direction; name one of " + ", ".join(FIXED_ORIGINS)
            )
        return benign + place * (harmful - benign)
    return benign if origin == "benign_mean" else (benign + harmful) / 2


def refusal_directions(residuals: Residuals, *, anchors: Residuals | None = None) -> Directions:
    """Difference in means, harmful minus benign, at every layer.

    Means are accumulated in float64. The sign points toward refusal: harmful prompts project
    higher than benign ones at layers that separate the two.

    Fit directions on training prompts and look at other prompts with them: prompts look better
    separated on a direction that was fitted to them.

    Args:
        residuals: Residuals of the prompts.
        anchors: Residuals of harmful and benign prompts whose means stand in for those of these
            labels, in R and in every origin, as in the paper; None for the prompts' own.

    Raises:
        UserError: If there are no harmful or no benign prompts, or their means coincide at a
            layer, or a residual is not finite, or the anchors are of another model or position.

    Source: Dabas et al. 2025 (arXiv 2507.04250), refusal vector; Arditi et al. 2024
        (arXiv 2406.11717).
    """
    sources = dict.fromkeys(LABELS, residuals)
    if anchors is not None:
        sources |= dict.fromkeys(("harmful", "benign"), anchors)
    present = [label for label in LABELS if label in sources[label].prompts.labels]
    for label in ("harmful", "benign"):
        if label not in present:
            raise UserError(
                f"no {label} {'prompts' if anchors is None else 'anchors'}: a refusal direction "
                "needs harmful and benign ones"
            )
    for source in (residuals, *(() if anchors is None else (anchors,))):
        if not torch.isfinite(source.values).all():
            raise UserError(
                f"residuals of '{source.model_name}' hold values that are not finite; "
                "load the model with dtype float32 or bfloat16"
            )
    means = {label: sources[label].of(label).double().mean(dim=1) for label in present}
    vectors = means["harmful"] - means["benign"]
    sizes = torch.maximum(means["harmful"].norm(dim=-1), means["benign"].norm(dim=-1))
    flat = (vectors.norm(dim=-1) <= SAME * sizes).nonzero().flatten().tolist()
    if flat:
        raise UserError(
            f"harmful and benign prompts have the same mean at layer {flat[0]}: no direction "
            "there; check that the two labels hold different prompts"
        )
    found = Directions(
        vectors.float(),
        {label: mean.float() for label, mean in means.items()},
        position=sources["harmful"].position,
    )
    found.check_fit(residuals)
    return found
