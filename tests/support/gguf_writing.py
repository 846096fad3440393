"""Tiny GGUF files, written as llama.cpp's converter writes them from a Hugging Face model."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tests.support.tiny_models import CHAT_TEMPLATE, tiny_tokenizer

_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_OUTSIDE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_CONTROL, _NORMAL = 3, 1


def merging_tokenizer(n_tokens: int) -> PreTrainedTokenizerFast:
    """The tiny tokenizer with one merge, since a GGUF file must have some, and spare tokens."""
    vocabulary = dict(tiny_tokenizer().get_vocab())
    for token in ("he", *(f"<spare{number}>" for number in range(n_tokens))):
        if len(vocabulary) < n_tokens:
            vocabulary[token] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("h", "e")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([token for token in vocabulary if _is_special(token)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def write_gguf(
    path: Path,
    hf: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    *,
    packing: gguf.GGMLQuantizationType | None = None,
    architecture: str = "llama",
) -> dict[str, np.ndarray]:
    """Write a model with its tokenizer.

    Args:
        path: The file.
        hf: A Llama.
        tokenizer: Byte-level BPE; its template is left out where it has none.
        packing: Format of the blocks' matrices; None for float32.
        architecture: What the file says it holds.

    Returns:
        The Hugging Face weights that a reader of the file should find.
    """
    config = hf.config
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([_CONTROL if _is_special(token) else _NORMAL for token in vocabulary])
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)
    expected = {}
    for name, tensor in hf.state_dict().items():
        values = tensor.numpy()
        if packing is not None and name.startswith("model.layers") and values.ndim == 2:
            packed = gguf.quants.quantize(_stored(name, values, config), packing)
            writer.add_tensor(_gguf_name(name), packed, raw_dtype=packing)
            rows = gguf.quants.dequantize(packed, packing)
            expected[name] = _stored(name, rows, config, back=True)
        else:
            writer.add_tensor(_gguf_name(name), _stored(name, values, config))
            expected[name] = values
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return expected


def _is_special(token: str) -> bool:
    return token.startswith("<") and token.endswith(">") and len(token) > 2


def _gguf_name(name: str) -> str:
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    _, _, layer, *rest = name.split(".")
    part, kind = ".".join(rest).rsplit(".", 1)
    return f"blk.{layer}.{_NAMES[part]}.{kind}"


def _stored(name: str, values: np.ndarray, config: object, *, back: bool = False) -> np.ndarray:
    """Rows of queries and keys in the order of llama.cpp, which turns neighbours, not halves."""
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
    part = name.split(".")[-2]
    if part not in heads:
        return values
    n_heads = int(getattr(config, heads[part]))
    halves = (len(values) // n_heads // 2, 2) if back else (2, len(values) // n_heads // 2)
    rows = values.reshape(n_heads, *halves, values.shape[1])
    return np.ascontiguousarray(rows.swapaxes(1, 2).reshape(values.shape))
