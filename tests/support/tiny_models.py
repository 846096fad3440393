"""Tiny random chat models of real architectures, made in memory in milliseconds."""

from __future__ import annotations

from functools import cache

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from actor_lens.models.chat_model import ChatModel, wrap_model

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<' + message['role'] + '>' + message['content'] + '<end>' }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
N_LAYERS = 4
D_MODEL = 32

_COMMON = {
    "vocab_size": 300,
    "hidden_size": D_MODEL,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
_GROUPED = {"num_key_value_heads": 2}
_HEAD_DIM = {"head_dim": 8}
# Windows of 8 tokens are shorter than every templated prompt, so sliding layers really slide.
_SLIDING = {"sliding_window": 8}
ARCHITECTURES: dict[str, dict[str, object]] = {
    "llama": {**_COMMON, **_GROUPED},
    "mistral": {**_COMMON, **_GROUPED, **_HEAD_DIM, **_SLIDING},
    "gemma2": {**_COMMON, **_GROUPED, **_HEAD_DIM, **_SLIDING, "query_pre_attn_scalar": 8},
    "gemma3_text": {
        **_COMMON,
        "num_key_value_heads": 1,
        **_HEAD_DIM,
        **_SLIDING,
        "query_pre_attn_scalar": 8,
        "layer_types": ["sliding_attention", "full_attention"] * (N_LAYERS // 2),
    },
    "qwen2": {**_COMMON, **_GROUPED},
    "qwen3": {**_COMMON, **_GROUPED, **_HEAD_DIM},
    "phi3": {**_COMMON, **_GROUPED},
    "gpt2": {
        "vocab_size": 300,
        "n_embd": D_MODEL,
        "n_layer": N_LAYERS,
        "n_head": 4,
        "n_positions": 256,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
    },
}

SOME_ARCHITECTURES = ("llama", "gemma2", "gpt2")
"""For laws that are not about architecture: rotary positions, soft-caps with sliding windows, and
learned positions with tied embeddings."""


def tiny_tokenizer(chat_template: str | None = CHAT_TEMPLATE) -> PreTrainedTokenizerFast:
    """Byte-level tokenizer: one token a byte, so that any text is encoded."""
    special = ["<s>", "</s>", "<pad>", "<end>", "<user>", "<assistant>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    fast.chat_template = chat_template
    return fast


def tiny_chat_model(architecture: str = "llama", seed: int = 0) -> ChatModel:
    """A random model of an architecture. Weights are large enough that layers differ visibly."""
    torch.manual_seed(seed)
    config = CONFIG_MAPPING[architecture](**ARCHITECTURES[architecture])
    hf = AutoModelForCausalLM.from_config(config).float()
    with torch.no_grad():
        for parameter in hf.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return wrap_model(hf, tiny_tokenizer(), name=f"tiny-{architecture}")


def exact_tiny_model(seed: int = 0) -> ChatModel:
    """GPT-2 in float64, which computes in float32 nowhere, as Llama's norms and softmax do."""
    model = tiny_chat_model("gpt2", seed)
    model.hf.to(torch.float64)
    model.hf.set_attn_implementation("eager")  # the other gives NaN for padding in float64
    return model


@cache
def shared_tiny_model(architecture: str = "llama") -> ChatModel:
    """One model an architecture for the whole test session, for tests that leave it as it is."""
    return tiny_chat_model(architecture)


def talkative_tiny_model(architecture: str) -> ChatModel:
    """A model whose replies differ between prompts: the tied head of GPT-2 repeats one token."""
    if architecture != "gpt2":
        return tiny_chat_model(architecture)
    model = tiny_chat_model("gpt2", seed=1)
    model.hf.lm_head.weight = torch.nn.Parameter(torch.randn(300, D_MODEL), requires_grad=False)
    return model
