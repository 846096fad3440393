"""Fitting methods on tiny random models, which refuse nothing: their refusal tokens are made up."""

from __future__ import annotations

import pytest

from actor_lens.methods import make_method
from actor_lens.models.chat_model import ChatModel
from actor_lens.prompts.sets import PromptSet
from tests.support.steering import some_refusal_tokens
from tests.support.tiny_runs import tiny_prompts

_TRAINED = (
    "actor",
    "actor-auto",
    "actor-raw",
    "uniform-shift",
    "control-random-direction",
    "control-shuffled-labels",
    "control-form-direction",
)
# Fewer steps and candidates, where a method has such settings.
QUICK: dict[str, dict[str, object]] = {name: {"epochs": 2, "trials": 1} for name in _TRAINED}
for _name in ("alphasteer", "alphasteer-inverted"):
    QUICK[_name] = {"shares": (0.5,), "layers": 2}
QUICK["actor-auto"] |= {"alphas": (1.0,), "lrs": (1e-3,)}
QUICK["llm-va"] = {"rounds": 1}
QUICK["angular"] = {"step": 90.0}


def train_prompts() -> PromptSet:
    """A few prompts of each label."""
    return tiny_prompts(4, split="train")


def validation_prompts() -> PromptSet:
    """Others."""
    return tiny_prompts(3, split="validation", offset=20)


def make_up_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let half the vocabulary begin refusals."""
    monkeypatch.setattr("actor_lens.methods.support.selection.refusal_tokens", some_refusal_tokens)


def quickly_fitted(name: str, model: ChatModel):
    """A method of the registry, fitted on a few prompts."""
    method = make_method(name, **QUICK.get(name, {}))
    return method.fit(model, train_prompts(), validation_prompts())
