"""Does a model still know what is harmful? Read where the user's text ends, before the template.

A model that answers more may have learnt to tell pseudo-harmful prompts from harmful ones, or may
have lost the sight of harm. The refusal direction, read at the template's last token, cannot tell
the two apart: it is what a run changes. At the last token of the user's text the model has read
the request and has not begun to answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from actor_lens.activations.positions import check_closes
from actor_lens.errors import UserError
from actor_lens.methods.support.tails import tail_residuals
from actor_lens.models.chat_model import ChatModel
from actor_lens.progress import stage
from actor_lens.prompts.rows import PAIRS, Pair
from actor_lens.prompts.sets import PromptSet, require_labels
from actor_lens.results import Result, plain
from actor_lens.statistics.form_control import form_scores
from actor_lens.statistics.separation import Measurement, auroc
from actor_lens.training.run import TrainingRun

if TYPE_CHECKING:
    import pandas as pd

ROUNDS = 1000


@dataclass(frozen=True, eq=False, repr=False)
class Harmfulness(Result):
    """How well a model tells harmful from harmless prompts where the user's text ends.

    The form control beside it says how well length, marks and first words alone do: where that is
    as high, the model need know nothing of harm.

    Attributes:
        model_name: Name of the model.
        prompts: The test prompts.
        scores: How much closer each is to the harmful than to the benign training prompts: mean
            difference of two cosines over the layers, -2 to 2.
        means: Mean of the harmful and of the benign training prompts at every layer.
        auroc: Chance that a harmful prompt has the higher score, by pair of labels.
        form: The same of scores by form alone, fitted on the training prompts.
    """

    model_name: str
    prompts: PromptSet
    scores: Float[np.ndarray, " prompt"]
    means: Float[Tensor, "layer label=2 d_model"]
    auroc: Mapping[Pair, Measurement]
    form: Mapping[Pair, Measurement]

    _hint = "after a run: al.harmfulness(model, prompts) inside run.applied_to(model)"

    def frame(self) -> pd.DataFrame:
        """One row a pair of labels.

        Columns: ``pair``, ``auroc``, ``low``, ``high`` (95 % interval), ``null_low``,
        ``null_high`` (95 % band of chance), ``form``, ``form_low``, ``form_high``, ``n`` (test
        prompts of the two labels).
        """
        import pandas as pd

        labels = self.prompts.labels
        return pd.DataFrame(
            {
                "pair": pair,
                **{"auroc" if key == "value" else key: value for key, value in vars(one).items()},
                "form": self.form[pair].value,
                "form_low": self.form[pair].low,
                "form_high": self.form[pair].high,
                "n": sum(label in PAIRS[pair] for label in labels),
            }
            for pair, one in self.auroc.items()
        )

    def summary(self) -> dict[str, Any]:
        """AUROC of the model and of form alone, with intervals, by pair."""
        return {
            pair: {"model": plain(one), "form": plain(self.form[pair])}
            for pair, one in self.auroc.items()
        }

    def _headline(self) -> str:
        parts = [
            f"{' against '.join(PAIRS[pair]).replace('_', '-')} {one.value:.2f} "
            f"({one.low:.2f}-{one.high:.2f}; form alone {self.form[pair].value:.2f})"
            for pair, one in self.auroc.items()
        ]
        return f"Harmfulness of {self.model_name}, AUROC: {', '.join(parts)}"


def harmfulness(
    model: ChatModel, prompts: PromptSet, *, known: Harmfulness | None = None, seed: int = 0
) -> Harmfulness:
    """How well a model tells harmful test prompts from others at the user's last token.

    Two means are taken of the training prompts, harmful and benign, at every layer at the last
    token of the user's text. A test prompt scores by how much closer it is to the first, as a
    cosine, on average over the layers.

    Args:
        model: The model as it is now, for instance inside ``run.applied_to(model)``.
        prompts: Prompts with a train and a test split.
        known: An earlier result whose means are used in place of new ones: then a direction that
            has only turned counts as lost, too. None to take them from the model as it is now.
        seed: Seed of the resampling.

    Raises:
        UserError: If the chat template puts nothing behind the user's text, or harmful or benign
            prompts to train on, or harmful ones to test, are missing.

    Source: Zhao et al. 2025 (arXiv 2507.11878), there with refused harmful and answered benign
    prompts only.
    """
    read = partial(tail_residuals, model, behind=check_closes(model))
    train, test = prompts["train"], prompts["test"]
    require_labels(train, 1, ("harmful", "benign"), "train")
    require_labels(test, 1, ("harmful",), "test")
    with stage("harmfulness"):
        means = known.means if known is not None else _means(read, train)
        scores = _scores(read(test.texts)[:, 0], means)
    if known is not None and known.prompts == test:
        form = known.form
    else:
        both = replace(prompts, prompts=train.prompts + test.prompts)
        form = _aurocs(form_scores(both, fitted=len(train))[len(train) :], test, seed)
    return Harmfulness(model.name, test, scores, means, _aurocs(scores, test, seed), form)


def harmfulness_of_run(
    model: ChatModel, prompts: PromptSet, run: TrainingRun
) -> tuple[Harmfulness, Harmfulness] | None:
    """``harmfulness`` before and with a run applied, by the means of the untouched model.

    Returns:
        None where it cannot be measured: a template that closes no turn, or a label missing.
    """
    try:
        before = harmfulness(model, prompts)
    except UserError:
        return None
    with run.applied_to(model):
        return before, harmfulness(model, prompts, known=before)


def _means(
    read: Callable[[Sequence[str]], Tensor], prompts: PromptSet
) -> Float[Tensor, "layer label=2 d_model"]:
    parts = [
        read(prompts.where(label=label).texts)[:, 0].double().mean(dim=1)
        for label in ("harmful", "benign")
    ]
    return torch.stack(parts, dim=1).float()


def _scores(
    ends: Float[Tensor, "layer prompt d_model"], means: Float[Tensor, "layer label=2 d_model"]
) -> Float[np.ndarray, " prompt"]:
    cosines = torch.cosine_similarity(ends[:, :, None].double(), means[:, None].double(), dim=-1)
    scores: np.ndarray = (cosines[..., 0] - cosines[..., 1]).mean(dim=0).numpy()
    return scores


def _aurocs(
    scores: Float[np.ndarray, " prompt"], prompts: PromptSet, seed: int
) -> dict[Pair, Measurement]:
    """Of every pair that has test prompts of both labels."""
    labels, found = np.array(prompts.labels), {}
    for pair, (positive, negative) in PAIRS.items():
        rows = np.isin(labels, (positive, negative))
        if negative in labels:
            rng = np.random.default_rng(seed)
            is_positive = labels[rows] == positive
            found[pair] = auroc(scores[rows], is_positive, rounds=ROUNDS, rng=rng)
    return found
