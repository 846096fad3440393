"""Every prompt on the refusal direction of every layer, token by token, and maps of a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from actor_lens.activations.passes import observe_residuals
from actor_lens.activations.residuals import Residuals
from actor_lens.directions.options import MAP_METHODS, MapMethod, Origin
from actor_lens.directions.refusal_directions import Directions
from actor_lens.errors import UserError, check_choice
from actor_lens.models.batches import TokenBatch, run_in_batches
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.finite import check_finite
from actor_lens.prompts.columns import layer_prompt_frame, prompt_columns
from actor_lens.prompts.rows import LABELS
from actor_lens.prompts.sets import PromptSet
from actor_lens.results import Result, harmless_head
from actor_lens.text import percent, plural

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Projections(Result):
    """Projection of every prompt's residual on the unit refusal direction, ``a . u``.

    Attributes:
        values: Projections in units of the residual stream, no origin subtracted.
        residuals: Residuals that were projected.
        directions: Directions that they were projected on.
    """

    values: Float[Tensor, "layer prompt"]
    residuals: Residuals
    directions: Directions

    _figure = "projections_by_layer"
    _hint = "next: al.score_layers(projections)"

    @property
    def prompts(self) -> PromptSet:
        """The prompts of the second dimension."""
        return self.residuals.prompts

    def frame(self, origin: Origin = "zero") -> pd.DataFrame:
        """One row a layer and prompt: ``layer``, those of ``prompt_columns``, ``projection``.

        Args:
            origin: Origin that is subtracted from the projections of a layer
                (``Directions.origins``).
        """
        shifted = self.values - self.directions.origins(origin)[:, None]
        return layer_prompt_frame(self.prompts, shifted.numpy(), "projection")

    def summary(self) -> dict[str, Any]:
        """``model_name``, ``n_layers``, ``d_model`` and the number of ``prompts``."""
        return self.residuals.summary()

    def movements(self, after: Projections, layer: int) -> pd.DataFrame:
        """How far the prompts of each label moved at a layer.

        Args:
            after: Projections of the same prompts on the same directions, of the changed model.
            layer: Block index from 0.

        Returns:
            One row a label: ``label``, ``n``, ``before`` and ``after`` (mean projections), ``up``
            (prompts that moved toward refusal).
        """
        import pandas as pd

        labels = np.array(self.prompts.labels)
        rows = []
        for label in (label for label in LABELS if label in labels):
            first, second = (each.values[layer][labels == label] for each in (self, after))
            up = int((second > first).sum())
            means = {"before": float(first.mean()), "after": float(second.mean())}
            rows.append({"label": label, "n": len(first), **means, "up": up})
        return pd.DataFrame(rows)

    def _headline(self) -> str:
        n_layers, n_prompts = self.values.shape
        return (
            f"Projections: {plural(n_prompts, 'prompt')} on the refusal directions of "
            f"{plural(n_layers, 'layer')}, {self.residuals.model_name}"
        )


@dataclass(frozen=True, eq=False, repr=False)
class TokenProjections(Result):
    """Projection of the residual at every token of one prompt on the unit refusal directions.

    Attributes:
        values: ``a . u`` in units of the residual stream, no origin subtracted; float32.
        tokens: Text of each token of the templated prompt, special tokens too.
        prompt: What the user says.
        directions: Directions that they were projected on.
        model_name: Name of the model.
    """

    values: Float[Tensor, "layer token"]
    tokens: tuple[str, ...]
    prompt: str
    directions: Directions
    model_name: str

    _figure = "token_heatmap"

    @property
    def last(self) -> Float[Tensor, " layer"]:
        """Projections at the last token, as ``project`` gives them."""
        return self.values[:, -1]

    def frame(self, origin: Origin = "zero") -> pd.DataFrame:
        """One row a layer and token.

        Columns: ``layer``, ``token_index``, ``token``, ``projection``, ``relative``: how far the
        token is on the way from the mean benign prompt (0) to the mean harmful one (1), and
        ``read``: whether it is the token at whose position the directions were made.

        At other tokens a projection is the same dot product, but says less: what a model has
        decided there is not what the direction was made from.

        Args:
            origin: Origin that is subtracted from the projections of a layer
                (``Directions.origins``).
        """
        import pandas as pd

        shifted = self.values - self.directions.origins(origin)[:, None]
        n_layers, n_tokens = shifted.shape
        behind = self.directions.position.behind
        return pd.DataFrame(
            {
                "layer": np.repeat(np.arange(n_layers), n_tokens),
                "token_index": np.tile(np.arange(n_tokens), n_layers),
                "token": list(self.tokens) * n_layers,
                "projection": shifted.numpy().reshape(-1),
                "relative": self._relative().numpy().reshape(-1),
                "read": np.tile(np.arange(n_tokens)[::-1] == behind, n_layers),
            }
        )

    def summary(self) -> dict[str, Any]:
        """``model_name``, ``n_layers`` and the number of ``tokens``; not the prompt."""
        n_layers, n_tokens = self.values.shape
        return {"model_name": self.model_name, "n_layers": n_layers, "tokens": n_tokens}

    def _headline(self) -> str:
        n_layers, n_tokens = self.values.shape
        return (
            f"TokenProjections: {plural(n_tokens, 'token')} of one prompt, "
            f"{plural(n_layers, 'layer')} of {self.model_name}"
        )

    def _table(self) -> pd.DataFrame:
        # Nobody knows whose prompt it is: its tokens are not shown.
        return harmless_head(self.frame().drop(columns="token"))

    def _relative(self) -> Float[Tensor, "layer token"]:
        benign, harmful = (
            self.directions.mean_projections(label)[:, None] for label in ("benign", "harmful")
        )
        relative: Tensor = (self.values - benign) / (harmful - benign)
        return relative


@dataclass(frozen=True, eq=False, repr=False)
class LayerMap(Result):
    """Prompts at one layer in two dimensions.

    Attributes:
        positions: Position of every prompt.
        prompts: The prompts.
        layer: The layer.
        method: ``"pca"`` or ``"tsne"``.
        axes: Title of each axis.
    """

    positions: Float[np.ndarray, "prompt 2"]
    prompts: PromptSet
    layer: int
    method: MapMethod
    axes: tuple[str, str]

    _figure = "layer_map"

    def frame(self) -> pd.DataFrame:
        """One row a prompt: those of ``prompt_columns``, ``x``, ``y``."""
        import pandas as pd

        return pd.DataFrame(
            {**prompt_columns(self.prompts), "x": self.positions[:, 0], "y": self.positions[:, 1]}
        )

    def summary(self) -> dict[str, Any]:
        """``layer``, ``method``, ``axes`` and the number of ``prompts``."""
        return {**super().summary(), "axes": list(self.axes), "prompts": len(self.prompts)}

    def _headline(self) -> str:
        axes = " and ".join(self.axes)
        return f"LayerMap: {plural(len(self.prompts), 'prompt')} at layer {self.layer}; {axes}"


def project(residuals: Residuals, directions: Directions) -> Projections:
    """Project residuals on the unit refusal direction of their layer.

    Raises:
        UserError: If the directions belong to a model of another shape, or another position.
    """
    directions.check_fit(residuals)
    values = torch.einsum("lpd,ld->lp", residuals.values.double(), directions.unit.double())
    return Projections(values.float(), residuals, directions)


def token_projections(model: ChatModel, prompt: str, directions: Directions) -> TokenProjections:
    """Project the residual at every token of a templated prompt, at every layer.

    Where the directions were made at the first token of a refusal, that follows the prompt.
    Projected while the model runs: no residuals are kept.

    Args:
        model: The model as it is now, for instance inside ``run.applied_to(model)``.
        prompt: What the user says, not yet templated.
        directions: Refusal directions of the same model.

    Raises:
        UserError: If the directions belong to a model of another shape, or the prompt is blank or
            longer than the model takes.
    """
    directions.check_model(model)
    if not prompt.strip():
        raise UserError("the prompt is empty; give the text of a user's message")
    (ids,) = directions.position.tokenize(model, [prompt])
    units = directions.unit.double()
    values = torch.empty(model.n_layers, len(ids), dtype=torch.float32, device="cpu")

    def run(batch: TokenBatch) -> None:
        def take(layer: int, residual: Tensor) -> None:
            values[layer] = residual[0].cpu().double() @ units[layer]

        observe_residuals(model, batch, take)

    run_in_batches(model, [ids], run)
    check_finite(model, values, "projections")
    tokens = tuple(str(model.tokenizer.decode([token])) for token in ids)
    return TokenProjections(values, tokens, prompt, directions, model.name)


def layer_map(
    residuals: Residuals, layer: int, *, method: MapMethod = "pca", seed: int = 0
) -> LayerMap:
    """Lay the prompts of one layer out in two dimensions.

    The sign of each principal axis is such that its largest loading is positive: two calls,
    and two runs, give the same picture. t-SNE keeps neighbours together; its distances between
    groups and the sizes of groups mean nothing.

    Args:
        residuals: At least three prompts.
        layer: The layer.
        method: ``"pca"`` or ``"tsne"``.
        seed: Seed of t-SNE.

    Raises:
        UserError: If there are fewer than three prompts, all are at one point, a residual is not
            finite, or the layer or method does not exist.
    """
    check_choice("method", method, MAP_METHODS)
    layer = residuals.check_layer(layer)
    points = residuals.at(layer).double().numpy()
    if len(points) < 3:
        raise UserError(f"a map needs at least 3 prompts, got {len(points)}")
    if not np.isfinite(points).all():
        raise UserError(
            f"residuals of '{residuals.model_name}' at layer {layer} hold values that are not "
            "finite; load the model with dtype float32 or bfloat16"
        )
    if (points == points[0]).all():
        raise UserError(
            f"a map needs prompts that differ: all {len(points)} have the same residual at layer "
            f"{layer}"
        )
    if method == "pca":
        positions, axes = _pca(points)
    else:
        positions, axes = _tsne(points, seed), ("t-SNE 1", "t-SNE 2")
    return LayerMap(positions, residuals.prompts, layer, method, axes)


def _pca(points: np.ndarray) -> tuple[np.ndarray, tuple[str, str]]:
    from sklearn.decomposition import PCA

    pca = PCA(n_components=2, svd_solver="full").fit(points)
    shares = pca.explained_variance_ratio_
    first, second = (f"PC {i + 1} ({percent(float(share), 0)})" for i, share in enumerate(shares))
    return np.asarray(pca.transform(points)), (first, second)


def _tsne(points: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(points) - 1) / 3)
    tsne = TSNE(n_components=2, perplexity=perplexity, init="pca", random_state=seed)
    return np.asarray(tsne.fit_transform(points))
