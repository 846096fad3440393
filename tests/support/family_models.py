"""Tiny random models of nine families, saved to folders as those families come.

Each has the family's own tokenizer class over a vocabulary of single characters and bytes, and a
chat template in the family's style: with or without a beginning token, a system role, a switch for
thinking.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GemmaTokenizer,
    GPT2Tokenizer,
    LlamaTokenizer,
    PreTrainedTokenizerBase,
    Qwen2Tokenizer,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tests.support.tiny_models import ARCHITECTURES

_LETTERS = [chr(code) for code in range(33, 127)]
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def _numbered(*tokens: str) -> dict[str, int]:
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}


def _llama_tokenizer(*more: str) -> PreTrainedTokenizerBase:
    vocab = _numbered("<unk>", "<s>", "</s>", *_BYTES, "▁", *_LETTERS)
    tokenizer = LlamaTokenizer(vocab=vocab, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": list(more)})
    return tokenizer


def _gemma_tokenizer(*more: str) -> PreTrainedTokenizerBase:
    vocab = _numbered("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *_BYTES, "▁", *_LETTERS)
    tokenizer = GemmaTokenizer(vocab=vocab, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": list(more)})
    return tokenizer


def _byte_level(kind: type, *more: str) -> PreTrainedTokenizerBase:
    vocab = _numbered("<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer: PreTrainedTokenizerBase = kind(vocab=vocab, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": list(more)})
    return tokenizer


_INST = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ '<<SYS>> ' + m['content'] + ' <</SYS>> ' }}"
    "{% elif m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
_TURNS = (
    "{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('There is no system role') }}{% endif %}"
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<start_of_turn>' + m['role'] + '\n' + m['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
_IM = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
)
_PHI = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
_PLAIN = (
    "{% for m in messages %}{% if m['role'] != 'system' %}"
    "{{ m['role'] + ': ' + m['content'] + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
_NO_THINKING = (
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """How models of a family come.

    Attributes:
        tokenizer: Makes one.
        tokenizer_class: The name of the class that transformers loads: for some model types one
            that reads any ``tokenizer.json``.
        template: Chat template.
        hello: What the model reads when the user says "Hello".
        system: Where a system prompt goes: what is read with "Be kind" and "Hello"; None where the
            template takes none.
        begins: Whether that begins with a beginning token.
        attention: Kind of attention of each layer.
        key_value_heads: Heads of keys and values, of 4.
        tied: Whether embedding and head are one tensor.
    """

    tokenizer: Callable[[], PreTrainedTokenizerBase]
    tokenizer_class: str
    template: str
    hello: str
    system: str | None
    begins: bool = True
    attention: tuple[str, ...] = ("full",) * 4
    key_value_heads: int = 2
    tied: bool = False


_SLIDING, _MIXED = ("sliding 8",) * 4, ("sliding 8", "full") * 2
_ENDS = "<start_of_turn>", "<end_of_turn>"
_GEMMA = {
    "tokenizer": lambda: _gemma_tokenizer(*_ENDS),
    "tokenizer_class": "GemmaTokenizer",
    "template": _TURNS,
    "hello": "<bos><start_of_turn>user\nHello<end_of_turn>\n<start_of_turn>model\n",
    "system": None,
    "tied": True,
}
_HELLO_IM = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
_SYSTEM_IM = "<|im_start|>system\nBe kind<|im_end|>\n"
_THOUGHT = "<think>\n\n</think>\n\n"
_QWEN: dict[str, Any] = {
    "tokenizer": lambda: _byte_level(Qwen2Tokenizer, "<|im_start|>", "<|im_end|>"),
    "tokenizer_class": "Qwen2Tokenizer",
    "begins": False,
}
FAMILIES: dict[str, Family] = {
    "llama": Family(
        _llama_tokenizer,
        "LlamaTokenizer",
        _INST,
        "<s>[INST] Hello [/INST]",
        "<s><<SYS>> Be kind <</SYS>> [INST] Hello [/INST]",
    ),
    "mistral": Family(
        lambda: _llama_tokenizer("[INST]", "[/INST]"),
        "TokenizersBackend",
        _INST,
        "<s>[INST] Hello [/INST]",
        "<s><<SYS>> Be kind <</SYS>> [INST] Hello [/INST]",
        attention=_SLIDING,
    ),
    "gemma": Family(**_GEMMA),
    "gemma2": Family(**_GEMMA, attention=_MIXED),
    "gemma3_text": Family(**_GEMMA, attention=_MIXED, key_value_heads=1),
    "qwen2": Family(
        **_QWEN, template=_IM + "{% endif %}", hello=_HELLO_IM, system=_SYSTEM_IM + _HELLO_IM
    ),
    "qwen3": Family(
        **_QWEN,
        template=_IM + _NO_THINKING,
        hello=_HELLO_IM + _THOUGHT,
        system=_SYSTEM_IM + _HELLO_IM + _THOUGHT,
    ),
    "phi3": Family(
        lambda: _llama_tokenizer("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        "TokenizersBackend",
        "{{ bos_token }}" + _PHI,
        "<s><|user|>\nHello<|end|>\n<|assistant|>\n",
        "<s><|system|>\nBe kind<|end|>\n<|user|>\nHello<|end|>\n<|assistant|>\n",
    ),
    "gpt2": Family(
        lambda: _byte_level(GPT2Tokenizer),
        "GPT2Tokenizer",
        _PLAIN,
        "user: Hello\nassistant:",
        None,
        begins=False,
        key_value_heads=4,
        tied=True,
    ),
}


def save_family_model(family: str, folder: Path) -> Path:
    """Save a random model and its tokenizer as the hub would hand them out."""
    tokenizer = FAMILIES[family].tokenizer()
    tokenizer.chat_template = FAMILIES[family].template
    sizes = ARCHITECTURES.get(family) or {**ARCHITECTURES["llama"], "head_dim": 8}
    config = CONFIG_MAPPING[family](
        **{
            **sizes,
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
    )
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(config).float()
    with torch.no_grad():
        for parameter in hf.parameters():  # large enough that layers differ visibly
            parameter.copy_(parameter * 4 if parameter.ndim > 1 else parameter + 0.1)
    hf.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
