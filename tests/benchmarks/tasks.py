"""What is timed: this library's way of doing things, and the ways it is compared with."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from actor_lens.activations.residuals import BlockInputs, collect_residuals
from actor_lens.activations.store import Store
from actor_lens.experiments.sweep.layer_sweep import sweep_layers
from actor_lens.models.batches import TokenBatch, run_in_batches
from actor_lens.models.blocks import graft
from actor_lens.models.chat_model import ChatModel
from actor_lens.prompts.sets import PromptSet
from actor_lens.training.block_trainer import BlockTrainer
from actor_lens.training.config import FinetuneConfig
from actor_lens.training.finetuning import finetune_layer
from tests.benchmarks.job import BenchSettings

Result = TypeVar("Result")
Measured = dict[str, Any]
"""What a task measured, as JSON can hold it; ``state`` are trained tensors for a file."""


def collection(model: ChatModel, prompts: PromptSet, settings: BenchSettings) -> Measured:
    """Residuals of all layers, a plain forward pass, and TransformerLens with every hook.

    All three take the same batches, in turn, ``repeats`` times. The plain pass is what
    transformers does on its own: the base model with its default attention and no gradients.
    """
    token_ids = model.tokenize(prompts.texts)
    batches: list[TokenBatch] = []
    run_in_batches(model, token_ids, batches.append)

    def ours() -> None:
        collect_residuals(model, prompts, store=False)

    def plain() -> None:
        with torch.no_grad():
            for batch in batches:
                model.hf.base_model(
                    input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
                )

    def all_hooks() -> None:
        with torch.no_grad():
            for batch in batches:
                model.bridge.run_with_cache(batch.input_ids, attention_mask=batch.attention_mask)

    seconds: dict[str, list[float]] = {"ours": [], "plain": [], "all_hooks": []}
    for number in range(settings.repeats + 1):
        times = {"ours": timed(ours, model)[0]}
        model.hf.set_attn_implementation(_default_attention(model))
        try:
            times["plain"] = timed(plain, model)[0]
        finally:
            model.hf.set_attn_implementation("eager")
        times["all_hooks"] = timed(all_hooks, model)[0]
        if number > 0:  # the first warms up
            for name, value in times.items():
                seconds[name].append(value)
    return {"tokens": sum(map(len, token_ids)), "rounds": seconds}


def collect(model: ChatModel, prompts: PromptSet, settings: BenchSettings) -> Measured:
    """Residuals of all layers, written into a store."""
    store = Store(settings.store)
    collect_residuals(model, prompts[:8], store=False)  # warms up
    seconds, _ = timed(lambda: collect_residuals(model, prompts, store=store), model)
    return {"seconds": seconds, "tokens": sum(map(len, model.tokenize(prompts.texts)))}


def actor(model: ChatModel, prompts: PromptSet, settings: BenchSettings) -> Measured:
    """ACTOR on cached inputs: collecting them and training, nothing else."""
    config = FinetuneConfig(layer=settings.layer, epochs=settings.epochs)
    seconds, run = timed(lambda: finetune_layer(model, prompts, config, store=False), model)
    return {"seconds": seconds, "parts": dict(run.seconds), "state": dict(run.state)}


def naive_actor(model: ChatModel, prompts: PromptSet, settings: BenchSettings) -> Measured:
    """ACTOR without a cache: every step runs the model from the tokens to the end of the block."""
    config = FinetuneConfig(layer=settings.layer, epochs=settings.epochs)

    def train() -> dict[str, Tensor]:
        trainer = _FromTokens(model, config, prompts)
        while trainer.step < trainer.total_steps:
            trainer.take_step()
        prefix = model.block_prefix(config.layer)
        return {
            prefix + name: tensor.detach().to("cpu", model.hf.dtype)
            for name, tensor in trainer.block.state_dict().items()
        }

    seconds, state = timed(train, model)
    return {"seconds": seconds, "state": state}


def sft(model: ChatModel, prompts: PromptSet, settings: BenchSettings) -> Measured:
    """Supervised fine-tuning of every parameter on replies of ``reply_tokens`` tokens.

    The replies are random tokens: what they say costs nothing and harms nobody. AdamW, the
    library's default attention, the same prompts, epochs and batch size as ACTOR.
    """
    model.hf.set_attn_implementation(_default_attention(model))
    model.hf.requires_grad_(True)
    token_ids = model.tokenize(prompts.texts, room=settings.reply_tokens)
    seconds, _ = timed(lambda: _train_on_replies(model, token_ids, settings), model)
    return {"seconds": seconds}


def sweep(model: ChatModel, prompts: PromptSet, settings: BenchSettings) -> Measured:
    """Every layer trained once, on one collection of block inputs; outcomes are not scored."""
    shared = FinetuneConfig(layer=0, epochs=settings.epochs)
    seconds, outcomes = timed(
        lambda: sweep_layers(model, prompts, settings=shared, store=False), model
    )
    return {"seconds": seconds, "parts": dict(outcomes.seconds)}


TASKS: Mapping[str, Callable[[ChatModel, PromptSet, BenchSettings], Measured]] = {
    task.__name__: task for task in (collection, collect, actor, naive_actor, sft, sweep)
}


class _FromTokens(BlockTrainer):
    """A trainer that computes each batch's activations from its tokens, at every step."""

    def __init__(self, model: ChatModel, config: FinetuneConfig, prompts: PromptSet) -> None:
        self._token_ids = model.tokenize(prompts.texts)
        super().__init__(model, config, BlockInputs(config.layer, (), prompts))

    def _n_tokens(self, row: int) -> int:
        return len(self._token_ids[row])

    def _forward(self, rows: list[int]) -> Tensor:
        parts: dict[int, Tensor] = {}

        def run(batch: TokenBatch) -> None:
            end = _EndOfPass(self.block)
            with suppress(_Done):
                graft(self._model, {self.config.layer: end}).base_model(
                    input_ids=batch.input_ids,
                    attention_mask=batch.attention_mask,
                    position_ids=batch.position_ids,
                    use_cache=False,
                )
            parts.update(zip(batch.indices, end.last_token, strict=True))

        ids = [self._token_ids[row] for row in rows]
        run_in_batches(self._model.with_batch_size(len(rows)), ids, run)
        return torch.stack([parts[place] for place in range(len(rows))])


class _Done(Exception):
    """Ends a pass."""


class _EndOfPass(nn.Module):
    """Runs the block in training on all tokens, keeps its output at the last, ends the pass."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        output = self.block(hidden_states.float(), *args, **kwargs)
        states: Tensor = output[0] if isinstance(output, tuple) else output
        self.last_token = states[:, -1]
        raise _Done


def _train_on_replies(
    model: ChatModel, token_ids: Sequence[Sequence[int]], settings: BenchSettings
) -> None:
    length, batch_size = settings.reply_tokens, FinetuneConfig.batch_size
    generator = torch.Generator().manual_seed(0)
    vocabulary = int(model.hf.config.vocab_size)
    replies = torch.randint(vocabulary, (len(token_ids), length), generator=generator, device="cpu")
    exchanges = [[*ids, *reply] for ids, reply in zip(token_ids, replies.tolist(), strict=True)]
    optimizer = torch.optim.AdamW(model.hf.parameters(), lr=1e-5, fused=True)

    def step(batch: TokenBatch) -> None:
        labels = batch.input_ids.clone()
        labels[:, :-length] = -100  # replies stand at the right end: padding is on the left
        output = model.hf(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=labels
        )
        optimizer.zero_grad(set_to_none=True)
        output.loss.backward()
        optimizer.step()

    with torch.enable_grad():
        for _ in range(settings.epochs):
            run_in_batches(model.with_batch_size(batch_size), exchanges, step)


def _default_attention(model: ChatModel) -> str:
    """The attention that transformers uses by default."""
    return "sdpa" if getattr(model.hf, "_supports_sdpa", False) else "eager"


def timed(work: Callable[[], Result], model: ChatModel) -> tuple[float, Result]:
    """Seconds that some work takes, and its result."""
    gc.collect()
    _wait(model)
    started = time.perf_counter()
    result = work()
    _wait(model)
    return time.perf_counter() - started, result


def _wait(model: ChatModel) -> None:
    """A GPU works on after a call returns."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
