"""A block run apart from the network does exactly what it does inside the network.

Truth comes from the Hugging Face model alone: forward hooks that this file registers, and
autograd through the whole forward pass. Every architecture has left-padded prompts of several
lengths, all of them longer than the sliding windows.
"""

import copy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from actor_lens.errors import UserError
from actor_lens.models.batches import TokenBatch, pad_batch
from actor_lens.models.blocks import (
    block_arguments,
    graft,
    graft_from_cache,
    last_token_output,
    tap_blocks,
)
from actor_lens.models.chat_model import ChatModel
from tests.support.tiny_models import ARCHITECTURES, N_LAYERS, shared_tiny_model

PROMPTS = ["Hello there", "How do I kill a Python process?", "Hi you", "Bake me a cake, please!"]
WINDOW = 8
FIRST, MIDDLE, LAST = 0, N_LAYERS // 2, N_LAYERS - 1
TOLERANCE = 1e-5

each_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)
each_layer = pytest.mark.parametrize("layer", [FIRST, MIDDLE, LAST])


@dataclass
class Truth:
    """What the Hugging Face model's own forward pass showed."""

    block_inputs: list[Tensor]
    block_outputs: list[Tensor]
    logits: Tensor


def record_block_input(model, layer, batch):
    received = []
    tap_blocks(model, batch, before={layer: received.append})
    return received[0]


def padded(model: ChatModel, prompts: list[str] = PROMPTS) -> TokenBatch:
    return pad_batch(
        model.tokenize(prompts), pad_token_id=model.pad_token_id, device=torch.device("cpu")
    )


def inputs_of(batch: TokenBatch) -> dict[str, Tensor]:
    return {"attention_mask": batch.attention_mask, "position_ids": batch.position_ids}


def run_hf(hf: nn.Module, blocks: nn.ModuleList, batch: TokenBatch) -> Truth:
    """A whole forward pass with hooks on every block."""
    entered: list[Tensor] = []
    left: list[Tensor] = []
    handles = [
        handle
        for block in blocks
        for handle in (
            block.register_forward_pre_hook(
                lambda _, args, kwargs: entered.append(
                    args[0] if args else kwargs["hidden_states"]
                ),
                with_kwargs=True,
            ),
            block.register_forward_hook(
                lambda _, __, output: left.append(
                    output[0] if isinstance(output, tuple) else output
                )
            ),
        )
    ]
    try:
        logits = hf(batch.input_ids, **inputs_of(batch), use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()
    return Truth(entered, left, logits)


def copied(model: ChatModel) -> tuple[nn.Module, nn.ModuleList]:
    """A Hugging Face model of its own weights, free to be changed, and its blocks."""
    hf = copy.deepcopy(model.hf)
    return hf, getattr(hf.base_model, model.blocks_name)


def altered(block: nn.Module) -> nn.Module:
    block = copy.deepcopy(block)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.mul_(1.1).add_(0.05)
    return block


def difference(one: Tensor, other: Tensor) -> float:
    assert one.shape == other.shape
    return float((one - other).abs().max())


def at_last_token(model: ChatModel, layer: int, block: nn.Module, batch: TokenBatch) -> Tensor:
    states = record_block_input(model, layer, batch)
    arguments = block_arguments(model, layer, states, **inputs_of(batch))
    return last_token_output(block, states, arguments)


# ---- The block on its cached input ----


@each_architecture
@each_layer
def test_output_at_the_last_token_is_that_of_the_full_forward(architecture, layer):
    model = shared_tiny_model(architecture)
    batch = padded(model)
    with torch.no_grad():
        truth = run_hf(model.hf, model.blocks, batch).block_outputs[layer][:, -1]
        output = at_last_token(model, layer, model.blocks[layer], batch)
    assert difference(output, truth) <= TOLERANCE


@each_architecture
@each_layer
def test_gradients_are_those_of_the_full_forward(architecture, layer):
    model = shared_tiny_model(architecture)
    batch = padded(model)
    weights = torch.randn(len(PROMPTS), model.d_model, generator=torch.Generator().manual_seed(1))

    hf, blocks = copied(model)
    blocks[layer].requires_grad_(True)
    (run_hf(hf, blocks, batch).block_outputs[layer][:, -1] * weights).sum().backward()

    block = copy.deepcopy(model.blocks[layer]).requires_grad_(True)
    (at_last_token(model, layer, block, batch) * weights).sum().backward()

    truth = dict(blocks[layer].named_parameters())
    for name, parameter in block.named_parameters():
        expected = truth.pop(name).grad
        assert expected.norm() > 0, name
        assert (parameter.grad - expected).norm() <= TOLERANCE * expected.norm(), name
    assert not truth


@pytest.mark.parametrize("architecture", ["mistral", "gemma2", "gemma3_text"])
def test_the_windows_of_these_tests_really_slide(architecture):
    model = shared_tiny_model(architecture)
    batch = padded(model)
    assert model.hf.config.sliding_window == WINDOW < int(batch.attention_mask.sum(dim=1).min())
    states = torch.zeros(*batch.input_ids.shape, model.d_model)
    mask = block_arguments(model, FIRST, states, **inputs_of(batch))["attention_mask"]
    attended = (mask[0, 0, -1] == 0) if mask.is_floating_point() else mask[0, 0, -1]
    assert int(attended.sum()) == WINDOW


@pytest.mark.parametrize("architecture", ["gemma2", "gemma3_text"])
def test_each_kind_of_layer_gets_its_own_mask(architecture):
    model = shared_tiny_model(architecture)
    batch = padded(model)
    states = torch.zeros(*batch.input_ids.shape, model.d_model)
    sliding, full = (
        block_arguments(model, layer, states, **inputs_of(batch))["attention_mask"]
        for layer in (0, 1)
    )
    assert not torch.equal(sliding, full)


def test_one_prompt_without_padding_and_one_prompt_of_one_token():
    model = shared_tiny_model("llama")
    for ids in ([[5, 6, 7, 8]], [[5]]):
        batch = pad_batch(ids, pad_token_id=2, device=torch.device("cpu"))
        with torch.no_grad():
            truth = run_hf(model.hf, model.blocks, batch).block_outputs[MIDDLE][:, -1]
            output = at_last_token(model, MIDDLE, model.blocks[MIDDLE], batch)
        assert difference(output, truth) <= TOLERANCE


def test_the_second_run_is_told_the_last_position_of_each_prompt():
    class Block(nn.Module):
        def forward(self, hidden_states: Tensor, past_key_values, **kwargs: object) -> Tensor:
            self.given = kwargs
            keys, _values = past_key_values.update(hidden_states, hidden_states, 0)
            return hidden_states + keys[:, :1]

    block, states = Block(), torch.arange(6.0).reshape(2, 3, 1)
    mask = torch.arange(18.0).reshape(2, 1, 3, 3)
    positions = torch.tensor([[0, 1, 2], [0, 0, 1]])
    rotary = (states + 10, states + 20)
    arguments = {
        "attention_mask": mask,
        "position_ids": positions,
        "position_embeddings": rotary,
        "layer_idx": 3,
    }
    output = last_token_output(block, states, arguments)
    assert output.tolist() == [[2.0 + 0.0], [5.0 + 3.0]]
    assert torch.equal(block.given["attention_mask"], mask[:, :, 2:])
    assert block.given["position_ids"].tolist() == [[2], [1]]
    cos, sin = block.given["position_embeddings"]
    assert torch.equal(cos, states[:, 2:] + 10)
    assert torch.equal(sin, states[:, 2:] + 20)
    assert block.given["layer_idx"] == 3


def test_a_block_that_ignores_the_cache_is_refused():
    class Plain(nn.Module):
        def forward(self, hidden_states: Tensor, **_kwargs: object) -> Tensor:
            return hidden_states

    with pytest.raises(NotImplementedError, match="Plain does not use past_key_values"):
        last_token_output(Plain(), torch.zeros(1, 2, 3), {})


# ---- What a block receives ----


@each_architecture
@each_layer
def test_recorded_input_is_what_the_block_received(architecture, layer):
    model = shared_tiny_model(architecture)
    batch = padded(model)
    with torch.no_grad():
        truth = run_hf(model.hf, model.blocks, batch).block_inputs[layer]
        recorded = record_block_input(model, layer, batch)
    assert torch.equal(recorded, truth)


@contextmanager
def noted_runs(model: ChatModel) -> Iterator[list[int]]:
    """The layers whose blocks run, in order."""
    ran: list[int] = []
    handles = [
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
        for number, block in enumerate(model.blocks)
    ]
    try:
        yield ran
    finally:
        for handle in handles:
            handle.remove()


def test_no_block_runs_without_need():
    model = shared_tiny_model("llama")
    batch = padded(model)
    with noted_runs(model) as ran:
        states = record_block_input(model, MIDDLE, batch)
    assert ran == list(range(MIDDLE))
    with noted_runs(model) as ran:
        block_arguments(model, MIDDLE, states, **inputs_of(batch))
    assert ran == []
    with noted_runs(model) as ran:
        graft_from_cache(model, MIDDLE, states)(inputs_embeds=states, **inputs_of(batch))
    assert ran == list(range(MIDDLE, N_LAYERS))


@pytest.mark.parametrize("layer", [-1, N_LAYERS])
def test_a_layer_that_does_not_exist_is_refused(layer):
    model = shared_tiny_model("llama")
    with pytest.raises(UserError, match=r"out of range: 'tiny-llama' has layers 0 to 3"):
        graft(model, {layer: nn.Identity()})


# ---- Grafts ----


def snapshot(hf: nn.Module) -> dict[str, object]:
    """Everything of a model that a graft might touch."""
    return {
        "modules": {name: id(module) for name, module in hf.named_modules()},
        "children": {name: list(module._modules) for name, module in hf.named_modules()},
        "tensors": {name: id(tensor) for name, tensor in hf.named_parameters()},
        "gradients": {name: tensor.requires_grad for name, tensor in hf.named_parameters()},
        "hooks": {
            name: (len(module._forward_hooks), len(module._forward_pre_hooks))
            for name, module in hf.named_modules()
        },
        "attributes": {name: sorted(vars(module)) for name, module in hf.named_modules()},
    }


@each_architecture
def test_a_graft_leaves_the_model_as_it_was(architecture):
    model = shared_tiny_model(architecture)
    batch = padded(model)
    with torch.no_grad():
        logits = run_hf(model.hf, model.blocks, batch).logits
        before = snapshot(model.hf)
        tensors = {name: tensor.clone() for name, tensor in model.hf.state_dict().items()}

        grafted = graft(model, {MIDDLE: altered(model.blocks[MIDDLE])})
        changed = grafted(batch.input_ids, **inputs_of(batch), use_cache=False).logits
        assert difference(changed, logits) > 1e-3
        # The graft is still in use here.
        assert torch.equal(run_hf(model.hf, model.blocks, batch).logits, logits)
        states = record_block_input(model, MIDDLE, batch)
        block_arguments(model, MIDDLE, states, **inputs_of(batch))

    assert snapshot(model.hf) == before
    after = model.hf.state_dict()
    assert list(after) == list(tensors)
    assert all(torch.equal(after[name], tensor) for name, tensor in tensors.items())


@each_architecture
def test_a_graft_shares_every_tensor_but_those_of_the_replaced_block(architecture):
    model = shared_tiny_model(architecture)
    grafted = graft(model, {MIDDLE: altered(model.blocks[MIDDLE])})
    prefix = model.block_prefix(MIDDLE)
    own = dict(model.hf.named_parameters())
    other = {name for name, tensor in grafted.named_parameters() if tensor is not own[name]}
    assert other == {name for name in own if name.startswith(prefix)}


@each_architecture
@each_layer
def test_a_graft_with_a_changed_block_is_the_model_with_that_block_changed(architecture, layer):
    model = shared_tiny_model(architecture)
    batch = padded(model)
    block = altered(model.blocks[layer])
    hf, blocks = copied(model)
    blocks[layer].load_state_dict(block.state_dict())
    with torch.no_grad():
        truth = run_hf(hf, blocks, batch).logits
        logits = graft(model, {layer: block})(
            batch.input_ids, **inputs_of(batch), use_cache=False
        ).logits
    assert torch.equal(logits[:, -1], truth[:, -1])


@each_architecture
@each_layer
def test_a_graft_from_cache_gives_the_logits_of_the_full_model(architecture, layer):
    model = shared_tiny_model(architecture)
    batch = padded(model)
    with torch.no_grad():
        truth = run_hf(model.hf, model.blocks, batch)
        states = truth.block_inputs[layer]
        logits = graft_from_cache(model, layer, states)(
            inputs_embeds=states, **inputs_of(batch), use_cache=False
        ).logits
    assert difference(logits[:, -1], truth.logits[:, -1]) <= TOLERANCE


@each_architecture
@each_layer
def test_a_graft_from_cache_with_a_changed_block(architecture, layer):
    model = shared_tiny_model(architecture)
    batch = padded(model)
    block = altered(model.blocks[layer])
    hf, blocks = copied(model)
    blocks[layer].load_state_dict(block.state_dict())
    with torch.no_grad():
        truth = run_hf(hf, blocks, batch)
        states = truth.block_inputs[layer]
        logits = graft_from_cache(model, layer, states, block)(
            inputs_embeds=states, **inputs_of(batch), use_cache=False
        ).logits
    assert difference(logits[:, -1], truth.logits[:, -1]) <= TOLERANCE


def test_a_cached_input_is_taken_in_the_dtype_of_the_model():
    model = shared_tiny_model("llama")
    batch = padded(model)
    with torch.no_grad():
        truth = run_hf(model.hf, model.blocks, batch)
        states = truth.block_inputs[MIDDLE].double()
        logits = graft_from_cache(model, MIDDLE, states)(
            inputs_embeds=states.float(), **inputs_of(batch), use_cache=False
        ).logits
    assert logits.dtype == torch.float32
    assert difference(logits[:, -1], truth.logits[:, -1]) <= TOLERANCE


def test_model_and_grafts_run_side_by_side_in_threads():
    model = shared_tiny_model("llama")
    batch = padded(model)

    def run(hf: nn.Module) -> Tensor:
        with torch.no_grad():
            return hf(batch.input_ids, **inputs_of(batch), use_cache=False).logits

    replacements = [altered(model.blocks[layer]) for layer in range(N_LAYERS)]
    plain = run(model.hf)
    alone = [run(graft(model, {layer: new})) for layer, new in enumerate(replacements)]

    def use_model(_: int) -> bool:
        return torch.equal(run(model.hf), plain)

    def use_graft(turn: int) -> bool:
        layer = turn % N_LAYERS
        return torch.equal(run(graft(model, {layer: replacements[layer]})), alone[layer])

    with ThreadPoolExecutor(2) as threads:
        of_model = threads.map(use_model, range(60))
        of_grafts = threads.map(use_graft, range(60))
        assert all([*of_model, *of_grafts])
