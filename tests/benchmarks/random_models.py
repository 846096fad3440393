"""Random Llama models of real sizes, and prompts of exact lengths for them."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from actor_lens.models.chat_model import ChatModel, wrap_model
from actor_lens.prompts.rows import LABELS, Prompt
from actor_lens.prompts.sets import PromptSet
from tests.support.tiny_models import tiny_tokenizer

SHAPES = {
    "20M": {"hidden_size": 320, "intermediate_size": 864, "num_hidden_layers": 8},
    "134M": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12},
    "7B": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32},
}
_HEAD = 64
_LETTERS = "abcdefghijklmnopqrstuvwxyz     "


def random_model(
    shape: str, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> ChatModel:
    """A Llama with random weights."""
    sizes = SHAPES[shape]
    config = LlamaConfig(
        **sizes,
        vocab_size=32_000,
        num_attention_heads=sizes["hidden_size"] // (128 if shape == "7B" else _HEAD),
        max_position_embeddings=2048,
    )
    torch.manual_seed(0)
    with torch.device(device):
        hf = LlamaForCausalLM._from_config(config, dtype=dtype)
    return wrap_model(hf, tiny_tokenizer(), name=f"random Llama, {shape}")


def random_prompts(model: ChatModel, lengths: Sequence[int]) -> PromptSet:
    """Prompts of random letters that have exactly these lengths in tokens, template included."""
    template = len(model.tokenize(["x"])[0]) - 1
    shuffled = random.Random(0)
    prompts = []
    for number, length in enumerate(lengths):
        words = "".join(shuffled.choices(_LETTERS, k=length - template - 2))
        # The first and the last letter are none that a reader would strip.
        label = LABELS[number % len(LABELS)]
        prompts.append(Prompt(f"x{words}y" if length > template + 1 else "x", label, "train"))
    made = PromptSet(tuple(prompts), name="random letters")
    found = [len(ids) for ids in model.tokenize(made.texts)]
    assert found == list(lengths), "the tokenizer is not one token a byte"
    return made
