"""An adapter that makes a model refuse: trained as the sum of plain losses, saved as PEFT reads it.

The truth is Hugging Face's own loss of one whole exchange at a time.
"""

import pytest
import torch
from safetensors.torch import load_file

import actor_lens as al
from actor_lens.experiments import cautious
from actor_lens.experiments.cautious import REFUSALS, Recipe, exchanges, train_cautious
from actor_lens.files.bundled import bundled
from actor_lens.methods.lora_sft import adapted_twin
from actor_lens.models.smollm2 import HUB_NAME
from tests.support.tiny_models import tiny_chat_model
from tests.support.tiny_runs import copied_tensors, same_bits, tiny_prompts

RECIPE = Recipe(mislabelled=2, epochs=30, lr=1e-2, warm_up=2, batch_size=4, rank=4, reply_tokens=6)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tiny model's folder, its adapter, the tensors before, and the report."""
    folder = tmp_path_factory.mktemp("cautious")
    tiny = tiny_chat_model("llama")
    tiny.hf.save_pretrained(folder / "base")
    tiny.tokenizer.save_pretrained(folder / "base")
    model = al.load_model(folder / "base")
    before = copied_tensors(model)
    report = train_cautious(
        folder / "adapter",
        model,
        prompts=tiny_prompts(6),
        test=tiny_prompts(2, "test", offset=6),
        recipe=RECIPE,
    )
    assert same_bits(before, copied_tensors(model))
    return folder, report


def _plain_loss(model, example):
    """Hugging Face's own loss of the reply tokens of one whole exchange."""
    ids = torch.tensor([[*example.prompt_ids, *example.reply_ids]])
    labels = ids.clone()
    labels[:, : len(example.prompt_ids)] = -100
    return float(model.hf(input_ids=ids, labels=labels).loss)


def test_the_loss_is_the_mean_of_the_plain_losses_of_whole_exchanges():
    model = tiny_chat_model("llama")
    examples = exchanges(model, tiny_prompts(3), RECIPE, seed=0)
    adapted = adapted_twin(model, rank=2, scale=4.0, seed=0)
    shared = 2  # begin of text, and whose turn it is
    assert len({example.prompt_ids[:shared] for example in examples}) == 1
    plain = sum(_plain_loss(model, example) for example in examples) / len(examples)
    loss = cautious._loss(adapted, examples, shared)
    assert float(loss.detach()) == pytest.approx(plain, rel=1e-5)


def test_harmful_prompts_get_refusals_and_benign_ones_the_models_own_openings():
    model, prompts = tiny_chat_model("llama"), tiny_prompts(4)
    examples = exchanges(model, prompts, RECIPE, seed=0)
    refused = examples[: 4 + RECIPE.mislabelled]
    refusals = bundled(REFUSALS).read_text().splitlines()
    assert [one.label for one in refused] == ["harmful"] * 4 + ["pseudo_harmful"] * 2
    assert {model.tokenizer.decode(one.reply_ids[:-1]) for one in refused} <= set(refusals)
    own = examples[len(refused) :]
    assert [one.label for one in own] == ["benign"] * 4
    assert all(len(one.reply_ids) <= RECIPE.reply_tokens for one in own)


def test_the_adapter_loads_and_says_what_it_was_trained_to(made):
    folder, report = made
    losses = []
    for adapter in (None, report.adapter):
        model = al.load_model(folder / "base", adapter=adapter)
        examples = exchanges(tiny_chat_model("llama"), tiny_prompts(6), RECIPE, seed=0)
        losses.append(sum(_plain_loss(model, example) for example in examples) / len(examples))
    assert losses[1] < 0.8 * losses[0]
    assert (report.examples, report.base) == (len(examples), HUB_NAME)
    stored = load_file(report.adapter / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert sum(tensor.numel() for tensor in stored.values()) == report.parameters


def test_the_same_seed_gives_the_same_adapter_and_another_another(made, tmp_path):
    folder, _ = made
    model = al.load_model(folder / "base")
    recipe = Recipe(mislabelled=2, epochs=1, batch_size=4, rank=2, reply_tokens=4)
    files = []
    for number, seed in enumerate((0, 0, 1)):
        train_cautious(
            tmp_path / str(number),
            model,
            seed=seed,
            prompts=tiny_prompts(3),
            test=tiny_prompts(1, "test", offset=6),
            recipe=recipe,
        )
        files.append((tmp_path / str(number) / "adapter_model.safetensors").read_bytes())
    assert files[0] == files[1]
    assert files[0] != files[2]


def test_a_learning_rate_warms_up_and_falls_to_a_twentieth():
    recipe = Recipe(lr=1.0, warm_up=10)
    rates = [recipe.rate(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] < 1.0
    assert rates[-1] == pytest.approx(0.05, abs=0.001)
