"""A chat model: tokenizer and chat template, a clean Hugging Face model, its TransformerLens twin.

Training, generation and export use ``ChatModel.hf``. Looking inside uses ``ChatModel.bridge``, a
TransformerLens ``TransformerBridge`` over a second module tree that shares every tensor with
``hf``: a change of a weight in place is seen by both.
"""

from __future__ import annotations

import hashlib
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex

import torch
from torch import nn

from actor_lens.errors import UserError, check_whole, unboxed
from actor_lens.models.chat_templates import check_system_prompt, render
from actor_lens.models.checkpoint_checks import check_embedded
from actor_lens.models.loading import read_checkpoint
from actor_lens.models.module_trees import name_in_memory_tokenizer, twin
from actor_lens.models.options import DeviceMapStrategy, Dtype, Quantization
from actor_lens.models.own_models import check_no_tokenizer, take_model
from actor_lens.models.quantization import quantization_of, settle
from actor_lens.models.smollm2 import CAUTIOUS
from actor_lens.models.weights import WeightsIdentity, fingerprint
from actor_lens.prompts.rows import shown
from actor_lens.text import escape, large, one_line, plural

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import LogitsProcessor, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False, repr=False)
class ChatModel:
    """A causal language model together with the way it is spoken to.

    Attributes:
        name: Name that it was loaded by: ``"toy"``, a folder or a hub name.
        hf: The clean Hugging Face model, in evaluation mode, with eager attention so that it
            and the TransformerLens twin agree bit for bit.
        tokenizer: Its tokenizer, which holds the chat template.
        fingerprint: Identifies the weights as they were loaded and the chat template (hex
            digits), then, after a dash, the system prompt if there is one: directions and runs
            depend on all of them.
        source: What ``load_model`` was called with; None for a model made in memory.
        system_prompt: What the system says before every prompt; None for nothing.
        decoding: Function that makes, for the prompts of a batch, what changes their next-token
            scores before a token is picked; None leaves them alone. Replies and first-token scores
            depend on it.
        dequantized: Packed formats of the GGUF file that the weights were read from in full
            precision, such as ``"Q4_1 (210 tensors)"``; None for others.
        batch_size: Prompts in one forward pass; None for as many as fit into memory. It changes
            the time and memory of the work, not its results.
    """

    name: str
    hf: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    fingerprint: str
    source: Mapping[str, Any] | None = None
    system_prompt: str | None = None
    decoding: Callable[[Sequence[str]], LogitsProcessor] | None = None
    dequantized: str | None = None
    batch_size: int | None = None
    _weights: WeightsIdentity = field(default_factory=WeightsIdentity, compare=False)

    def __repr__(self) -> str:
        """Name, sizes, number format and device, on one line."""
        weights = self.quantization or str(self.hf.dtype).removeprefix("torch.")
        return (
            f"ChatModel {one_line(self.name)!r}: {plural(self.n_layers, 'layer')} of width "
            f"{self.d_model:,}, {large(self.hf.num_parameters())} parameters, {weights} on "
            f"{self.device}"
        )

    def _repr_html_(self) -> str:
        return f"<p>{escape(self)}</p>"

    @cached_property
    def bridge(self) -> TransformerBridge:
        """The TransformerLens twin, made on first use (importing TransformerLens takes seconds).

        Raises:
            UserError: If TransformerLens does not know the architecture.
        """
        from transformer_lens.model_bridge import TransformerBridge

        name_in_memory_tokenizer(self.tokenizer)
        try:
            return TransformerBridge.boot_transformers(
                self.name,
                hf_model=twin(self.hf),
                tokenizer=self.tokenizer,
                device=str(self.device),
                dtype=self.hf.dtype,
            )
        except ValueError as error:
            raise UserError(
                f"model '{self.name}' cannot be looked into: TransformerLens does not wrap a "
                f"{type(self.hf).__name__} ({one_line(error, 100)}); use another model"
            ) from error

    @property
    def identity(self) -> str:
        """A hash of all weights as they are now, also while a run is applied."""
        return self._weights.of(self.hf)

    @property
    def is_hooked(self) -> bool:
        """Whether hooks may change what a forward pass computes, of ``hf`` or of ``bridge``."""
        hooks = (
            hook
            for module in self.hf.modules()
            for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        )
        # Once asked for hidden states or attentions, transformers leaves hooks that only record.
        own = (hook.__module__ != "transformers.utils.output_capturing" for hook in hooks)
        return any(own) or self.bridge_is_hooked

    @property
    def bridge_is_hooked(self) -> bool:
        """Whether there are hooks of TransformerLens; the bridge is not made to find out."""
        if "bridge" not in self.__dict__:
            return False
        return any(point.has_hooks() for point in self.bridge.hook_dict.values())

    @property
    def blocks(self) -> nn.ModuleList:
        """The decoder blocks in order: block ``l`` writes ``resid_post`` of layer ``l``."""
        blocks: nn.ModuleList = getattr(self.hf.base_model, self.blocks_name)
        return blocks

    @cached_property
    def blocks_name(self) -> str:
        """The attribute of the base model that holds the blocks (``layers``, GPT-2: ``h``)."""
        for name, child in self.hf.base_model.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == self.n_layers > 0:
                return name
        raise UserError(
            f"model '{self.name}' ({type(self.hf).__name__}): no list of {self.n_layers} decoder "
            "blocks found; use a decoder-only text model"
        )

    @property
    def n_layers(self) -> int:
        """Number of decoder blocks."""
        return int(self.hf.config.num_hidden_layers)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.hf.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the embedding lives, and so where token ids must be."""
        return self.hf.device

    @property
    def max_tokens(self) -> int:
        """Longest templated prompt that the model takes, in tokens."""
        return int(getattr(self.hf.config, "max_position_embeddings", 2**31))

    @property
    def quantization(self) -> str | None:
        """``"4bit"``, ``"8bit"`` or another method; None for weights in full precision."""
        return quantization_of(self.hf)

    @property
    def load_settings(self) -> dict[str, str]:
        """Arguments of ``load_model``, beside the name, that decide what the model is and reads.

        Those of ``revision``, ``adapter``, ``chat_template`` and ``system_prompt`` that were given;
        of a model made in memory, the system prompt; not the adapter of ``smollm2-cautious``.
        """
        settings = {**(self.source or {}), "system_prompt": self.system_prompt}
        names = ("revision", "adapter", "chat_template", "system_prompt")
        if self.name == CAUTIOUS:
            settings.pop("adapter", None)
        return {name: str(settings[name]) for name in names if settings.get(name) is not None}

    def check_full_precision(self) -> None:
        """Refuse to train or export a model with quantised weights, or to put a block into it.

        Raises:
            UserError: If the model is quantised.
        """
        if self.quantization is not None:
            raise UserError(
                f"model '{self.name}' has {self.quantization} weights, and a block is trained, put "
                "into a model and exported in full precision only; load the model without "
                "--quantization (looking, and evaluating without a run, work with it)"
            )

    def with_system_prompt(self, system_prompt: str | None) -> ChatModel:
        """The same model with another system prompt, or without one (None).

        All weights are shared, and the TransformerLens twin where there is one already.

        Raises:
            UserError: If the prompt is empty or the chat template has no system role.
        """
        check_system_prompt(self.name, self.tokenizer, system_prompt)
        identified = self.fingerprint.partition("-")[0]
        if system_prompt is not None:
            identified += f"-{hashlib.sha256(system_prompt.encode()).hexdigest()[:16]}"
        source = self.source and {**self.source, "system_prompt": system_prompt}
        return self._with(system_prompt=system_prompt, fingerprint=identified, source=source)

    def with_batch_size(self, batch_size: int | None) -> ChatModel:
        """The same model with another number of prompts in one forward pass.

        All weights are shared, and the TransformerLens twin where there is one already.

        Args:
            batch_size: None for as many as fit into memory.

        Raises:
            UserError: If it is below 1.
        """
        if batch_size is not None:
            batch_size = check_whole("batch size", batch_size, 1)
        return self._with(batch_size=batch_size)

    def _with(self, **changes: Any) -> ChatModel:
        other = replace(self, **changes)
        if "bridge" in self.__dict__:
            other.__dict__["bridge"] = self.bridge
        return other

    def block_prefix(self, layer: int) -> str:
        """Hugging Face name of a block's tensors, up to and with the dot: ``model.layers.5.``."""
        return f"{self.hf.base_model_prefix}.{self.blocks_name}.{layer}."

    def check_layer(self, layer: SupportsIndex) -> int:
        """Return ``layer`` as an int (those of NumPy and torch are taken too) if the model has it.

        Raises:
            UserError: If it is not a whole number from 0 to ``n_layers - 1``.
        """
        try:
            index = None if isinstance(unboxed(layer), bool) else operator.index(unboxed(layer))
        except TypeError:
            index = None
        if index is None:
            raise UserError(
                f"layer is {layer!r}; give a whole number from 0 to {self.n_layers - 1}"
            )
        if not 0 <= index < self.n_layers:
            raise UserError(
                f"layer {index} is out of range: '{self.name}' has layers 0 to {self.n_layers - 1}"
            )
        return index

    def render(self, prompt: str) -> str:
        """The prompt as the model sees it: one turn of the user, then the opening of the reply.

        A system prompt, where there is one, comes first.

        Raises:
            UserError: If the chat template cannot render the prompt.
        """
        return render(self.name, self.tokenizer, prompt, self.system_prompt)

    def tokenize(self, prompts: Sequence[str], *, room: int = 0) -> list[list[int]]:
        """Token ids of each templated prompt, without padding.

        The template already holds the beginning-of-sequence token, so no special tokens are
        added: a second one changes every reply.

        Args:
            prompts: User messages, not yet templated.
            room: Tokens to keep free for a reply.

        Raises:
            UserError: If a templated prompt and the room exceed ``max_tokens``, or a token has no
                embedding.
        """
        if not prompts:
            return []
        texts = [self.render(prompt) for prompt in prompts]
        # Not verbose: a prompt that is too long is an error below, in our words.
        encoded = self.tokenizer(texts, add_special_tokens=False, verbose=False)
        ids: list[list[int]] = encoded["input_ids"]
        check_embedded(self.name, self.hf, self.tokenizer, ids)
        for prompt, tokens in zip(prompts, ids, strict=True):
            if len(tokens) + room > self.max_tokens:
                raise UserError(
                    f"prompt {shown(prompt)} has {len(tokens)} tokens with the chat template"
                    f"{f' and needs {room} for the reply' if room else ''}; '{self.name}' takes "
                    f"{self.max_tokens}: shorten or remove it"
                )
        return ids

    @property
    def pad_token_id(self) -> int:
        """Fills the left of shorter prompts; masked, so its value is never read."""
        for token_id in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token_id is not None:
                return int(token_id)
        return 0


def load_model(
    name: str | Path | PreTrainedModel | TransformerBridge,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    adapter: str | Path | None = None,
    device: str = "auto",
    device_map: DeviceMapStrategy | Mapping[str, int | str] | None = None,
    dtype: Dtype = "auto",
    chat_template: str | Path | None = None,
    system_prompt: str | None = None,
    revision: str | None = None,
    quantization: Quantization | None = None,
    batch_size: int | None = None,
    trust_remote_code: bool = False,
) -> ChatModel:
    """Load a chat model by hub name, folder or GGUF file, or take one that is in memory.

    Weights are read from safetensors, or from a GGUF file in full precision; never from pickles.

    Args:
        name: ``"toy"`` (bundled), ``"smollm2"`` (fetched by ``actor-lens models --get smollm2`` or
            from the hub), ``"smollm2-cautious"`` (that with the bundled adapter, which makes it
            refuse too much), a folder with config, safetensors and tokenizer, a hub name, or a
            ``.gguf`` file as llama.cpp and Ollama use it (extra ``gguf``); or a model itself: one
            of transformers, with its tokenizer, or a ``TransformerBridge`` of TransformerLens.
            Tensors are shared with it; a model of transformers is switched to eager attention,
            evaluation mode and no gradients, and hooks of a bridge stay behind.
        tokenizer: Tokenizer of a model in memory; a bridge brings its own.
        adapter: An adapter of PEFT, such as LoRA, by folder or hub name: it is merged into the
            weights of the model, its base. A tokenizer that it brings along is used.
        device: ``"auto"`` takes a GPU where there is one, else a torch device name.
        device_map: How accelerate spreads the blocks over several devices: ``"auto"``, another
            of accelerate's strategies, or module names to devices. Each block is on one device.
        dtype: ``"auto"`` is the checkpoint's own type on a GPU and float32 on a CPU; else
            ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        chat_template: A Jinja template, or the path of a file with one, for a tokenizer without.
        system_prompt: What the system says before every prompt.
        revision: Branch, tag or commit of a hub model; the commit that was read is kept in
            ``source``.
        quantization: ``"4bit"`` or ``"8bit"``, through bitsandbytes: for looking and evaluating,
            not for training.
        batch_size: Prompts in one forward pass; None for as many as fit into memory.
        trust_remote_code: Whether to run model code that comes with the checkpoint.

    Raises:
        UserError: If the model cannot be found or read, is not a causal language model, has no
            tokenizer or chat template, does not fit on its devices, or is not what it seems (an
            adapter alone, packed weights, tokens without an embedding); if it is gated, not in the
            cache while offline, the adapter does not fit it, or its template has no system role
            for the system prompt.
    """
    how: dict[str, Any] = {
        "adapter": adapter,
        "device": device,
        "device_map": device_map,
        "dtype": dtype,
        "chat_template": chat_template,
        "system_prompt": system_prompt,
        "revision": revision,
        "quantization": quantization,
        "trust_remote_code": trust_remote_code,
    }
    if isinstance(name, str | os.PathLike):
        check_no_tokenizer(called := str(name), tokenizer)
        hf, its_tokenizer, source, packed = read_checkpoint(called, **how)
    else:
        hf, its_tokenizer, called = take_model(name, tokenizer, **how)
        source, packed = None, None
    model = wrap_model(hf, its_tokenizer, name=called).with_system_prompt(system_prompt)
    model.tokenize([""])  # the template may use tokens that the model knows nothing of
    return replace(model, source=source, dequantized=packed).with_batch_size(batch_size)


def wrap_model(
    hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, name: str = "model"
) -> ChatModel:
    """Make a ``ChatModel`` of a Hugging Face model and tokenizer that are in memory already.

    Attention is switched to the eager implementation, gradients are switched off.

    Raises:
        UserError: If the model has no list of decoder blocks.
    """
    hf.set_attn_implementation("eager")
    hf.eval()  # type: ignore[no-untyped-call]
    hf.requires_grad_(False)
    settle(hf)
    model = ChatModel(name=name, hf=hf, tokenizer=tokenizer, fingerprint=fingerprint(hf, tokenizer))
    model.block_prefix(0)  # looks for the blocks now, not in the middle of some later stage
    return model
