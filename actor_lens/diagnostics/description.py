"""What a model is, what working on it takes, and proof that it is read and trained rightly.

Hugging Face's own forward hooks are the truth: what this library collects, and what the block in
training computes, is compared with them on a few prompts before any result is given.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from actor_lens.activations.residuals import collect_block_inputs, collect_residuals
from actor_lens.diagnostics.memory_needs import MemoryNeeds, memory_needs
from actor_lens.diagnostics.model_warnings import model_warnings
from actor_lens.errors import UserError
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.chat_templates import has_thinking_switch, takes_system_prompt
from actor_lens.models.finite import NotFiniteError
from actor_lens.models.replies import end_tokens
from actor_lens.progress import stage
from actor_lens.prompts.rows import Prompt
from actor_lens.prompts.sets import PromptSet
from actor_lens.results import Result, plain
from actor_lens.text import plural
from actor_lens.training.block_trainer import last_activations

# Of unlike lengths, so that a batch of them is padded.
_EXAMPLES = (
    "What is a good name for a cat?",
    "Say hello.",
    "How do I kill a process that hangs on my computer, and how do I find its number first?",
)
# Largest difference that rounding explains, relative to the length of a residual.
_TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
# 8-bit layers round what they receive, too, and pick outliers by the whole batch.
_TOLERANCE_8BIT = 5e-2


CheckName = Literal["residuals", "padding", "training"]


@dataclass(frozen=True)
class SupportCheck:
    """One comparison of this library with Hugging Face.

    Attributes:
        name: Kind of comparison: ``"residuals"`` (collected one prompt at a time, against forward
            hooks on every block), ``"padding"`` (one left-padded batch, against the same hooks) or
            ``"training"`` (the block in training on its cached input, against the block in the
            whole model).
        passed: Whether the two agree; None where the comparison could not be made.
        difference: Largest ``|a - b| / |b|`` of a prompt and layer; NaN where there is none.
        message: Content of the comparison, or why it could not be made.
    """

    name: CheckName
    passed: bool | None
    difference: float
    message: str


@dataclass(frozen=True, eq=False, repr=False)
class ModelDescription(Result):
    """What a model is, what work on it takes, and whether it is read rightly.

    Attributes:
        name: Name that the model was loaded by.
        architecture: Name of its Hugging Face class.
        revision: Commit of a hub model; None for a folder.
        adapter: Adapter that was merged into its weights; None for none.
        n_layers: Number of blocks.
        d_model: Width of the residual stream.
        heads: Query heads.
        key_value_heads: Heads of keys and values: fewer than ``heads`` where queries share them.
        vocabulary: Number of token ids with a score.
        parameters: Number of parameters of the whole model, tied ones once; packed quantised
            weights count as stored.
        dtype: Dtype of the residual stream.
        quantization: ``"4bit"``, ``"8bit"``, another method, or None.
        dequantized: Packed formats of the GGUF file that full precision was made of, or None.
        devices: Devices that hold weights.
        attention: Kind of each layer: ``"full"``, or ``"sliding 4096"`` with the window in tokens.
        tied_embeddings: Whether embedding and head are one tensor.
        max_tokens: The context, in tokens.
        system_role: Whether the chat template takes a system prompt.
        thinking_switch: Whether the template can switch thinking off, which is then done.
        end_tokens: Ids that end a reply.
        memory: Estimates for collecting, training and evaluating.
        example: A templated prompt as the model sees it.
        example_tokens: Its tokens, one by one; activations are read at the last.
        checks: Comparisons with Hugging Face.
        warnings: What may spoil or change results without being an error; ``model_warnings`` has
            the checks.
    """

    name: str
    architecture: str
    revision: str | None
    adapter: str | None
    n_layers: int
    d_model: int
    heads: int
    key_value_heads: int
    vocabulary: int
    parameters: int
    dtype: str
    quantization: str | None
    dequantized: str | None
    devices: tuple[str, ...]
    attention: tuple[str, ...]
    tied_embeddings: bool
    max_tokens: int
    system_role: bool
    thinking_switch: bool
    end_tokens: tuple[int, ...]
    memory: MemoryNeeds
    example: str
    example_tokens: tuple[str, ...]
    checks: tuple[SupportCheck, ...]
    warnings: tuple[str, ...]

    _hint = "memory: .memory; comparisons with Hugging Face: .checks"

    @property
    def supported(self) -> bool:
        """Whether residuals could be compared and no comparison failed."""
        made = {check.name: check.passed for check in self.checks}
        return bool(made.get("residuals")) and False not in made.values()

    @property
    def marked_example(self) -> str:
        """The example with its last token, where activations are read, in guillemets."""
        last = self.example_tokens[-1]
        if self.example.endswith(last):
            return f"{self.example[: -len(last)]}«{last}»"
        return f"{self.example} «{last}»"  # tokenizers that change spaces or bytes

    def frame(self) -> pd.DataFrame:
        """One row a fact: ``part`` (model, template, memory or support), ``name``, ``value``."""
        rows = [
            *(("model", name, getattr(self, name)) for name in _MODEL_FACTS),
            ("model", "attention", attention_in_words(self.attention)),
            *(("template", name, getattr(self, name)) for name in _TEMPLATE_FACTS),
            *(("memory", name, value) for name, value in vars(self.memory).items()),
            *(("support", check.name, check.passed) for check in self.checks),
        ]
        return pd.DataFrame(rows, columns=["part", "name", "value"])

    def summary(self) -> dict[str, Any]:
        """Every fact, estimate and comparison as plain values."""
        return {**plain(vars(self)), "supported": self.supported}

    def _headline(self) -> str:
        verdict = "read rightly" if self.supported else "not read rightly: see .checks"
        return (
            f"ModelDescription: {self.name}, {self.architecture}, {plural(self.n_layers, 'layer')} "
            f"of width {self.d_model}, {self.parameters:,} parameters; {verdict}"
        )


_MODEL_FACTS = (
    "architecture revision adapter n_layers d_model heads key_value_heads vocabulary parameters "
    "dtype quantization dequantized devices tied_embeddings max_tokens"
).split()
_TEMPLATE_FACTS = ("system_role", "thinking_switch", "end_tokens", "marked_example")


def describe(model: ChatModel, prompts: PromptSet | None = None) -> ModelDescription:
    """Describe a model, estimate what work on it takes, and compare it with Hugging Face.

    Args:
        model: Any chat model; it is left as it is.
        prompts: Prompts to compare on, of which the first three are taken; None for three
            harmless ones.

    Raises:
        UserError: If there are no prompts, or one is longer than the model takes.
    """
    if prompts is None:
        prompts = PromptSet(tuple(Prompt(text, "benign") for text in _EXAMPLES), name="examples")
    prompts = PromptSet(tuple(prompts)[:3], name=prompts.name)
    if not len(prompts):
        raise UserError("no prompts were given to compare on; give at least one")
    config = model.hf.config.get_text_config()
    heads = int(config.num_attention_heads)
    (ids,) = model.tokenize([prompts.texts[0]])
    needs = memory_needs(model)
    return ModelDescription(
        name=model.name,
        architecture=type(model.hf).__name__,
        revision=(model.source or {}).get("revision"),
        adapter=(model.source or {}).get("adapter"),
        n_layers=model.n_layers,
        d_model=model.d_model,
        heads=heads,
        key_value_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        vocabulary=int(config.vocab_size),
        parameters=sum(parameter.numel() for parameter in model.hf.parameters()),
        dtype=str(model.hf.dtype).removeprefix("torch."),
        quantization=model.quantization,
        dequantized=model.dequantized,
        devices=tuple(sorted({str(p.device) for p in model.hf.parameters()})),
        attention=_attention(config),
        tied_embeddings=_has_tied_embeddings(model),
        max_tokens=model.max_tokens,
        system_role=takes_system_prompt(model.name, model.tokenizer),
        thinking_switch=has_thinking_switch(model.tokenizer),
        end_tokens=end_tokens(model),
        memory=needs,
        example=model.render(prompts.texts[0]),
        example_tokens=tuple(str(model.tokenizer.decode([one])) for one in ids),
        checks=_checks(model, prompts),
        warnings=model_warnings(model, ids, needs),
    )


def attention_in_words(attention: tuple[str, ...]) -> str:
    """The kinds of attention with the number of layers of each."""
    kinds = dict.fromkeys(attention)
    return ", ".join(f"{kind}: {attention.count(kind)} layers" for kind in kinds)


def _attention(config: Any) -> tuple[str, ...]:
    n_layers = int(config.num_hidden_layers)
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:  # Mistral and Phi-3 slide in every layer or in none
        kinds = ["sliding_attention" if window else "full_attention"] * n_layers
    return tuple(
        f"sliding {window}" if kind == "sliding_attention" else kind.removesuffix("_attention")
        for kind in kinds
    )


def _has_tied_embeddings(model: ChatModel) -> bool:
    hf: Any = model.hf
    head = hf.get_output_embeddings()
    return head is not None and head.weight is hf.get_input_embeddings().weight


# ---- Comparisons ----


def _checks(model: ChatModel, prompts: PromptSet) -> tuple[SupportCheck, ...]:
    truth = _hooked_residuals(model, prompts)
    layer = model.n_layers // 2

    def collected(batch_size: int) -> Tensor:
        return collect_residuals(model.with_batch_size(batch_size), prompts, store=False).values

    def trained() -> Tensor:
        model.check_full_precision()
        inputs = collect_block_inputs(model, prompts, layer, store=False)
        block = copy.deepcopy(model.blocks[layer]).float()
        with torch.no_grad():
            rows = list(range(len(prompts)))
            return last_activations(model, block, inputs, rows)[None].cpu()

    here = slice(layer, layer + 1)
    one_by_one = f"collected residuals of {len(prompts)} prompts against forward hooks"
    with stage("checks against Hugging Face"):
        return (
            _check(model, "residuals", one_by_one, truth, lambda: collected(1)),
            _check(model, "padding", f"{one_by_one}, as one batch", truth, lambda: collected(3)),
            _check(
                model, "training", f"block {layer} alone against the model", truth[here], trained
            ),
        )


def _check(
    model: ChatModel, name: CheckName, what: str, truth: Tensor, measure: Callable[[], Tensor]
) -> SupportCheck:
    try:
        values = measure()
    except NotFiniteError as error:
        return SupportCheck(name, False, float("nan"), str(error))
    except UserError as error:
        # Only training may be out of reach without spoiling the rest.
        return SupportCheck(name, None, float("nan"), str(error))
    except NotImplementedError as error:
        return SupportCheck(name, False, float("nan"), str(error))
    apart = (values.double() - truth.double()).norm(dim=-1)
    difference = float((apart / truth.double().norm(dim=-1)).max())
    allowed = _TOLERANCES.get(model.hf.dtype, 1e-4)
    if model.quantization == "8bit":
        allowed = _TOLERANCE_8BIT
    passed = difference <= allowed  # also False where it is NaN
    return SupportCheck(name, passed, difference, f"{what}, up to {allowed:g}")


def _hooked_residuals(
    model: ChatModel, prompts: PromptSet
) -> Float[Tensor, "layer prompt d_model"]:
    """What every block hands on at the last token, by plain forward hooks, one prompt at a time."""
    residuals: list[Tensor] = []

    def take(_block: Any, _inputs: Any, output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output
        residuals.append(states[0, -1].float().cpu())

    handles = []
    try:
        handles += [block.register_forward_hook(take) for block in model.blocks]
        with torch.no_grad():
            for ids in model.tokenize(prompts.texts):
                model.hf(input_ids=torch.tensor([ids], device=model.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    by_prompt = torch.stack(residuals).view(len(prompts), model.n_layers, model.d_model)
    return by_prompt.transpose(0, 1)
