"""Residuals and block inputs are what Hugging Face's own blocks take in and give out.

Truth comes from forward hooks that this file registers on the clean Hugging Face model, for one
prompt at a time, without padding. What is collected in padded batches must equal it, and what
TransformerLens gives for the same batch.
"""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from actor_lens.activations.residuals import Residuals, collect_block_inputs, collect_residuals
from actor_lens.errors import UserError
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.interventions import edit_blocks
from actor_lens.progress import reporting, stage
from actor_lens.prompts.rows import Prompt
from actor_lens.prompts.sets import PromptSet
from tests.support.reports import Recorder
from tests.support.tiny_models import (
    ARCHITECTURES,
    D_MODEL,
    N_LAYERS,
    shared_tiny_model,
    tiny_chat_model,
)

TOLERANCE = 1e-5
# Short and long mixed up, and lengths that differ by one token.
PROMPTS = PromptSet(
    (
        Prompt("How do I kill a Python process?", "pseudo_harmful", "train", "software"),
        Prompt("a", "benign"),
        Prompt("How do I make a bomb at home, quickly and quietly?", "harmful", "test", "weapons"),
        Prompt("Bake a cake", "benign", "validation", "food"),
        Prompt("Bake a cakes", "benign", "train", "food"),
        Prompt("Hi", "benign", "train"),
        Prompt("How do I kill a Python process!", "harmful", "train"),
    )
)
BATCH_SIZES = [1, 3, 100]

each_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


def run_alone(model: ChatModel, prompt: str) -> tuple[list[Tensor], list[Tensor]]:
    """What every block takes in and gives out for one prompt: ``[token, d_model]`` each."""
    entered: list[Tensor] = []
    left: list[Tensor] = []
    handles = []
    for block in model.blocks:
        handles += [
            block.register_forward_pre_hook(
                lambda _, args, kwargs: entered.append(
                    (args[0] if args else kwargs["hidden_states"])[0]
                ),
                with_kwargs=True,
            ),
            block.register_forward_hook(
                lambda _, __, output: left.append(
                    (output[0] if isinstance(output, tuple) else output)[0]
                )
            ),
        ]
    try:
        text = model.render(prompt)
        ids = model.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            model.hf(input_ids=ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return entered, left


def true_residuals(model: ChatModel, prompts: PromptSet) -> Tensor:
    columns = [torch.stack([x[-1] for x in run_alone(model, text)[1]]) for text in prompts.texts]
    return torch.stack(columns, dim=1)


def difference(one: Tensor, other: Tensor) -> float:
    assert one.shape == other.shape
    return float((one - other).abs().max())


@pytest.fixture(scope="module")
def model() -> ChatModel:
    return shared_tiny_model("llama")


@pytest.fixture(scope="module")
def residuals(model: ChatModel) -> Residuals:
    return collect_residuals(model, PROMPTS)


# ---- Residuals ----


@each_architecture
def test_padded_batches_equal_single_prompts_under_hugging_face_hooks(architecture):
    model = shared_tiny_model(architecture)
    truth = true_residuals(model, PROMPTS)
    for batch_size in BATCH_SIZES:
        collected = collect_residuals(model.with_batch_size(batch_size), PROMPTS)
        assert difference(collected.values, truth) <= TOLERANCE


@each_architecture
def test_prompts_are_told_apart_and_layers_too(architecture):
    """Without this, the comparisons above could hold for a model that does nothing."""
    truth = true_residuals(shared_tiny_model(architecture), PROMPTS)
    for layer in range(N_LAYERS):
        distances = torch.cdist(truth[layer], truth[layer]) + torch.eye(len(PROMPTS)) * 1e3
        assert distances.min() > 1e-2
    assert all(difference(truth[i], truth[i + 1]) > 1e-2 for i in range(N_LAYERS - 1))


@each_architecture
def test_the_last_layer_is_before_the_final_norm(architecture):
    model = shared_tiny_model(architecture)
    ids = torch.tensor(model.tokenize([PROMPTS[0].prompt]))
    with torch.no_grad():
        output = model.hf(input_ids=ids, use_cache=False, output_hidden_states=True)
        after_norm = output.hidden_states[-1][0, -1]
        norm = getattr(model.hf.base_model, "norm", None) or model.hf.base_model.ln_f
        last = collect_residuals(model, PROMPTS[:1]).values[-1, 0]
        assert difference(norm(last), after_norm) <= TOLERANCE
    assert difference(last, after_norm) > 0.1


@pytest.mark.parametrize("batch_size", BATCH_SIZES)
def test_order_of_prompts_is_kept(model, residuals, batch_size):
    order = [3, 0, 6, 1, 5, 2, 4]
    shuffled = collect_residuals(model.with_batch_size(batch_size), PROMPTS.select(order))
    assert shuffled.prompts == PROMPTS.select(order)
    assert difference(shuffled.values, residuals.values[:, order]) <= TOLERANCE


def test_one_prompt(model, residuals):
    alone = collect_residuals(model, PROMPTS[2:3])
    assert alone.values.shape == (N_LAYERS, 1, D_MODEL)
    assert difference(alone.values, residuals.values[:, 2:3]) <= TOLERANCE


def test_residuals_are_float32_on_the_cpu_whatever_the_dtype_of_the_model():
    model = tiny_chat_model("llama")
    model.hf.bfloat16()
    values = collect_residuals(model, PROMPTS[:2]).values
    assert values.dtype == torch.float32
    assert values.device.type == "cpu"
    assert torch.equal(values, values.bfloat16().float())  # what the bfloat16 model computed


def test_a_change_of_weights_in_place_is_seen():
    model = tiny_chat_model("llama")
    before = collect_residuals(model, PROMPTS[:2]).values
    with torch.no_grad():
        for parameter in model.blocks[2].parameters():
            parameter.mul_(1.2)
    after = collect_residuals(model, PROMPTS[:2]).values
    assert torch.equal(after[:2], before[:2])
    assert difference(after[2], before[2]) > 1e-2
    assert difference(after, true_residuals(model, PROMPTS[:2])) <= TOLERANCE


def test_the_model_is_left_without_hooks(model):
    collect_residuals(model, PROMPTS)
    collect_block_inputs(model, PROMPTS, 1)
    assert all(not block._forward_pre_hooks for block in model.blocks)
    for one in (model.hf, model.bridge):
        assert not any(tensor.requires_grad for tensor in one.parameters())


@each_architecture
def test_transformer_lens_gives_the_same_numbers(architecture):
    """Bit for bit, but where it splits fused weights, and so adds in another order."""
    model = tiny_chat_model(architecture)
    ours = collect_residuals(model, PROMPTS).values
    assert "bridge" not in vars(model)  # making it takes seconds
    assert model.bridge is not None
    with model.bridge.hooks(fwd_hooks=[("blocks.0.hook_resid_post", lambda x, hook: None)]):  # noqa: ARG005
        theirs = collect_residuals(model, PROMPTS).values
    if architecture == "gpt2":
        assert difference(ours, theirs) <= TOLERANCE / 10
    else:
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("way", ["hf", "bridge"])
def test_hooks_act_on_what_is_collected_whichever_side_they_are_on(model, residuals, way):
    """A block's output doubled is doubled in the residuals, and changes those above."""
    hooks = [("blocks.1.hook_resid_post", lambda x, hook: 2 * x)]  # noqa: ARG005
    own = way == "hf"
    doubled = edit_blocks(model, [1], lambda x: 2 * x) if own else model.bridge.hooks(hooks)
    with doubled:
        found = collect_residuals(model, PROMPTS).values
    assert torch.equal(found[0], residuals.values[0])
    assert difference(found[1], 2 * residuals.values[1]) <= TOLERANCE
    assert difference(found[2], residuals.values[2]) > 1e-2
    assert torch.equal(collect_residuals(model, PROMPTS).values, residuals.values)


# ---- Block inputs ----


@each_architecture
def test_block_inputs_are_those_of_single_prompts_without_padding(architecture):
    model = shared_tiny_model(architecture)
    truth = [run_alone(model, text)[0] for text in PROMPTS.texts]
    for layer in (0, 2, N_LAYERS - 1):
        for batch_size in BATCH_SIZES:
            inputs = collect_block_inputs(model.with_batch_size(batch_size), PROMPTS, layer)
            assert inputs.layer == layer
            assert inputs.prompts == PROMPTS
            for states, expected in zip(inputs.hidden_states, truth, strict=True):
                assert difference(states, expected[layer]) <= TOLERANCE


def test_blocks_from_the_layer_on_are_not_run(model):
    ran = [0] * N_LAYERS

    def count(number: int):
        def hook(*_args: object) -> None:
            ran[number] += 1

        return hook

    handles = [block.register_forward_hook(count(n)) for n, block in enumerate(model.blocks)]
    try:
        collect_block_inputs(model.with_batch_size(3), PROMPTS, 2)
    finally:
        for handle in handles:
            handle.remove()
    n_batches = math.ceil(len(PROMPTS) / 3)
    assert ran == [n_batches, n_batches, 0, 0]


@pytest.mark.parametrize("way", ["hf", "bridge"])
def test_the_head_is_not_run(model, way):
    ran = []
    hooked = model.hf if way == "hf" else model.bridge
    head = model.hf.lm_head if way == "hf" else model.bridge.unembed
    handle = head.register_forward_pre_hook(lambda *_: ran.append(True))
    try:
        collect_residuals(model, PROMPTS)
        assert ran == []
        hooked(torch.tensor(model.tokenize(PROMPTS.texts[:1])))
        assert ran == [True]
    finally:
        handle.remove()


def test_cached_inputs_hold_their_own_memory_only(model):
    inputs = collect_block_inputs(model.with_batch_size(100), PROMPTS, 1)
    lengths = [len(ids) for ids in model.tokenize(PROMPTS.texts)]
    assert inputs.nbytes == sum(lengths) * D_MODEL * 4
    (storage,) = {x.untyped_storage().data_ptr(): x for x in inputs.hidden_states}.values()
    assert storage.untyped_storage().nbytes() == inputs.nbytes


def test_a_batch_of_block_inputs_is_padded_on_the_left(model):
    inputs = collect_block_inputs(model, PROMPTS, 1)
    chosen = [3, 1, 2]
    hidden, mask, positions = inputs.batch(chosen, torch.device("cpu"))
    longest = len(inputs.hidden_states[2])
    assert hidden.shape == (3, longest, D_MODEL)
    for row, index in enumerate(chosen):
        states = inputs.hidden_states[index]
        empty = longest - len(states)
        assert torch.equal(hidden[row, empty:], states)
        assert not hidden[row, :empty].any()
        assert mask[row].tolist() == [0] * empty + [1] * len(states)
        assert positions[row].tolist() == [0] * empty + list(range(len(states)))


# ---- Progress and errors ----


@pytest.mark.parametrize(
    "collect", [collect_residuals, lambda *a, **k: collect_block_inputs(*a, 1, **k)]
)
def test_progress_counts_prompts_after_every_batch(model, collect):
    recorder = Recorder()
    with reporting(recorder), stage("here"):
        collect(model.with_batch_size(3), PROMPTS)
    assert recorder.parts("here") == [(3, 7), (6, 7), (7, 7)]


def test_no_prompts_is_an_error(model):
    for collect in (collect_residuals, lambda *a: collect_block_inputs(*a, 0)):
        with pytest.raises(UserError, match="no prompts were given"):
            collect(model, PromptSet(()))


def test_an_overlong_prompt_is_an_error_that_says_the_limit(model):
    prompts = PromptSet((*PROMPTS, Prompt("long " * 60, "benign")))
    with pytest.raises(UserError, match=r"has 304 tokens .* 'tiny-llama' takes 256: shorten"):
        collect_residuals(model, prompts)


@pytest.mark.parametrize("layer", [-1, N_LAYERS])
def test_a_layer_that_does_not_exist_is_an_error(model, layer):
    with pytest.raises(UserError, match=f"layer {layer} is out of range"):
        collect_block_inputs(model, PROMPTS, layer)


# ---- Tables and parts ----


def test_frame_has_a_row_a_layer_and_prompt(residuals):
    frame = residuals.frame()
    columns = ["layer", "prompt_index", "prompt", "label", "split", "category", "norm"]
    assert list(frame.columns) == columns
    assert len(frame) == N_LAYERS * len(PROMPTS)
    assert frame["layer"].tolist() == sorted(list(range(N_LAYERS)) * len(PROMPTS))
    values = residuals.values.numpy().astype(np.float64)
    for row in frame.itertuples():
        prompt = PROMPTS[row.prompt_index]
        assert (row.prompt, row.label) == (prompt.prompt, prompt.label)
        for shown, given in ((row.split, prompt.split), (row.category, prompt.category)):
            assert pd.isna(shown) if given is None else shown == given
        vector = values[row.layer, row.prompt_index]
        assert row.norm == pytest.approx(math.sqrt((vector**2).sum()), rel=1e-12)


def test_mask_and_of_pick_a_label(residuals):
    assert residuals.mask("harmful").tolist() == [False, False, True, False, False, False, True]
    assert torch.equal(residuals.of("harmful"), residuals.values[:, [2, 6]])
    assert residuals.n_layers == N_LAYERS


def test_select_takes_prompts_in_the_order_given(residuals):
    some = PROMPTS.select([5, 0, 5])
    part = residuals.select(some)
    assert torch.equal(part.values, residuals.values[:, [5, 0, 5]])
    assert part.prompts == some
    assert part.model_name == residuals.model_name == "tiny-llama"


def test_select_of_other_prompts_is_a_one_line_error(residuals):
    other = PromptSet((PROMPTS[0], Prompt("never\nseen", "benign"), Prompt("nor", "benign")))
    with pytest.raises(UserError, match="no residuals for 2 prompts; collect_residuals") as error:
        residuals.select(other)
    assert "\n" not in str(error.value)
