"""Methods whose replies are planted: each says of every prompt beforehand whether it refuses.

They change the model's way of decoding, so that a reply is the letter ``z`` (a refusal for
``JUDGE``) or ``a``. No weight is touched.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import LogitsProcessor

from actor_lens.judges.keywords import KeywordJudge
from actor_lens.models.chat_model import ChatModel
from actor_lens.prompts.sets import PromptSet
from tests.support.studies import TEXTS

JUDGE = KeywordJudge(name="planted", phrases=("^z",), exempt=())
REFUSAL, ANSWER = "z", "a"


def label_of(prompt: str) -> str:
    """The label of a planted prompt, told by its beginning."""
    return next(label for label, text in TEXTS.items() if prompt[:12] == text[:12])


class _Forced(LogitsProcessor):
    def __init__(self, ids: Sequence[int]) -> None:
        self.ids = ids

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        del input_ids
        forced = torch.full_like(scores, -20.0)
        forced[torch.arange(len(self.ids)), torch.tensor(self.ids)] = 20.0
        return forced


@dataclass(frozen=True)
class PlantedFit:
    refused: Mapping[str, float]
    seed: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    chosen: tuple[str, ...] = ("share",)
    trained_parameters: int = 7

    @contextmanager
    def applied_to(self, model: ChatModel) -> Iterator[ChatModel]:
        def decoding(prompts: Sequence[str]) -> LogitsProcessor:
            return _Forced([self._token(model, prompt) for prompt in prompts])

        yield replace(model, decoding=decoding)

    def _token(self, model: ChatModel, prompt: str) -> int:
        luck = random.Random(f"{self.seed} {prompt}").random()
        text = REFUSAL if luck < self.refused.get(label_of(prompt), 0.0) else ANSWER
        return model.tokenizer(text, add_special_tokens=False)["input_ids"][0]


@dataclass(frozen=True)
class Planted:
    """Refuses each label with a chance of its own; without chance it has no use for a seed."""

    name: str
    refused: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0

    def fit(self, model: ChatModel, train: PromptSet, validation: PromptSet) -> PlantedFit:
        del model, train, validation
        return PlantedFit(self.refused, self.seed, {"share": dict(self.refused)})


@dataclass(frozen=True)
class Fixed:
    """The same without a seed: refuses these labels."""

    name: str
    labels: tuple[str, ...] = ()

    def fit(self, model: ChatModel, train: PromptSet, validation: PromptSet) -> PlantedFit:
        del model, train, validation
        return PlantedFit(dict.fromkeys(self.labels, 1.0), 0)


@dataclass(frozen=True)
class Failing:
    """Raises what it is given."""

    error: BaseException
    name: str = "failing"

    def fit(self, model: ChatModel, train: PromptSet, validation: PromptSet) -> PlantedFit:
        del model, train, validation
        raise self.error


ALWAYS = Fixed("always", ("harmful", "pseudo_harmful", "benign"))
NEVER = Fixed("never")
PERFECT = Fixed("actor", ("harmful",))
