"""How well the form of prompts alone tells their labels apart: the control beside every probe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from actor_lens.prompts.form import FORM_PARTS, FormPart, form_features
from actor_lens.prompts.rows import PAIRS, Pair
from actor_lens.prompts.sets import PromptSet
from actor_lens.results import Result
from actor_lens.statistics.separation import Measurement, probe_accuracy

if TYPE_CHECKING:
    import pandas as pd

# From this balanced accuracy on form is said to explain the labels. Chance is 0.5; prompts in trios
# of one form and topic reached 0.51 to 0.75, XSTest with its contrast prompts 0.62.
_EXPLAINS = 0.8
# So few prompts of a label are told apart by almost anything.
_ENOUGH = 20


@dataclass(frozen=True)
class FormScore:
    """How well one part of the form, or all of it, tells two labels apart.

    Attributes:
        pair: The two labels.
        part: Part of the form; ``"all"`` for all parts together.
        accuracy: Balanced accuracy, cross-validated.
        n: Number of prompts of the label with fewer.
    """

    pair: Pair
    part: FormPart | Literal["all"]
    accuracy: Measurement
    n: int


@dataclass(frozen=True, repr=False)
class FormControl(Result):
    """How well form alone tells labels apart; 0.5 is chance.

    Where it does so well, labels that a probe, a direction or a score tell apart may differ in form
    alone. Where it does not, these are not explained by what is measured here; there may be other
    differences beside harm.

    Attributes:
        scores: Scores of all pairs and parts.
    """

    scores: tuple[FormScore, ...]

    _hint = "prompts of one form: al.prompts.balance_form(prompts)"

    def frame(self) -> pd.DataFrame:
        """One row a pair and part.

        Columns: ``pair``, ``part``, ``accuracy`` (balanced), ``low``, ``high`` (95 % interval),
        ``null_low``, ``null_high`` (95 % band of chance), ``n`` (prompts of the label with fewer).
        """
        import pandas as pd

        columns = {"value": "accuracy"}
        return pd.DataFrame(
            {"pair": one.pair, "part": one.part, **vars(one.accuracy), "n": one.n}
            for one in self.scores
        ).rename(columns=columns)

    def summary(self) -> dict[str, Any]:
        """The accuracy of all parts together, by pair."""
        return {one.pair: one.accuracy.value for one in self._all()}

    @property
    def warnings(self) -> tuple[str, ...]:
        """One line for each pair that form alone tells apart, with what to do."""
        return tuple(
            f"form alone (length, last mark, first word, characters) tells {_text(one.pair)} "
            f"prompts apart (balanced accuracy {one.accuracy.value:.2f}, chance 0.50): probe, "
            "direction and training may follow form, not harm; use twin prompts of one form, "
            "XSTest's contrast prompts, or --balance form"
            for one in self._all()
            if one.n >= _ENOUGH and one.accuracy.value >= _EXPLAINS
        )

    def _all(self) -> list[FormScore]:
        return [one for one in self.scores if one.part == "all"]

    def _headline(self) -> str:
        shares = ", ".join(f"{_text(one.pair)} {one.accuracy.value:.2f}" for one in self._all())
        return f"FormControl: balanced accuracy of form alone: {shares or 'no two labels'}"

    def _next(self) -> str:
        return "; ".join((*self.warnings, super()._next()))


def form_control(prompts: PromptSet, *, by_part: bool = True, seed: int = 0) -> FormControl:
    """How well length, last mark, first word and counts of characters tell the labels apart.

    A linear probe on these features, cross-validated, as the probe on residuals: see
    ``probe_accuracy``. Pairs of labels with fewer than two prompts are left out.

    Args:
        prompts: Prompts of at least two labels.
        by_part: Whether to score each part of the form by itself, too.
        seed: Seed of the folds.
    """
    labels = np.array(prompts.labels)
    scores = []
    for pair, (positive, negative) in PAIRS.items():
        n = int(min((labels == positive).sum(), (labels == negative).sum()))
        if n < 2:
            continue
        rows = np.flatnonzero(np.isin(labels, (positive, negative)))
        features = form_features(prompts.select(rows.tolist()).texts)
        parts: dict[FormPart | Literal["all"], Float[np.ndarray, "prompt feature"]] = {
            "all": np.concatenate(list(features.values()), axis=1)
        }
        if by_part:
            parts |= {part: features[part] for part in FORM_PARTS}
        for part, points in parts.items():
            if not points.shape[1]:  # no word is common
                points = np.zeros((len(points), 1))
            accuracy = probe_accuracy(points, labels[rows] == positive, seed=seed)
            scores.append(FormScore(pair, part, accuracy, n))
    return FormControl(tuple(scores))


def form_scores(prompts: PromptSet, *, fitted: int | None = None) -> Float[np.ndarray, " prompt"]:
    """How much each prompt looks like the harmful ones, by its form alone.

    The least-squares prediction, with a ridge, of harmful (1) against all other prompts (0).

    Args:
        prompts: Harmful and other prompts.
        fitted: How many of them, from the first, the prediction is fitted on; None for all.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    points = np.concatenate(list(form_features(prompts.texts).values()), axis=1)
    harmful = np.array(prompts.labels) == "harmful"
    model = make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(0, 5, 6)))
    predicted: np.ndarray = model.fit(points[:fitted], harmful[:fitted].astype(float)).predict(
        points
    )
    return predicted


def _text(pair: Pair) -> str:
    return " from ".join(label.replace("_", "-") for label in PAIRS[pair])
