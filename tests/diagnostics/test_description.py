"""A description says what is true of a model, and its comparisons notice what is wrong.

Facts are compared with the model's configuration and with a count of its tensors. Faults are
planted one at a time: a twin that reads other numbers, padding that changes results, a block whose
training differs from the model. Estimates are compared with what the real objects take.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from transformers import DynamicCache

import actor_lens as al
from actor_lens.activations.residuals import Residuals, collect_block_inputs
from actor_lens.diagnostics import description
from actor_lens.diagnostics.memory_needs import memory_needs
from actor_lens.models.memory import cache_bytes_per_token
from actor_lens.prompts.rows import LABELS, Prompt
from actor_lens.prompts.sets import PromptSet
from actor_lens.training.block_trainer import BlockTrainer
from actor_lens.training.config import FinetuneConfig
from tests.support.tiny_models import (
    D_MODEL,
    N_LAYERS,
    SOME_ARCHITECTURES,
    shared_tiny_model,
    tiny_chat_model,
    tiny_tokenizer,
)
from tests.support.tiny_runs import copied_tensors, same_bits, tiny_prompts

each_architecture = pytest.mark.parametrize("architecture", SOME_ARCHITECTURES)


def checks_of(found):
    return {check.name: check for check in found.checks}


# ---- Facts ----


@each_architecture
def test_the_facts_are_those_of_the_model(architecture):
    model = shared_tiny_model(architecture)
    found = al.describe(model)
    assert (found.n_layers, found.d_model, found.heads) == (N_LAYERS, D_MODEL, 4)
    assert found.vocabulary == model.hf.get_output_embeddings().weight.shape[0] == 300
    assert found.parameters == model.hf.num_parameters()
    pointers = {p.data_ptr(): p.nbytes for p in model.hf.state_dict().values()}
    assert found.memory.weights == sum(pointers.values())
    assert found.tied_embeddings == (architecture in ("gemma2", "gemma3_text", "gpt2"))
    assert (found.dtype, found.quantization, found.devices) == ("float32", None, ("cpu",))
    assert found.max_tokens == 256
    assert found.end_tokens == (1, 3)  # of the config, and of the template


def test_it_leaves_the_model_as_it_was():
    model = tiny_chat_model()
    before = copied_tensors(model)
    al.describe(model)
    assert same_bits(copied_tensors(model), before)
    assert not model.is_hooked


def test_the_last_token_of_the_example_is_marked():
    found = al.describe(shared_tiny_model(), tiny_prompts())
    assert found.example == shared_tiny_model().render(tiny_prompts().texts[0])
    assert "".join(found.example_tokens) == found.example
    assert found.marked_example == found.example.removesuffix("<assistant>") + "«<assistant>»"


def test_the_table_and_the_record_hold_the_same_as_the_description():
    found = al.describe(shared_tiny_model("gemma2"))
    frame = found.frame().set_index(["part", "name"])["value"]
    assert list(found.frame().columns) == ["part", "name", "value"]
    assert frame["model", "n_layers"] == N_LAYERS
    assert frame["model", "attention"] == "sliding 8: 2 layers, full: 2 layers"
    assert frame["memory", "collect"] == found.memory.collect
    assert frame["support", "padding"] is True
    record = found.summary()
    assert record["supported"] is True
    assert record["memory"]["train"] == found.memory.train
    assert [check["passed"] for check in record["checks"]] == [True] * 3


# ---- Warnings ----


@pytest.mark.parametrize(
    ("opening", "said"),
    [("{{ bos_token }}", None), ("{{ bos_token }}{{ bos_token }}", "two beginning tokens")],
)
def test_a_second_beginning_token_is_noticed(opening, said):
    template = opening + "{{ messages[0]['content'] }}"
    model = replace(shared_tiny_model(), tokenizer=tiny_tokenizer(template))
    warnings = al.describe(model).warnings
    assert [said in one for one in warnings] == ([True] if said else [])


SAYS = "{{ bos_token }}{% for m in messages %}<user>{{ m['content'] }}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("<|system|>\nYou are a kind helper, made here.<end>" + SAYS, "You are a kind helper"),
        ("<|im_start|>system\nYou are a kind AI assistant.<|im_end|>" + SAYS, "AI assistant"),
        ("A chat between a curious user and a helper. " + SAYS, "curious user and"),
        ("A chat with a kind and curious helper. USER: " + SAYS, 'helper.")'),
        ("<|im_start|>system\n<|im_end|>[INST] ### Human: " + SAYS, None),
        (SAYS + "{% if add_generation_prompt %}<assistant><think>{% endif %}", "--new-tokens"),
        (SAYS + "{% if enable_thinking %}<think>{% endif %}", None),
    ],
)
def test_what_a_template_says_and_thinks_by_itself_is_noticed(template, said):
    model = replace(shared_tiny_model(), tokenizer=tiny_tokenizer(template))
    warnings = " ".join(al.describe(model).warnings)
    assert ("system prompt of its own" in warnings or "thinks" in warnings) == (said is not None)
    assert (said or "") in warnings


def test_a_short_context_and_little_memory_are_noticed(monkeypatch):
    model = tiny_chat_model()
    assert al.describe(model).warnings == ()
    model.hf.config.max_position_embeddings = 200
    monkeypatch.setattr("actor_lens.diagnostics.model_warnings.free_memory", lambda _: 1000)
    context, evaluating, training = al.describe(model).warnings
    assert "the context is 200 tokens" in context
    assert "evaluating with full batches" in evaluating
    assert "training with full batches" in training


def test_a_template_without_the_beginning_token_that_the_tokenizer_adds_is_noticed():
    from tokenizers import processors

    tokenizer = tiny_tokenizer("{{ messages[0]['content'] }}")
    model = replace(shared_tiny_model(), tokenizer=tokenizer)
    assert al.describe(model).warnings == ()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    (warning,) = al.describe(model).warnings
    assert "the chat template does not" in warning


# ---- Comparisons ----


def test_other_numbers_from_the_twin_are_noticed(monkeypatch):
    collect = description.collect_residuals

    def off(model, prompts, **options):
        found = collect(model, prompts, **options)
        values = found.values.clone()
        values[2, 1] *= 1.001
        return Residuals(values, found.prompts, found.model_name)

    monkeypatch.setattr(description, "collect_residuals", off)
    found = al.describe(shared_tiny_model())
    assert not found.supported
    assert checks_of(found)["residuals"].passed is False
    assert math.isclose(checks_of(found)["residuals"].difference, 1e-3, rel_tol=0.01)
    assert checks_of(found)["training"].passed is True


def test_results_that_depend_on_padding_are_noticed(monkeypatch):
    collect = description.collect_residuals

    def off(model, prompts, **options):
        residuals = collect(model, prompts, **options)
        values = residuals.values + (model.batch_size > 1)
        return Residuals(values, residuals.prompts, residuals.model_name)

    monkeypatch.setattr(description, "collect_residuals", off)
    found = checks_of(al.describe(shared_tiny_model()))
    assert (found["residuals"].passed, found["padding"].passed) == (True, False)


@pytest.mark.parametrize("fault", ["other numbers", "not finite", "no cache"])
def test_a_block_that_trains_otherwise_than_the_model_runs_is_noticed(monkeypatch, fault):
    forward = description.last_activations

    def off(*arguments):
        if fault == "no cache":
            raise NotImplementedError("Block does not use past_key_values")
        return forward(*arguments) * (float("nan") if fault == "not finite" else 1.01)

    monkeypatch.setattr(description, "last_activations", off)
    found = al.describe(shared_tiny_model())
    assert not found.supported
    assert checks_of(found)["training"].passed is False


def test_a_twin_that_cannot_be_made_is_told_and_is_no_support(monkeypatch):
    def fail(*_arguments, **_options):
        raise al.UserError("TransformerLens does not wrap it")

    monkeypatch.setattr(description, "collect_residuals", fail)
    found = al.describe(shared_tiny_model())
    assert not found.supported
    assert checks_of(found)["residuals"].message == "TransformerLens does not wrap it"


def test_it_compares_on_the_first_three_prompts(monkeypatch):
    seen = []
    collect = description.collect_residuals

    def record(model, prompts, **options):
        seen.append(prompts.texts)
        return collect(model, prompts, **options)

    monkeypatch.setattr(description, "collect_residuals", record)
    al.describe(shared_tiny_model(), tiny_prompts())
    assert seen == [tiny_prompts().texts[:3]] * 2


def test_no_prompts():
    with pytest.raises(al.UserError, match="give at least one"):
        al.describe(shared_tiny_model(), PromptSet((), name="none"))


# ---- Memory ----


@each_architecture
def test_the_cache_takes_what_transformers_cache_takes(architecture):
    model, tokens = shared_tiny_model(architecture), 6  # fewer than a sliding window holds
    cache = DynamicCache(config=model.hf.config)
    with torch.no_grad():
        model.hf(torch.arange(10, 10 + tokens)[None], past_key_values=cache, use_cache=True)
    taken = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert cache_bytes_per_token(model) * tokens == taken


@each_architecture
def test_training_takes_four_float32_copies_of_the_block_and_its_inputs(architecture):
    prompts = PromptSet(
        tuple(Prompt(f"{label[:4]} {number}", label) for label in LABELS for number in range(3)),
        name="of one length",
    )
    model = shared_tiny_model(architecture)
    (length,) = {len(ids) for ids in model.tokenize(prompts.texts)}
    inputs = collect_block_inputs(model, prompts, 1, store=False)
    trainer = BlockTrainer(model, FinetuneConfig(layer=1, epochs=1), inputs)
    trainer.take_step()
    taken = sum(one.nbytes + one.grad.nbytes for one in trainer.block.parameters())
    for state in trainer._optimizer.state.values():
        taken += state["exp_avg"].nbytes + state["exp_avg_sq"].nbytes
    needs = memory_needs(model, prompt_tokens=length, train_prompts=len(prompts))
    assert needs.train - needs.collect == taken + inputs.nbytes


def test_half_precision_halves_the_weights():
    full = memory_needs(al.load_model("toy"))
    half = memory_needs(al.load_model("toy", dtype="bfloat16"))
    assert half.weights * 2 == full.weights
    assert half.weights < half.collect < full.collect
