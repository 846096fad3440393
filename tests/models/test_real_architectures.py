"""Laws of real architectures, from the folder to the rates.

A model of each family, saved with the family's own tokenizer class and a chat template in its
style, loads by the name of its folder, is spoken to as its template says, is read as Hugging Face's
hooks read it, is trained in one block only, and is evaluated.
"""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch

import actor_lens as al
from actor_lens.cli.models_command import TRIED
from actor_lens.diagnostics.description import ModelDescription
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.chat_templates import end_of_turn
from actor_lens.models.replies import generate_replies
from tests.support.family_models import FAMILIES, save_family_model
from tests.support.tiny_models import ARCHITECTURES, N_LAYERS
from tests.support.tiny_runs import copied_tensors, quick_run, tiny_prompts

each_family = pytest.mark.parametrize("family", FAMILIES)
LAYER = 1


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a family's model, written when first asked for."""
    return cache(lambda family: save_family_model(family, tmp_path_factory.mktemp(family)))


@pytest.fixture(scope="module")
def loaded(saved):
    """A family's model, loaded from its folder once for all tests, which leave it as it is."""
    return cache(lambda family: al.load_model(str(saved(family))))


@pytest.fixture(scope="module")
def described(loaded):
    return cache(lambda family: al.describe(loaded(family)))


def test_no_architecture_is_left_out():
    assert set(ARCHITECTURES) <= set(FAMILIES) == set(TRIED)


@each_family
def test_a_family_is_spoken_to_as_its_template_says(family, loaded):
    model: ChatModel = loaded(family)
    expected = FAMILIES[family]
    assert type(model.tokenizer).__name__ == expected.tokenizer_class
    assert model.render("Hello") == expected.hello
    (ids,) = model.tokenize(["Hello"])
    bos = model.tokenizer.bos_token_id
    assert ids.count(bos) == int(expected.begins)
    assert (ids[0] == bos) == expected.begins
    assert model.tokenizer.decode(ids).replace(" ", "") == expected.hello.replace(" ", "")


@each_family
def test_a_system_prompt_reaches_the_model_or_is_refused(family, saved):
    expected = FAMILIES[family].system
    if expected is None:
        with pytest.raises(al.UserError, match="has no system role; leave the system prompt out"):
            al.load_model(saved(family), system_prompt="Be kind")
    else:
        model = al.load_model(saved(family), system_prompt="Be kind")
        assert model.render("Hello") == expected


@each_family
def test_a_family_is_described_and_its_support_verified(family, described):
    expected, found = FAMILIES[family], described(family)
    assert isinstance(found, ModelDescription)
    assert found.supported
    assert found.warnings == ()
    assert [check.passed for check in found.checks] == [True, True, True]
    assert found.attention == expected.attention
    assert found.tied_embeddings == expected.tied
    assert (found.heads, found.key_value_heads) == (4, expected.key_value_heads)
    assert found.system_role == (expected.system is not None)
    assert found.thinking_switch == (family == "qwen3")


@each_family
def test_a_family_is_trained_in_one_block_and_evaluated(family, loaded):
    model: ChatModel = loaded(family)
    prompts = tiny_prompts()
    before = copied_tensors(model)
    replies = al.evaluate(model, prompts, new_tokens=3)
    run = quick_run(model, prompts, layer=LAYER, epochs=2)
    assert run.status == "completed"
    assert run.history[-1].epoch == 2
    with run.applied_to(model):
        applied = copied_tensors(model)
        changed = al.evaluate(model, prompts, new_tokens=3)
    assert len(replies.frame()) == len(changed.frame()) == len(prompts)
    differing = {name for name, tensor in applied.items() if not torch.equal(tensor, before[name])}
    assert differing
    assert all(name.startswith(model.block_prefix(LAYER)) for name in differing)
    assert torch.isfinite(al.collect_residuals(model, prompts, store=False).values).all()
    assert all(torch.equal(tensor, before[name]) for name, tensor in copied_tensors(model).items())


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3"])
def test_any_of_the_end_tokens_of_the_folder_ends_a_reply(family, saved, loaded, tmp_path):
    model: ChatModel = loaded(family)
    prompt = "Hello"
    (ids,) = model.tokenize([prompt])
    with torch.no_grad():
        first = int(model.hf(torch.tensor([ids])).logits[0, -1].argmax())
    own = model.hf.generation_config.eos_token_id
    assert first != own
    folder = Path(shutil.copytree(saved(family), tmp_path / "model"))
    settings = json.loads((folder / "generation_config.json").read_text())
    settings["eos_token_id"] = [own, first]
    (folder / "generation_config.json").write_text(json.dumps(settings))
    ending = al.load_model(folder)

    # Beside those of the folder, the one with which the template ends a turn.
    assert al.describe(ending).end_tokens[:2] == (own, first)
    assert set(al.describe(ending).end_tokens) - {own, first} <= {end_of_turn(model.tokenizer)}
    spoken = model.tokenizer.decode([first], skip_special_tokens=True).strip()
    assert generate_replies(ending, [prompt], new_tokens=6) == [spoken]
    assert len(generate_replies(model, [prompt], new_tokens=6)[0]) > len(spoken)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", ["mistral", "gemma3_text", "phi3", "gpt2"])
def test_half_precision_is_supported_too(family, dtype, saved):
    found = al.describe(al.load_model(saved(family), dtype=dtype))
    assert found.supported, found.checks
    assert found.dtype == dtype
    assert found.n_layers == N_LAYERS
