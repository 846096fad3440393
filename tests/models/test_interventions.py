"""An intervention does exactly what it says inside its context, and nothing outside it.

What flows after a block is read by this file's own hooks on the module that comes next. The
expected values are computed from the untouched flow in float64 numpy; generation is replayed by
a loop that runs the full sequence at every step, without a key-value cache.
"""

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from actor_lens.activations.residuals import collect_residuals
from actor_lens.errors import UserError
from actor_lens.models.batches import TokenBatch, pad_batch
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.interventions import ablate_everywhere, add_direction, shift_last_token
from actor_lens.prompts.rows import Prompt
from actor_lens.prompts.sets import PromptSet
from tests.support.greedy import greedy_ids
from tests.support.tiny_models import (
    D_MODEL,
    N_LAYERS,
    SOME_ARCHITECTURES,
    shared_tiny_model,
    talkative_tiny_model,
    tiny_chat_model,
)

PROMPTS = ["Hello there", "How do I kill a Python process?", "Hi"]
each_architecture = pytest.mark.parametrize("architecture", SOME_ARCHITECTURES)
each_layer = pytest.mark.parametrize("layer", [0, 2, N_LAYERS - 1])


def random(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def padded(model: ChatModel) -> TokenBatch:
    return pad_batch(
        model.tokenize(PROMPTS), pad_token_id=model.pad_token_id, device=torch.device("cpu")
    )


def module_after(model: ChatModel, layer: int) -> nn.Module:
    if layer + 1 < model.n_layers:
        return model.blocks[layer + 1]
    base = model.hf.base_model
    return base.ln_f if hasattr(base, "ln_f") else base.norm


def flow(model: ChatModel) -> tuple[list[np.ndarray], np.ndarray]:
    """The residual stream after every block, as the next module receives it, and the logits."""
    received: list[np.ndarray] = []
    handles = [
        module_after(model, layer).register_forward_pre_hook(
            lambda _, args, kwargs: received.append(
                (args[0] if args else kwargs["hidden_states"]).double().numpy()
            ),
            with_kwargs=True,
        )
        for layer in range(model.n_layers)
    ]
    batch = padded(model)
    try:
        with torch.no_grad():
            logits = model.hf(
                batch.input_ids,
                attention_mask=batch.attention_mask,
                position_ids=batch.position_ids,
                use_cache=False,
            ).logits
    finally:
        for handle in handles:
            handle.remove()
    return received, logits.double().numpy()


def hooks(model: ChatModel) -> int:
    return sum(len(module._forward_hooks) for module in model.hf.modules())


# ---- What happens inside ----


@each_architecture
@each_layer
def test_shift_adds_each_row_to_its_prompt_at_the_last_token_only(architecture, layer):
    model = shared_tiny_model(architecture)
    shifts = random(len(PROMPTS), D_MODEL)
    plain, plain_logits = flow(model)
    with shift_last_token(model, layer, shifts):
        shifted, shifted_logits = flow(model)
    for below in range(layer):
        assert np.array_equal(shifted[below], plain[below])
    expected = plain[layer].copy()
    expected[:, -1] += shifts.double().numpy()
    assert np.array_equal(shifted[layer][:, :-1], plain[layer][:, :-1])
    assert np.abs(shifted[layer] - expected).max() < 1e-5
    assert np.abs(shifted_logits[:, -1] - plain_logits[:, -1]).max() > 1e-2


@each_architecture
@each_layer
def test_add_direction_adds_the_vector_at_every_token(architecture, layer):
    model = shared_tiny_model(architecture)
    vector = random(D_MODEL)
    plain, _ = flow(model)
    with add_direction(model, layer, vector):
        added, _ = flow(model)
    for below in range(layer):
        assert np.array_equal(added[below], plain[below])
    assert np.abs(added[layer] - (plain[layer] + vector.double().numpy())).max() < 1e-5


def test_nested_contexts_act_together_and_end_one_by_one():
    model = shared_tiny_model("llama")
    first, second = random(D_MODEL, seed=1), random(D_MODEL, seed=2)
    plain, _ = flow(model)
    with add_direction(model, 1, first):
        with add_direction(model, 1, second):
            both, _ = flow(model)
        one, _ = flow(model)
    none, _ = flow(model)
    assert np.abs(both[1] - (plain[1] + (first + second).double().numpy())).max() < 1e-5
    assert np.abs(one[1] - (plain[1] + first.double().numpy())).max() < 1e-5
    assert np.array_equal(none[1], plain[1])


def test_the_rest_of_a_tuple_is_handed_on():
    class WithExtras(nn.Module):
        def forward(self, hidden_states: Tensor) -> tuple[Tensor, str, int]:
            return hidden_states, "attention", 7

    model = tiny_chat_model("llama")
    model.blocks[1] = WithExtras()
    states, vector = random(2, 3, D_MODEL), random(D_MODEL, seed=4)
    with add_direction(model, 1, vector):
        residual, *extras = model.blocks[1](states)
    assert torch.equal(residual, states + vector)
    assert extras == ["attention", 7]


def test_shifts_are_taken_in_the_dtype_of_the_model():
    model = tiny_chat_model("llama")
    model.hf.bfloat16()
    states, shifts = random(2, 3, D_MODEL).bfloat16(), random(2, D_MODEL, seed=4)
    blocks = model.blocks
    blocks[1] = nn.Identity()
    with shift_last_token(model, 1, shifts):
        shifted = blocks[1](states)
    assert shifted.dtype == torch.bfloat16
    assert torch.equal(shifted[:, -1], states[:, -1] + shifts.bfloat16())


def test_the_output_of_the_block_itself_is_not_written_to():
    model = tiny_chat_model("llama")
    model.blocks[1] = nn.Identity()
    states = random(2, 3, D_MODEL)
    kept = states.clone()
    with shift_last_token(model, 1, random(2, D_MODEL)):
        model.blocks[1](states)
    assert torch.equal(states, kept)


# ---- Generation ----


@contextmanager
def at_positions(model: ChatModel, layer: int, start: int, stop: int | None, shift: Tensor):
    """The test's own intervention: a vector at some token positions of the full sequence."""

    def hook(_block: nn.Module, _args: object, output: Tensor) -> Tensor:
        edited = output.clone()
        edited[:, start:stop] += shift
        return edited

    handle = model.blocks[layer].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def replayed(model: ChatModel, ids: list[int], n: int, edited: AbstractContextManager) -> list[int]:
    with edited:
        return greedy_ids(model.hf, ids, n)


def generated(model: ChatModel, ids: list[int], n: int) -> list[int]:
    output = model.hf.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=n,
        min_new_tokens=n,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=2,
    )
    return output[0, len(ids) :].tolist()


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
def test_a_shift_is_felt_at_the_last_prompt_token_and_not_at_generated_ones(architecture):
    model = talkative_tiny_model(architecture)
    ids = model.tokenize(["How do I kill a Python process?"])[0]
    layer, n, end = 1, 12, len(ids)
    shift = 3.0 * random(1, D_MODEL)
    truth = replayed(model, ids, n, at_positions(model, layer, end - 1, end, shift))
    everywhere = replayed(model, ids, n, at_positions(model, layer, end - 1, None, shift))
    nowhere = greedy_ids(model.hf, ids, n)
    assert truth != everywhere  # else this test could not tell
    assert truth != nowhere
    with shift_last_token(model, layer, shift):
        assert generated(model, ids, n) == truth
    assert generated(model, ids, n) == nowhere


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
def test_an_added_direction_is_felt_at_every_token(architecture):
    model = talkative_tiny_model(architecture)
    ids = model.tokenize(["How do I kill a Python process?"])[0]
    vector = 3.0 * random(D_MODEL)
    truth = replayed(model, ids, 12, at_positions(model, 1, 0, None, vector))
    assert truth != greedy_ids(model.hf, ids, 12)
    with add_direction(model, 1, vector):
        assert generated(model, ids, 12) == truth


# ---- Nothing is left ----


def interventions(model: ChatModel) -> Iterator[object]:
    yield shift_last_token(model, 1, random(len(PROMPTS), D_MODEL))
    yield add_direction(model, 1, random(D_MODEL))
    yield ablate_everywhere(model, random(D_MODEL))


@each_architecture
def test_logits_are_bit_equal_after_the_context(architecture):
    model = shared_tiny_model(architecture)
    before, n_hooks = flow(model)[1], hooks(model)
    for intervention in interventions(model):
        with intervention:
            assert not np.array_equal(flow(model)[1], before)
        assert np.array_equal(flow(model)[1], before)
    assert hooks(model) == n_hooks


@pytest.mark.parametrize("reason", [ValueError, KeyboardInterrupt])
def test_logits_are_bit_equal_after_an_exception(reason):
    model = shared_tiny_model("llama")
    before, n_hooks = flow(model)[1], hooks(model)
    for intervention in interventions(model):
        with pytest.raises(reason), intervention:
            raise reason
        assert np.array_equal(flow(model)[1], before)
    assert hooks(model) == n_hooks


def test_gradients_can_be_recorded_again_after_the_context():
    model = shared_tiny_model("llama")
    with add_direction(model, 1, random(D_MODEL)):
        pass
    assert torch.is_grad_enabled()


def test_inside_the_context_residuals_are_changed_and_a_twin_made_there_is_not():
    model = tiny_chat_model("llama")
    prompts = PromptSet((Prompt("Hello", "benign"), Prompt("Hi there", "benign")))
    truth = collect_residuals(tiny_chat_model("llama"), prompts).values
    vector = random(D_MODEL)
    with add_direction(model, 1, vector):
        inside = collect_residuals(model, prompts).values
        assert not model.bridge.hook_dict["blocks.1.hook_out"].has_hooks()  # it is made here
    torch.testing.assert_close(inside[1] - truth[1], vector.expand_as(truth[1]))
    assert torch.equal(inside[0], truth[0])
    assert not torch.equal(inside[2], truth[2])
    assert torch.equal(collect_residuals(model, prompts).values, truth)


def test_a_block_copied_inside_the_context_is_free_of_it():
    model = tiny_chat_model("llama")
    model.blocks[1] = nn.Linear(D_MODEL, D_MODEL).requires_grad_(False)
    states = random(2, 3, D_MODEL)
    truth = model.blocks[1](states)
    with add_direction(model, 1, random(D_MODEL)):
        block = copy.deepcopy(model.blocks[1])
        assert torch.equal(block(states), truth)
        assert not torch.equal(model.blocks[1](states), truth)
    assert torch.equal(block(states), truth)


# ---- Errors ----


@pytest.mark.parametrize("layer", [-1, N_LAYERS])
def test_a_layer_that_does_not_exist_is_an_error_that_leaves_no_hook(layer):
    model = shared_tiny_model("llama")
    n_hooks = hooks(model)
    for intervention in (
        shift_last_token(model, layer, random(1, D_MODEL)),
        add_direction(model, layer, random(D_MODEL)),
    ):
        with pytest.raises(UserError, match=f"layer {layer} is out of range"), intervention:
            pass
    assert hooks(model) == n_hooks
