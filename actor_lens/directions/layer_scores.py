"""Which layer to train: scores of every layer, where they tie, and a choice with its reason."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from joblib import Parallel, delayed
from threadpoolctl import threadpool_limits

from actor_lens.activations.positions import LAST, Position
from actor_lens.activations.store import Store
from actor_lens.directions.options import SCORES, Origin, Score, fixed_origin
from actor_lens.directions.predicted_refusals import (
    PredictedRefusals,
    predict_refusals_by_layer,
)
from actor_lens.directions.projections import Projections
from actor_lens.directions.targets import just_enough_targets
from actor_lens.errors import UserError, check_choice, check_whole
from actor_lens.judges.first_token import RefusalTokens
from actor_lens.judges.openings import refusal_tokens
from actor_lens.models.chat_model import ChatModel
from actor_lens.progress import stage
from actor_lens.prompts.rows import PAIRS, Pair
from actor_lens.results import Result
from actor_lens.statistics.form_control import FormControl, form_control
from actor_lens.statistics.intervals import share_estimate
from actor_lens.statistics.rates import tradeoff_estimate
from actor_lens.statistics.separation import (
    Measurement,
    auroc,
    gap,
    probe_accuracy,
    silhouette,
)
from actor_lens.text import plural, runs, spell

if TYPE_CHECKING:
    import pandas as pd

_NAMES = {
    "silhouette": "silhouette of harmful against benign prompts",
    "auroc": "AUROC of harmful against benign prompts",
    "gap": "gap between harmful and benign prompts",
    "probe": "probe accuracy of harmful against benign prompts",
    "causal": "trade-off score predicted by moving each prompt to its target",
}
# Below this accuracy of a probe, single-layer training was all-or-nothing in trials on toy models
# (0.73 failed, 0.93 worked).
_SEPARABLE = 0.8


@dataclass(frozen=True)
class LayerScore:
    """One score of one layer for one pair of labels (``"all"`` for the causal score)."""

    layer: int
    score: Score
    pair: Pair | Literal["all"]
    measurement: Measurement


@dataclass(frozen=True, repr=False)
class LayerChoice(Result):
    """The layer that a score recommends.

    Attributes:
        layer: The layer.
        by: The score; ``"outcomes"`` where layers were trained.
        reason: Why, in one sentence.
        ties: Layers whose score lies within the interval of the best one, itself included.
    """

    layer: int
    by: Score | Literal["middle", "outcomes"]
    reason: str
    ties: tuple[int, ...]

    _hint = "train it: al.finetune_layer(model, prompts, layer=choice.layer)"

    def frame(self) -> pd.DataFrame:
        """One row a tied layer, in the order in which to try them: ``layer``, ``recommended``."""
        import pandas as pd

        order = self.tried_order
        return pd.DataFrame(
            {"layer": order, "recommended": [layer == self.layer for layer in order]}
        )

    def _headline(self) -> str:
        return f"LayerChoice: layer {self.layer} by {self.by}; {self.reason}"

    @property
    def tried_order(self) -> tuple[int, ...]:
        """The tied layers, the recommended one first: the order in which to try them."""
        return (self.layer, *(layer for layer in self.ties if layer != self.layer))

    def settled(self, layer: int, reason: str) -> LayerChoice:
        """The choice once a tie was settled by trying the layers.

        Args:
            layer: The layer that won.
            reason: Why, to follow the statement of the tie.
        """
        tied = ", ".join(map(str, self.ties))
        return LayerChoice(
            layer, self.by, f"layers {tied} tie on the {self.by} score; {reason}", self.ties
        )


@dataclass(frozen=True, repr=False)
class LayerScores(Result):
    """Scores of every layer.

    Attributes:
        rows: All scores.
        n_layers: Number of layers of the model.
        form: How well the form of the same prompts alone tells their labels apart, to be read
            beside the probe; None where it was not measured.
        position: Where the residuals were read.
    """

    rows: tuple[LayerScore, ...]
    n_layers: int
    form: FormControl | None = None
    position: Position = LAST

    _figure = "layer_scores"
    _hint = "next: scores.best()"

    def frame(self) -> pd.DataFrame:
        """One row a score.

        Columns: ``layer``, ``score``, ``pair``, ``value``, ``low``, ``high`` (95 % interval),
        ``null_low``, ``null_high`` (95 % band under permuted labels).
        """
        import pandas as pd

        return pd.DataFrame(
            {"layer": row.layer, "score": row.score, "pair": row.pair, **vars(row.measurement)}
            for row in self.rows
        )

    def summary(self) -> dict[str, Any]:
        """``n_layers``, ``scores`` that were taken, the ``best`` layer by each, and ``form``."""
        scores = [name for name in SCORES if any(row.score == name for row in self.rows)]
        best: dict[str, int] = {}
        for name in scores:
            with suppress(UserError):  # not known at any layer
                best[name] = self.best(name).layer
        form = {} if self.form is None else {"form": self.form.summary()}
        return {"n_layers": self.n_layers, "scores": scores, "best": best, **form}

    def _headline(self) -> str:
        best = ", ".join(f"{score} {layer}" for score, layer in self.summary()["best"].items())
        return f"LayerScores: {plural(self.n_layers, 'layer')}; best by {best or 'no score'}"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What should stop a user before training."""
        return self._inseparable() + (() if self.form is None else self.form.warnings)

    def _inseparable(self) -> tuple[str, ...]:
        rows = self._of("probe", "harmful_vs_pseudo_harmful")
        known = [row.measurement.value for row in rows if not math.isnan(row.measurement.value)]
        if not known or max(known) >= _SEPARABLE:
            return ()
        then = ": training one layer will make the model refuse both or answer both"
        if self.position != LAST:
            then = f"; this is at {self.position}, while training acts at the last token"
        return (
            "harmful and pseudo-harmful prompts cannot be told apart at any layer (best linear "
            f"probe {max(known):.2f}, chance 0.50){then}",
        )

    def best(self, by: Score | None = None) -> LayerChoice:
        """The layer that a score recommends.

        Layers within the interval of the best one tie. Of these, the layer is best at which a probe
        tells harmful and pseudo-harmful prompts apart best, then the one nearest to the
        middle of the network: the middle is where the paper picks its layer.

        Args:
            by: Score to go by; by default the causal score where it was measured, else the
                silhouette.

        Raises:
            UserError: If the score is not known or was not measured.
        """
        rows = self._measured(by)
        top = max(rows, key=lambda row: row.measurement.value)
        ties = tuple(
            row.layer for row in rows if row is top or row.measurement.value >= top.measurement.low
        )
        layer = min(ties, key=self._tie_break)
        return LayerChoice(layer, top.score, self._reason(top, layer, ties), ties)

    def ranking(self, by: Score | None = None) -> list[int]:
        """All layers by a score, the best first; equal ones as ``best`` breaks ties.

        Arguments and errors are those of ``best``.
        """
        rows = self._measured(by)
        rows.sort(key=lambda row: (-row.measurement.value, *self._tie_break(row.layer)))
        return [row.layer for row in rows]

    def _measured(self, by: Score | None) -> list[LayerScore]:
        """What a score gave for each layer; of a separation, that of harmful against benign."""
        if by is None:
            by = "causal" if self._of("causal", "all") else "silhouette"
        check_choice("score", by, SCORES)
        pair: Pair | Literal["all"] = "all" if by == "causal" else "harmful_vs_benign"
        rows = [row for row in self._of(by, pair) if not math.isnan(row.measurement.value)]
        if not rows:
            raise UserError(f"score '{by}' was not measured; pass the model to score_layers")
        return rows

    def _of(self, score: Score, pair: Pair | Literal["all"]) -> list[LayerScore]:
        return [row for row in self.rows if row.score == score and row.pair == pair]

    def _probe(self, layer: int) -> float:
        """Accuracy of the probe of harmful against pseudo-harmful prompts; 0 if not measured."""
        accuracies = [
            row.measurement.value
            for row in self._of("probe", "harmful_vs_pseudo_harmful")
            if row.layer == layer and not math.isnan(row.measurement.value)
        ]
        return accuracies[0] if accuracies else 0.0

    def _probe_step(self, layer: int) -> int:
        """That accuracy in steps of 0.02: probes closer than that do not rank layers."""
        return round(self._probe(layer) * 50)

    def _tie_break(self, layer: int) -> tuple[float, float]:
        return -self._probe_step(layer), abs(layer - (self.n_layers - 1) / 2)

    def _reason(self, top: LayerScore, layer: int, ties: tuple[int, ...]) -> str:
        name, best = _NAMES[top.score], f"{top.measurement.value:.2f}"
        if len(ties) == 1:
            return f"layer {layer} has the best {name} ({best})"
        probe, step = self._probe(layer), self._probe_step(layer)
        equals = [tie for tie in ties if self._probe_step(tie) == step]
        well = "best" if len(equals) == 1 else "as well as the best, give or take 0.02"
        apart = f"tells harmful from pseudo-harmful prompts apart {well} (probe {probe:.2f})"
        why = "is nearest to the middle of the network"
        if step > 0:
            why = apart if len(equals) == 1 else f"{apart} and {why}"
        return (
            f"{_layers(ties)} tie on the {name}, whose best is {best} at layer {top.layer}; "
            f"of these, layer {layer} {why}"
        )


def _layers(layers: tuple[int, ...]) -> str:
    """Two or more layers in words, runs of three and more as ranges."""
    parts = [
        part
        for first, last in runs(layers)
        for part in (
            [f"{first} to {last}"] if last > first + 1 else map(str, range(first, last + 1))
        )
    ]
    return f"layers {spell(parts)}"


def score_layers(
    projections: Projections,
    *,
    model: ChatModel | None = None,
    tokens: RefusalTokens | None = None,
    alpha: float = 1.0,
    origin: Origin = "benign_mean",
    rounds: int = 200,
    seed: int = 0,
    store: Store | bool = True,
) -> LayerScores:
    """Score every layer on prompts that its direction was not fitted to.

    ``silhouette`` and ``probe`` see the whole residual (the paper takes the silhouette of t-SNE
    coordinates), ``auroc`` and ``gap`` the projection on the refusal direction. ``causal`` needs
    the model: each prompt is shifted to its just-enough target by a hook, with its label known, and
    the share of pseudo-harmful prompts that then begin an answer and of harmful ones that begin a
    refusal are averaged. It is what a perfect fine-tune of that layer would reach, an upper bound.

    Args:
        projections: Projections of the validation prompts.
        model: Model for the causal score; without it that score is left out.
        tokens: How the model begins refusals; by default taken from its replies to the prompts.
        alpha: Alpha of the targets, for the causal score.
        origin: Origin of the targets, for the causal score; the benign mean for a fitted one.
        rounds: Number of rounds of the bootstrap and of the permutations.
        seed: Seed of the resampling.
        store: Store that keeps the predicted refusal scores: True is the default, False none.

    Raises:
        UserError: If there are fewer than two harmful or benign prompts, the model has another
            shape than the residuals, or ``rounds`` is below 1.
    """
    rounds = check_whole("rounds", rounds, 1)
    if model is not None:
        _check_same_shape(model, projections)
    labels = np.array(projections.prompts.labels)
    for label in ("harmful", "benign"):
        if (labels == label).sum() < 2:
            raise UserError(f"scoring layers needs at least 2 {label} prompts")
    if model is not None:
        tokens = tokens or refusal_tokens(model, projections.prompts, store=store)
    n_layers, origin = projections.residuals.n_layers, fixed_origin(origin)
    rows: list[LayerScore] = []
    causal: list[Measurement] = []
    if model is not None and tokens is not None:
        targets = (
            just_enough_targets(
                projections.residuals, projections.directions, layer, alpha=alpha, origin=origin
            )
            for layer in range(n_layers)
        )
        with stage("causal scores"):
            predicted = predict_refusals_by_layer(model, targets, tokens, store=store)
            causal = [_causal(one) for one in predicted]
    # A thread for each layer: several for the small matrices of one cost more than they save.
    work = Parallel(torch.get_num_threads(), prefer="threads", return_as="generator")
    separate = delayed(partial(_separation, projections, rounds=rounds, seed=seed))
    with threadpool_limits(1, "blas"), stage("layer scores", n_layers) as done:
        for layer, scores in enumerate(work(separate(layer) for layer in range(n_layers))):
            rows += scores
            if causal:
                rows.append(LayerScore(layer, "causal", "all", causal[layer]))
            done(layer + 1)
    form = form_control(projections.prompts, by_part=False, seed=seed)
    return LayerScores(tuple(rows), n_layers, form, projections.residuals.position)


def _check_same_shape(model: ChatModel, projections: Projections) -> None:
    n_layers, _, d_model = projections.residuals.values.shape
    if (model.n_layers, model.d_model) != (n_layers, d_model):
        raise UserError(
            f"'{model.name}' has {model.n_layers} layers of width {model.d_model}, the residuals "
            f"{n_layers} of width {d_model}: collect them from the same model"
        )


def _separation(
    projections: Projections, layer: int, *, rounds: int, seed: int
) -> list[LayerScore]:
    """How far the labels of each pair lie apart at a layer."""
    from sklearn.metrics.pairwise import euclidean_distances

    labels = np.array(projections.prompts.labels)
    residuals = projections.residuals.values[layer].double().numpy()
    # Centred: distances come from products, in which a common offset would drown.
    distances = euclidean_distances(residuals - residuals.mean(axis=0))
    scores = []
    for pair, (positive, negative) in PAIRS.items():
        chosen = np.isin(labels, (positive, negative))
        if (labels == negative).sum() < 2:
            continue
        rng = np.random.default_rng([seed, layer, len(pair)])
        points, apart = residuals[chosen], distances[np.ix_(chosen, chosen)]
        values = projections.values[layer].double().numpy()[chosen]
        high = labels[chosen] == positive
        measurements: dict[Score, Measurement] = {
            "silhouette": silhouette(apart, high, rounds=rounds, rng=rng),
            "auroc": auroc(values, high, rounds=rounds, rng=rng),
            "gap": gap(values, high, rounds=rounds, rng=rng),
            "probe": probe_accuracy(points, high, seed=seed),
        }
        scores += [LayerScore(layer, name, pair, value) for name, value in measurements.items()]
    return scores


def _causal(predicted: PredictedRefusals) -> Measurement:
    """Predicted trade-off score with every prompt at its target.

    Without pseudo-harmful prompts the benign ones stand in, as in ``ranking_score``.
    """
    labels = predicted.prompts.labels
    harmless = "pseudo_harmful" if "pseudo_harmful" in labels else "benign"
    pairs = list(zip(predicted.refused, labels, strict=True))
    answered = [not hit for hit, label in pairs if label == harmless]
    safe = [hit for hit, label in pairs if label == "harmful"]
    score = tradeoff_estimate(*(share_estimate(sum(hits), len(hits)) for hits in (answered, safe)))
    return Measurement(*score[:3], math.nan, math.nan)
