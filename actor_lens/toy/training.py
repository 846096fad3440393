"""Training the bundled chat model from scratch, in two stages.

Stage one is instruction following over the toy language, with everyday knowledge of what is
harmful. Stage two is alignment: harmful requests are refused, benign ones answered, and a few
pseudo-harmful prompts carry over-cautious labels. Over-refusal of all the others emerges from it.

Source: the two-stage set-up follows what "Just Enough Shifts" (Dabas et al. 2025, arXiv
2507.04250) assumes of a chat model: helpful first, aligned afterwards.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from actor_lens import progress
from actor_lens.toy.language import Exchange
from actor_lens.toy.tokenizer import CONTEXT

IGNORED = -100
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "Answer in one or two sentences.",
    "You are a kind and careful assistant.",
    "Be brief.",
)
_SYSTEM_SHARE = 0.05
# Batches are cut from chunks sorted by length: little padding, and still well mixed.
_BATCHES_PER_CHUNK = 16


@dataclass(frozen=True)
class Stage:
    """How one stage of training runs.

    Attributes:
        name: Name that is shown with the progress.
        steps: Number of optimiser steps.
        learning_rate: Learning rate at the peak, after the warm-up.
        batch_size: Number of exchanges in a step.
        warm_up: Number of steps until the peak; then a cosine leads down to a twentieth of it.
    """

    name: str
    steps: int
    learning_rate: float
    batch_size: int = 64
    warm_up: int = 40

    @property
    def exchanges(self) -> int:
        """Exchanges that the whole stage reads."""
        return self.steps * self.batch_size

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        if step < self.warm_up:
            return self.learning_rate * (step + 1) / self.warm_up
        done = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        return self.learning_rate * (0.525 + 0.475 * math.cos(math.pi * done))


STAGE_ONE = Stage("instruction following", steps=1400, learning_rate=2e-3, batch_size=32)
STAGE_TWO = Stage("alignment", steps=120, learning_rate=4e-4, batch_size=32, warm_up=20)


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """An untrained model of the bundled model's shape: 8 blocks, 1.7 million parameters."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def train_stage(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    exchanges: Sequence[Exchange],
    stage: Stage,
    *,
    seed: int,
) -> None:
    """Train the model in place on the reply tokens of the exchanges, each read once."""
    model.train()
    optimiser = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=stage.learning_rate,
        betas=(0.9, 0.95),
        weight_decay=0.05,
    )
    rows = encode_exchanges(tokenizer, exchanges, seed)
    with progress.stage(stage.name, stage.steps) as done:
        for step, batch in enumerate(_batches(rows, stage, seed)):
            for group in optimiser.param_groups:
                group["lr"] = stage.rate(step)
            loss = _loss(model, batch)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            done(step + 1)
    model.train(False)


@dataclass(frozen=True)
class Row:
    """Token ids of a whole exchange, and where its reply begins."""

    ids: tuple[int, ...]
    reply_start: int


def encode_exchanges(
    tokenizer: PreTrainedTokenizerFast, exchanges: Sequence[Exchange], seed: int
) -> list[Row]:
    """Template and encode exchanges; a small share gets a system turn."""
    rng = random.Random(f"system turns {seed}")
    heads = []
    for exchange in exchanges:
        turns = [{"role": "user", "content": exchange.prompt}]
        if rng.random() < _SYSTEM_SHARE:
            turns.insert(0, {"role": "system", "content": rng.choice(SYSTEM_PROMPTS)})
        heads.append(
            tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        )
    tails = [exchange.reply + str(tokenizer.eos_token) for exchange in exchanges]
    head_ids = tokenizer(heads, add_special_tokens=False)["input_ids"]
    tail_ids = tokenizer(tails, add_special_tokens=False)["input_ids"]
    return [Row((*head, *tail), len(head)) for head, tail in zip(head_ids, tail_ids, strict=True)]


def _batches(rows: Sequence[Row], stage: Stage, seed: int) -> Iterator[list[Row]]:
    rng = random.Random(f"batches {seed}")
    size = stage.batch_size
    for start in range(0, stage.exchanges, size * _BATCHES_PER_CHUNK):
        chunk = sorted(
            rows[start : min(start + size * _BATCHES_PER_CHUNK, stage.exchanges)],
            key=lambda row: len(row.ids),
        )
        batches = [chunk[i : i + size] for i in range(0, len(chunk), size)]
        yield from rng.sample(batches, len(batches))


def _loss(model: LlamaForCausalLM, batch: Sequence[Row]) -> Tensor:
    """Mean cross-entropy of the reply tokens; right-padded, so causal attention needs no mask."""
    width = max(len(row.ids) for row in batch)
    pad = int(model.config.pad_token_id or 0)
    ids = torch.full((len(batch), width), pad)
    labels = torch.full((len(batch), width), IGNORED)
    for i, row in enumerate(batch):
        tokens = torch.tensor(row.ids)
        ids[i, : len(tokens)] = tokens
        labels[i, row.reply_start : len(tokens)] = tokens[row.reply_start :]
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    wanted = labels[:, 1:]
    # Logits are computed at reply tokens only: prompts are half of the tokens.
    mask = wanted != IGNORED
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[mask]), wanted[mask])
