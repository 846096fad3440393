"""A model that is in memory already is the same model: its tensors, its logits, its fingerprint."""

import numpy as np
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

import actor_lens as al
from actor_lens.models.module_trees import name_in_memory_tokenizer
from tests.support.tiny_models import CHAT_TEMPLATE, tiny_chat_model, tiny_tokenizer
from tests.support.tiny_runs import quick_run

IDS = torch.arange(20)[None] * 7 % 300


def bridge_of(architecture="llama"):
    """A bridge as users make it, and the logits of its model before it was one."""
    model = tiny_chat_model(architecture)
    with torch.no_grad():
        expected = model.hf(IDS).logits
    name_in_memory_tokenizer(model.tokenizer)
    model.hf.config.architectures = [type(model.hf).__name__]
    bridge = TransformerBridge.boot_transformers(
        "tiny", hf_model=model.hf, tokenizer=model.tokenizer, device="cpu", dtype=torch.float32
    )
    return bridge, expected


def refusal(act):
    with pytest.raises(al.UserError) as error:
        act()
    assert len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < 400
    return str(error.value)


def test_a_model_of_transformers_is_the_one_that_its_folder_holds(tmp_path):
    made = tiny_chat_model()
    made.hf.save_pretrained(tmp_path)
    made.tokenizer.save_pretrained(tmp_path)
    hf = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model, by_name = al.load_model(hf, tokenizer=tokenizer), al.load_model(tmp_path)
    assert model.hf is hf
    assert model.fingerprint == by_name.fingerprint
    kind = al.load_model(hf, tokenizer=tokenizer, system_prompt="Be kind", batch_size=2)
    assert (kind.system_prompt, kind.batch_size) == ("Be kind", 2)
    run = quick_run(model, epochs=1)
    with run.applied_to(by_name):
        pass


def test_a_template_for_a_model_in_memory_leaves_its_tokenizer_alone():
    made, tokenizer = tiny_chat_model(), tiny_tokenizer(None)
    assert "no chat template" in refusal(lambda: al.load_model(made.hf, tokenizer=tokenizer))
    model = al.load_model(made.hf, tokenizer=tokenizer, chat_template=CHAT_TEMPLATE)
    assert model.fingerprint == made.fingerprint
    assert tokenizer.chat_template is None


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", "gemma3_text", "phi3"])
def test_a_bridge_is_the_model_below_it(architecture):
    bridge, expected = bridge_of(architecture)
    model = al.load_model(bridge)
    with torch.no_grad():
        assert torch.equal(model.hf(IDS).logits, expected)
        after = bridge(IDS)  # it stays what it was
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-4)
    assert model.fingerprint == tiny_chat_model(architecture).fingerprint
    assert al.describe(model).supported


def test_a_bridge_sees_what_is_changed_and_its_hooks_stay_behind():
    bridge, expected = bridge_of()
    bridge.add_hook("blocks.1.hook_resid_post", lambda value, hook: value * 0)  # noqa: ARG005
    model = al.load_model(bridge)
    assert not model.is_hooked
    with torch.no_grad():
        assert torch.equal(model.hf(IDS).logits, expected)
        model.hf.lm_head.weight.zero_()
        assert not bridge(IDS).any()


def test_a_bridge_with_folded_weights_is_refused():
    bridge, _ = bridge_of()
    bridge.enable_compatibility_mode()
    assert "folded" in refusal(lambda: al.load_model(bridge))


class HookedTransformer(torch.nn.Module):
    """Stands in for TransformerLens' own, which takes seconds to make."""


class PeftModel(torch.nn.Module):
    """Stands in for PEFT's."""


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda hf: hf, "needs its tokenizer"),
        (lambda hf: AutoModel.from_config(hf.config), "not a causal language model"),
        (lambda hf: torch.nn.DataParallel(hf), "wraps a model"),
        (lambda _: HookedTransformer(), "TransformerBridge"),
        (lambda _: PeftModel(), "merge_and_unload"),
        (lambda hf: type(hf)(hf.config).to("meta"), "does not fit on its devices"),
        (lambda _: None, "NoneType"),
        (lambda _: {"model": 1}, "dict"),
        (lambda _: np.zeros(3), "ndarray"),
        (lambda _: tiny_tokenizer(), "give a name"),
    ],
)
def test_what_is_no_model_is_one_line(make, words):
    assert words in refusal(lambda: al.load_model(make(tiny_chat_model().hf)))


def test_what_says_how_to_load_is_not_taken_for_a_model_in_memory():
    made = tiny_chat_model()
    al.load_model(made.hf, tokenizer=made.tokenizer, device="auto", dtype="auto")
    for options in (
        {"device": "cpu"},
        {"device_map": "auto"},
        {"dtype": "float32"},
        {"adapter": "x"},
        {"revision": "v1"},
    ):
        message = refusal(
            lambda options=options: al.load_model(made.hf, tokenizer=made.tokenizer, **options)
        )
        assert "in memory already" in message
    assert "a str was given" in refusal(lambda: al.load_model(made.hf, tokenizer="toy"))
    message = refusal(lambda: al.load_model("toy", tokenizer=made.tokenizer))
    assert "has its own" in message
