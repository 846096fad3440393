"""After ablation no part of the model can read or write the direction.

Two truths: nothing along the direction is left at any point of the stream, on every architecture;
and the model equals one whose weights can no longer write the direction (Arditi et al., section 4).
"""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from actor_lens.errors import UserError
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.interventions import ablate_everywhere, residual_writers
from tests.support.steering import generated, hooks, logits, padded, random, received
from tests.support.tiny_models import (
    ARCHITECTURES,
    D_MODEL,
    N_LAYERS,
    shared_tiny_model,
    talkative_tiny_model,
    tiny_chat_model,
)

# What is added to the stream, named by hand for each architecture.
WRITERS = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "phi3"), ("self_attn", "mlp")),
    **dict.fromkeys(
        ("gemma2", "gemma3_text"), ("post_attention_layernorm", "post_feedforward_layernorm")
    ),
    "gpt2": ("attn", "mlp"),
}
# What writes into the stream and holds a weight: output last (Linear) or first (GPT-2's Conv1D).
LINEAR_WRITERS = {
    "llama": ("self_attn.o_proj", "mlp.down_proj"),
    "qwen2": ("self_attn.o_proj", "mlp.down_proj"),
    "phi3": ("self_attn.o_proj", "mlp.down_proj"),
    "gpt2": ("attn.c_proj", "mlp.c_proj"),
}


def unit_of(direction: torch.Tensor) -> torch.Tensor:
    return (direction.double() / direction.double().norm()).float()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_writers_are_what_is_added_to_the_stream(architecture):
    model = shared_tiny_model(architecture)
    block = model.blocks[1]
    assert residual_writers(block) == tuple(getattr(block, name) for name in WRITERS[architecture])
    added: list[torch.Tensor] = []
    handles = [
        writer.register_forward_hook(
            lambda _m, _a, out: added.append(out[0] if isinstance(out, tuple) else out)
        )
        for writer in residual_writers(block)
    ]
    try:
        with received(model) as found:
            logits(model, padded(model))
    finally:
        for handle in handles:
            handle.remove()
    total = found[0] + sum(part.double().numpy() for part in added)
    assert len(added) == 2
    assert np.abs(found[1] - total).max() < 1e-4 * np.abs(found[1]).max()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_point_of_the_stream_has_a_part_along_the_direction(architecture):
    model = shared_tiny_model(architecture)
    direction = 7.0 * random(D_MODEL)
    points: list[torch.Tensor] = []

    def keep_input(_m, args, kwargs):  # embeddings as well: block 0
        points.append(args[0] if args else kwargs["hidden_states"])

    def keep_output(_m, _args, output):
        points.append(output[0] if isinstance(output, tuple) else output)

    with ablate_everywhere(model, direction):
        handles = []
        for block in model.blocks:
            handles += [block.register_forward_pre_hook(keep_input, with_kwargs=True)]
            parts = [getattr(block, name) for name in WRITERS[architecture]]
            handles += [part.register_forward_hook(keep_output) for part in (*parts, block)]
        try:
            logits(model, padded(model))
        finally:
            for handle in handles:
                handle.remove()
    assert len(points) == 4 * N_LAYERS
    unit = unit_of(direction).double()
    for point in points:
        scale = float(point.double().norm(dim=-1).max())
        assert float((point.double() @ unit).abs().max()) < 1e-5 * max(1.0, scale)


def without(weight: nn.Parameter, unit: torch.Tensor, *, output_first: bool) -> None:
    along = torch.outer(unit, unit)
    with torch.no_grad():
        weight.sub_(along @ weight if output_first else weight @ along)


def orthogonalised(model: ChatModel, architecture: str, direction: torch.Tensor) -> ChatModel:
    unit = unit_of(direction)
    base = model.hf.base_model
    embeddings = [base.wte, base.wpe] if architecture == "gpt2" else [base.embed_tokens]
    for table in embeddings:  # copied: the head may share its tensor
        table.weight = nn.Parameter(table.weight.clone(), requires_grad=False)
        without(table.weight, unit, output_first=False)
    for block in model.blocks:
        for name in LINEAR_WRITERS[architecture]:
            layer = block.get_submodule(name)
            without(layer.weight, unit, output_first=architecture != "gpt2")
            if layer.bias is not None:
                with torch.no_grad():
                    layer.bias.sub_((layer.bias @ unit) * unit)
    return model


@pytest.mark.parametrize("architecture", LINEAR_WRITERS)
def test_it_equals_weights_that_cannot_write_the_direction(architecture):
    model, direction = shared_tiny_model(architecture), random(D_MODEL)
    batch = padded(model)
    truth = logits(orthogonalised(tiny_chat_model(architecture), architecture, direction), batch)
    real = batch.attention_mask.bool()
    plain = logits(model, batch)
    with ablate_everywhere(model, direction):
        ablated = logits(model, batch)
    assert (ablated - truth)[real].abs().max() < 1e-3 * plain.abs().max()
    assert (ablated - plain)[real].abs().max() > 1e-2 * plain.abs().max()


@pytest.mark.parametrize("architecture", ["llama", "phi3"])
def test_generation_equals_that_of_such_weights(architecture):
    model, direction = talkative_tiny_model(architecture), random(D_MODEL)
    other = orthogonalised(talkative_tiny_model(architecture), architecture, direction)
    texts = ("Hello there", "How do I kill a Python process?")
    truth = generated(other, texts, 8)
    assert truth != generated(model, texts, 8)
    with ablate_everywhere(model, direction):
        assert generated(model, texts, 8) == truth


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nothing_is_left_after_it_nor_after_an_exception(architecture):
    model = shared_tiny_model(architecture)
    batch = padded(model)
    before, n_hooks = logits(model, batch), hooks(model)
    with ablate_everywhere(model, random(D_MODEL)):
        assert not torch.equal(logits(model, batch), before)
    assert torch.equal(logits(model, batch), before)
    with pytest.raises(KeyboardInterrupt), ablate_everywhere(model, random(D_MODEL)):
        raise KeyboardInterrupt
    assert torch.equal(logits(model, batch), before)
    assert hooks(model) == n_hooks


def test_two_directions_at_once_take_out_both():
    model = shared_tiny_model("llama")
    first, second = random(D_MODEL, seed=1), random(D_MODEL, seed=2)
    second = second - (second @ first) / (first @ first) * first
    with ablate_everywhere(model, first), ablate_everywhere(model, second):
        with received(model) as found:
            logits(model, padded(model))
    for point in found:
        for direction in (first, second):
            assert np.abs(point @ unit_of(direction).double().numpy()).max() < 1e-4


def test_a_block_copied_meanwhile_is_free_of_it():
    model = tiny_chat_model("llama")
    states = random(1, 3, D_MODEL)
    rotary = model.hf.base_model.rotary_emb(states, torch.arange(3)[None])
    truth = model.blocks[1](states, position_embeddings=rotary)
    with ablate_everywhere(model, random(D_MODEL)):
        block = copy.deepcopy(model.blocks[1])
        assert torch.equal(block(states, position_embeddings=rotary), truth)


def test_a_block_without_known_parts_is_an_error():
    with pytest.raises(UserError, match="no attention and MLP of a known name"):
        residual_writers(nn.Sequential(nn.Linear(2, 2)))


@pytest.mark.parametrize("length", [0.0, float("nan")])
def test_a_direction_without_length_is_an_error_that_leaves_no_hook(length):
    model, direction = shared_tiny_model("llama"), torch.zeros(D_MODEL)
    direction[0] = length
    n_hooks = hooks(model)
    with pytest.raises(UserError, match="direction has length"):
        with ablate_everywhere(model, direction):
            pass
    assert hooks(model) == n_hooks
