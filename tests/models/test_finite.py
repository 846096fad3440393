"""Nothing is concluded from numbers that are not numbers: one error, which names the cause."""

from dataclasses import replace

import pytest
import torch

from actor_lens.activations.residuals import collect_activations, collect_residuals
from actor_lens.diagnostics.description import describe
from actor_lens.directions.projections import token_projections
from actor_lens.directions.refusal_directions import refusal_directions
from actor_lens.errors import UserError
from actor_lens.evaluation.evaluate import evaluate
from actor_lens.evaluation.perplexity import perplexity
from actor_lens.export.folders import export_delta, export_model
from actor_lens.judges.first_token import RefusalTokens, refusal_scores_after_shifts
from actor_lens.models.chat_model import wrap_model
from actor_lens.models.finite import NotFiniteError
from actor_lens.models.replies import first_token_logits, generate_replies
from actor_lens.progress import stage
from actor_lens.training.finetuning import finetune_layer
from tests.support.tiny_models import D_MODEL, shared_tiny_model, tiny_chat_model
from tests.support.tiny_runs import quick_run, tiny_prompts

WORK = {
    "replies": lambda model, prompts: generate_replies(model, prompts.texts, new_tokens=3),
    "first tokens": lambda model, prompts: first_token_logits(model, prompts.texts),
    "residuals": lambda model, prompts: collect_residuals(model, prompts, store=False),
    "block inputs": lambda model, prompts: collect_activations(
        model, prompts, residuals=False, block_inputs=[3], store=False
    ),
    "rates": evaluate,
    "training": lambda model, prompts: finetune_layer(model, prompts, layer=3, epochs=1),
    "a prompt's tokens": lambda model, prompts: token_projections(
        model, prompts.texts[0], sound_directions()
    ),
    "shifted prompts": lambda model, prompts: refusal_scores_after_shifts(
        model,
        prompts.texts,
        RefusalTokens((1,), ("",)),
        {2: (torch.zeros(len(prompts)), torch.ones(D_MODEL))},
    ),
    "perplexity": lambda model, _prompts: perplexity(model, "Some text."),
}
each_work = pytest.mark.parametrize("work", WORK.values(), ids=WORK)


def sound_directions():
    residuals = collect_residuals(shared_tiny_model(), tiny_prompts(), store=False)
    return refusal_directions(residuals)


def broken_model(value):
    model = tiny_chat_model()
    model.blocks[1].mlp.down_proj.weight[3, 5] = value
    return model


@each_work
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_end_all_work(work, value):
    with pytest.raises(NotFiniteError, match=r"layers\.1\.mlp\.down_proj.*model again"):
        work(broken_model(value), tiny_prompts())


def test_the_error_names_the_stage():
    with stage("residuals (train)"), pytest.raises(UserError, match=r"\(residuals \(train\)\)"):
        collect_residuals(broken_model(float("nan")), tiny_prompts(), store=False)


def test_a_description_says_that_the_model_is_not_read_rightly():
    found = describe(broken_model(float("nan")))
    assert not found.supported
    assert {check.passed for check in found.checks} == {False}
    assert "down_proj" in found.checks[0].message


@each_work
def test_an_overflow_in_float16_names_other_number_formats(work):
    model = tiny_chat_model()
    for projection in (model.blocks[1].mlp.up_proj, model.blocks[1].mlp.down_proj):
        projection.weight.mul_(1e5)
    half = wrap_model(model.hf.half(), model.tokenizer)
    with pytest.raises(NotFiniteError, match=r"float16.*bfloat16 or float32"):
        work(half, tiny_prompts())


def test_scores_that_are_masked_on_purpose_are_no_fault():
    def forbid(_prompts):
        def process(_ids, scores):
            return scores.index_fill(1, torch.tensor([9]), -torch.inf)

        return process

    model = replace(shared_tiny_model(), decoding=forbid)
    texts = tiny_prompts().texts
    assert (first_token_logits(model, texts)[:, 9] == -torch.inf).all()
    assert len(generate_replies(model, texts, new_tokens=2)) == len(texts)


@pytest.mark.parametrize("export", [export_model, export_delta])
def test_weights_that_are_no_numbers_are_not_exported(export, tmp_path):
    model = tiny_chat_model()
    run = quick_run(model)
    next(iter(run.state.values()))[0] = float("nan")
    with pytest.raises(UserError, match="NaN"):
        export(model, run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
