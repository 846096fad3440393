"""How well a model predicts running text: perplexity with a sliding window."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from actor_lens.errors import UserError, check_whole
from actor_lens.evaluation.divergence import Applicable
from actor_lens.files.paths import user_path
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.checkpoint_checks import check_embedded
from actor_lens.models.finite import check_finite
from actor_lens.progress import report
from actor_lens.prompts.rows import shown
from actor_lens.results import Result
from actor_lens.text import plural

DEFAULT_WINDOW = 1024


@dataclass(frozen=True, repr=False)
class Perplexity(Result):
    """How well a model predicts a text.

    Attributes:
        value: ``exp`` of the mean negative log-likelihood of a token.
        nats: Mean negative log-likelihood of a token, in nats.
        tokens: Number of predicted tokens: all of the text but, where the tokenizer has no
            beginning-of-sequence token, the first.
        window: Most tokens in one forward pass.
        stride: Tokens by which the window moves on.
        text: Name of the file that was read, or the beginning of the text.
    """

    value: float
    nats: float
    tokens: int
    window: int
    stride: int
    text: str

    def frame(self) -> pd.DataFrame:
        """One row: ``text``, ``perplexity``, ``nats``, ``tokens``, ``window``, ``stride``."""
        settings = {"tokens": self.tokens, "window": self.window, "stride": self.stride}
        row = {"text": self.text, "perplexity": self.value, "nats": self.nats, **settings}
        return pd.DataFrame([row])

    def _headline(self) -> str:
        passes = f"window {self.window}, stride {self.stride}"
        return f"Perplexity: {self.value:.4g} over {plural(self.tokens, 'token')} ({passes})"


class Window(NamedTuple):
    """One forward pass: tokens ``start`` to ``end`` are read, those from ``first`` are scored."""

    start: int
    first: int
    end: int


def perplexity(
    model: ChatModel,
    path_or_text: str | Path,
    *,
    run: Applicable | None = None,
    window: int | None = None,
    stride: int | None = None,
) -> Perplexity:
    """Perplexity of a plain text under a model, each token predicted once.

    The text is taken as it is, without the chat template: WikiText-2 as it is distributed, say. The
    window moves on by ``stride`` tokens, and only tokens that no earlier window has predicted
    count, so that all but the first window's have at least ``window - stride`` tokens before them.
    Figures are comparable between models with one tokenizer, and for one window and stride.

    Args:
        model: The model as it is now.
        path_or_text: A UTF-8 text file: a ``Path``, or the name of a file that exists. Any other
            string is the text itself.
        run: A run or another fitted method that is put in place meanwhile.
        window: Most tokens in one pass; None for 1,024 or what the model takes, if that is less.
        stride: From 1 to ``window``; None for half the window.

    Raises:
        UserError: If the file cannot be read or is not UTF-8, the text holds no token to predict,
            or window or stride are out of range.

    Source: Jelinek et al. 1977 (perplexity).
    """
    text, name = read_text(path_or_text)
    window, stride = _window_and_stride(model, window, stride)
    ids, predicted = _token_ids(model, text, name)
    with nullcontext(model) if run is None else run.applied_to(model) as asked:
        total = 0.0
        for place in windows(len(ids), window, stride):
            total += _negative_log_likelihood(asked, ids, place)
            report(place.end - (len(ids) - predicted), predicted)
    nats = total / predicted
    return Perplexity(_exp(nats), nats, predicted, window, stride, name)


def check_text(
    model: ChatModel,
    path_or_text: str | Path,
    *,
    window: int | None = None,
    stride: int | None = None,
) -> None:
    """Check what ``perplexity`` would refuse, without asking the model. Arguments as there.

    Raises:
        UserError: As ``perplexity``.
    """
    text, name = read_text(path_or_text)
    _window_and_stride(model, window, stride)
    _token_ids(model, text, name)


def windows(tokens: int, window: int, stride: int) -> Iterator[Window]:
    """The passes over a text: together they score the tokens from 1 on, each of them once.

    Args:
        tokens: Number of tokens of the whole text; the first one is never scored.
        window: Most tokens in a pass.
        stride: Tokens by which the window moves on.
    """
    start, scored = 0, 1
    while scored < tokens:
        end = min(start + window, tokens)
        yield Window(start, scored, end)
        start, scored = start + stride, end


def read_text(path_or_text: str | Path) -> tuple[str, str]:
    """The text, and what to call it: the file, or the beginning of the text.

    Raises:
        UserError: If the file cannot be read or is not UTF-8.
    """
    if isinstance(path_or_text, str) and not _is_file(path_or_text):
        return path_or_text, shown(path_or_text)
    try:
        # newline="": the characters of the file, as tokenizers meet them elsewhere.
        with user_path(path_or_text).open(encoding="utf-8", newline="") as file:
            return file.read(), str(path_or_text)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path_or_text}: is not UTF-8 (byte {error.start}); convert it to UTF-8"
        ) from error
    except OSError as error:
        raise UserError(
            f"{path_or_text}: cannot be read ({error.strerror or error}); give a UTF-8 text file"
        ) from error


def _is_file(text: str) -> bool:
    try:
        return user_path(text).is_file()
    except (OSError, ValueError):  # too long for a name, or with a null character in it
        return False


def _window_and_stride(model: ChatModel, window: int | None, stride: int | None) -> tuple[int, int]:
    window = min(DEFAULT_WINDOW, model.max_tokens) if window is None else window
    window = check_whole("window", window, 2, model.max_tokens)
    stride = max(1, window // 2) if stride is None else stride
    # One token of a later window is only read: nothing before it in that window predicts it.
    return window, check_whole("stride", stride, 1, window - 1)


def _token_ids(model: ChatModel, text: str, name: str) -> tuple[list[int], int]:
    """Token ids, a beginning-of-sequence token first where there is one; how many are predicted."""
    # verbose=False: a text longer than the model is what the window is for.
    ids: list[int] = model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    bos = model.tokenizer.bos_token_id
    if bos is not None:
        ids = [int(bos), *ids]
    check_embedded(model.name, model.hf, model.tokenizer, [ids])
    if len(ids) < 2:
        raise UserError(f"{name}: holds no text to predict; give a file with some text")
    return ids, len(ids) - 1


def _negative_log_likelihood(model: ChatModel, ids: list[int], place: Window) -> float:
    """Sum over the scored tokens of a window, in nats."""
    inputs = torch.tensor([ids[place.start : place.end]], device=model.device)
    scored = place.end - place.first
    with torch.no_grad():
        # One more than is scored: the last one predicts what the next window scores.
        output: Any = model.hf(input_ids=inputs, use_cache=False, logits_to_keep=scored + 1)
    logits: Tensor = output.logits[0, :-1]
    check_finite(model, logits, "logits")
    targets = inputs[0, -scored:].to(logits.device)
    total = 0.0
    # In parts: float64 logits of a window and a large vocabulary take gigabytes.
    for part, ids_of_part in zip(torch.split(logits, 128), torch.split(targets, 128), strict=True):
        log_likelihoods = part.double().log_softmax(-1).gather(1, ids_of_part[:, None])
        total -= float(log_likelihoods.sum())
    return total


def _exp(nats: float) -> float:
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf
