"""Tiny models whose rotary frequencies depend on the longest prompt that they read."""

import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from actor_lens.models.chat_model import ChatModel, wrap_model
from tests.support.tiny_models import ARCHITECTURES, tiny_tokenizer

ROPE = {
    "dynamic": ({"factor": 4.0}, 32),
    "longrope": (
        {
            "short_factor": [1.0] * 4,
            "long_factor": [2.0, 3.0, 5.0, 9.0],
            "original_max_position_embeddings": 32,
        },
        128,
    ),
}


def model_with(kind: str) -> ChatModel:
    """A tiny Llama whose frequencies change beyond 32 tokens."""
    torch.manual_seed(0)
    settings, positions = ROPE[kind]
    rope = {"rope_type": kind, "rope_theta": 10000.0, **settings}
    given = {**ARCHITECTURES["llama"], "max_position_embeddings": positions}
    hf = AutoModelForCausalLM.from_config(CONFIG_MAPPING["llama"](**given, rope_parameters=rope))
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.mul_(4.0)
    return wrap_model(hf.float(), tiny_tokenizer(), name=kind)
