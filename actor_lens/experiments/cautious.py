"""Training the adapter that makes SmolLM2 over-cautious, for the model ``smollm2-cautious``.

SmolLM2 refuses next to nothing, so there is nothing to repair. A small adapter (LoRA) teaches it
to: harmful requests get a refusal, benign ones the reply that the model gives anyway, and a few
pseudo-harmful ones a refusal, as from an over-cautious labeller. What the model refuses beyond
those few is over-refusal that emerged, in real English.

No answer to a harmful request is written: they are met by a refusal or not at all.
"""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from actor_lens.evaluation.evaluate import Evaluation, evaluate
from actor_lens.files.bundled import bundled
from actor_lens.files.paths import user_path
from actor_lens.files.saving import replacing_folder
from actor_lens.methods.lora_sft import adapted_twin, merged_weights
from actor_lens.methods.support.reply_data import ReplyExample, encoded
from actor_lens.methods.support.reply_training import train_step
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.replies import generate_replies
from actor_lens.models.smollm2 import HUB_NAME
from actor_lens.models.weights import overwritten
from actor_lens.progress import stage
from actor_lens.prompts.loading import load_prompts
from actor_lens.prompts.rows import LABELS, Prompt
from actor_lens.prompts.sets import PromptSet
from actor_lens.results import Result, plain
from actor_lens.text import percent

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROMPTS = "cautious"
REFUSALS = "prompts/refusals.txt"
"""Refusals that fit any request, one a line, in the data folder."""
_BATCHES_PER_CHUNK = 8


@dataclass(frozen=True)
class Recipe:
    """How the adapter is trained; the bundled one was made with these values.

    Attributes:
        mislabelled: Number of pseudo-harmful prompts that get a refusal.
        epochs: Passes over the prompts.
        lr: Learning rate of AdamW at the peak, after the warm-up; a cosine leads down from it.
        warm_up: Steps until the peak.
        batch_size: Exchanges in a step.
        rank: Rank of the adapter.
        scale: LoRA's alpha.
        reply_tokens: Longest own reply to a benign prompt, in tokens.
    """

    mislabelled: int = 70
    epochs: int = 3
    lr: float = 8e-4
    warm_up: int = 15
    batch_size: int = 16
    rank: int = 8
    scale: float = 16.0
    reply_tokens: int = 20

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of a step, counted from 0."""
        done = step / max(1, steps)
        warm = min(1.0, (step + 1) / self.warm_up)
        return self.lr * warm * (0.525 + 0.475 * math.cos(math.pi * done))


@dataclass(frozen=True, repr=False)
class CautiousReport(Result):
    """What a training of the adapter made, and what it measured.

    Attributes:
        adapter: Folder of the adapter, as PEFT saves one.
        base: Model that it was trained on.
        seed: Seed of the adapter's first weights, the order and the choice of refusals.
        examples: Number of exchanges.
        parameters: Number of trained numbers.
        evaluation: Replies to the test prompts of ``starter``, of which none was trained on.
        seconds: Wall time of the whole training.
    """

    adapter: Path
    base: str
    seed: int
    examples: int
    parameters: int
    evaluation: Evaluation
    seconds: float

    _hint = "use it: al.load_model('smollm2', adapter=report.adapter)"

    def summary(self) -> dict[str, Any]:
        """The record that ``summary.json`` holds."""
        record: dict[str, Any] = plain({**vars(self), "evaluation": None, "refused": self.refused})
        del record["evaluation"]
        return record

    @property
    def refused(self) -> dict[str, float]:
        """Refusal rate of each label on the test prompts."""
        return {label: self.evaluation.rate(label).refused for label in LABELS}

    def _headline(self) -> str:
        refused = ", ".join(f"{label} {percent(share)}" for label, share in self.refused.items())
        return f"Adapter for {self.base}, {self.examples} exchanges; refused: {refused}"


def train_cautious(
    out: str | os.PathLike[str],
    model: ChatModel,
    *,
    seed: int = 0,
    prompts: PromptSet | None = None,
    test: PromptSet | None = None,
    recipe: Recipe | None = None,
    base: str = HUB_NAME,
) -> CautiousReport:
    """Train an adapter with which a model refuses too much, and save it as PEFT does.

    What is in the folder stays until the adapter is finished. The same seed gives the same adapter
    on one machine with one number of threads.

    Args:
        out: Folder of the adapter; made if missing.
        model: The model to make over-cautious, of the Llama kind; it is left as it is.
        seed: Seed of the adapter's first weights, the order and the choice of refusals.
        prompts: Prompts to train on; the bundled ``cautious`` ones unless given.
        test: Prompts to measure the result on; the test split of ``starter`` unless given.
        recipe: Settings of the training; those of the bundled adapter unless given.
        base: Name of the base model that the adapter will bear.

    Raises:
        UserError: If the folder cannot be written, or PEFT is not installed.
    """
    started = time.perf_counter()
    recipe = recipe or Recipe()
    with stage("own replies"):
        examples = exchanges(model, prompts or load_prompts(PROMPTS), recipe, seed)
    with replacing_folder(out) as folder:
        adapted = adapted_twin(model, rank=recipe.rank, scale=recipe.scale, seed=seed)
        _train(adapted, examples, recipe, seed)
        _save(adapted, base, folder)
        state = merged_weights(adapted)
        parameters = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
        with stage("replies (test)"), overwritten(model.hf, state):
            evaluation = evaluate(model, test or load_prompts("starter")["test"], store=False)
    return CautiousReport(
        adapter=user_path(out),
        base=base,
        seed=seed,
        examples=len(examples),
        parameters=parameters,
        evaluation=evaluation,
        seconds=time.perf_counter() - started,
    )


def exchanges(
    model: ChatModel, prompts: PromptSet, recipe: Recipe, seed: int
) -> list[ReplyExample]:
    """What is trained on: refusals of the harmful prompts, own replies to the benign ones.

    Some of the pseudo-harmful prompts get a refusal; the others are left out.
    """
    draw = random.Random(f"cautious {seed}")
    refusals = bundled(REFUSALS).read_text(encoding="utf-8").splitlines()
    pseudo = list(prompts.where(label="pseudo_harmful"))
    harmful = [*prompts.where(label="harmful"), *draw.sample(pseudo, recipe.mislabelled)]
    refused = [encoded(model, prompt, draw.choice(refusals)) for prompt in harmful]
    benign = prompts.where(label="benign")
    replies = generate_replies(model, benign.texts, new_tokens=recipe.reply_tokens)
    return [*refused, *(_opening(model, *one, recipe) for one in zip(benign, replies, strict=True))]


def _opening(model: ChatModel, prompt: Prompt, reply: str, recipe: Recipe) -> ReplyExample:
    """A prompt with the reply's first tokens; a reply that is cut off has no end token."""
    example = encoded(model, prompt, reply)
    return replace(example, reply_ids=example.reply_ids[: recipe.reply_tokens])


def _train(
    adapted: PreTrainedModel, examples: Sequence[ReplyExample], recipe: Recipe, seed: int
) -> None:
    parameters = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=0.0)
    columns = zip(*(example.prompt_ids for example in examples), strict=False)
    shared = next(place for place, ids in enumerate(columns) if len(set(ids)) > 1)
    batches = list(_batches(examples, recipe, seed))
    with stage("adapter", len(batches)) as done:
        for step, batch in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(step, len(batches))
            train_step(optimizer, parameters, partial(_loss, adapted, batch, shared))
            done(step + 1)


def _batches(
    examples: Sequence[ReplyExample], recipe: Recipe, seed: int
) -> Iterator[Sequence[ReplyExample]]:
    """Every epoch in an order of its own; batches are cut from chunks sorted by length."""
    draw, size = random.Random(f"batches {seed}"), recipe.batch_size
    for _ in range(recipe.epochs):
        order = draw.sample(examples, len(examples))
        batches = []
        for start in range(0, len(order), _BATCHES_PER_CHUNK * size):
            chunk = sorted(
                order[start : start + _BATCHES_PER_CHUNK * size],
                key=lambda one: len(one.prompt_ids) + len(one.reply_ids),
            )
            batches += [chunk[i : i + size] for i in range(0, len(chunk), size)]
        yield from draw.sample(batches, len(batches))


def _loss(
    adapted: PreTrainedModel, batch: Sequence[ReplyExample], shared: int
) -> Float[Tensor, ""]:
    """Mean cross-entropy of the reply tokens, of each exchange alike.

    Tokens with which all prompts begin (the template's) go through the model once for the batch.
    Rows are padded on the right, where causal attention needs no mask.
    """
    core: Any = adapted.model
    tensor = partial(torch.tensor, device=adapted.device)
    prefix = tensor([batch[0].prompt_ids[:shared]])
    cache = core(input_ids=prefix, use_cache=True).past_key_values
    cache.batch_repeat_interleave(len(batch))
    rows = [tensor([*one.prompt_ids[shared:], *one.reply_ids]) for one in batch]
    ids = pad_sequence(rows, batch_first=True)
    hidden = core(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state
    losses = []
    for one, states in zip(batch, hidden, strict=True):
        before = len(one.prompt_ids) - shared - 1  # the place that predicts the first reply token
        logits = adapted.lm_head(states[before : before + len(one.reply_ids)])
        losses.append(cross_entropy(logits, tensor(one.reply_ids)))
    return torch.stack(losses).mean()


def _save(adapted: PreTrainedModel, base: str, folder: Path) -> None:
    """Write the adapter in float16, half of what PEFT would write."""
    from peft.tuners.lora import LoraLayer

    config: Any = adapted.peft_config["default"]
    config.base_model_name_or_path, config.inference_mode = base, True
    config.save_pretrained(str(folder))
    tensors = {
        f"base_model.model.{name}.{part}.weight": getattr(module, part)["default"].weight
        for name, module in adapted.named_modules()
        if isinstance(module, LoraLayer)
        for part in ("lora_A", "lora_B")
    }
    halves = {name: tensor.detach().half().contiguous() for name, tensor in tensors.items()}
    save_file(halves, folder / "adapter_model.safetensors", metadata={"format": "pt"})
