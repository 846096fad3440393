"""Cells of notebooks that show a dashboard: of the bundled model, a deep one, strange prompts."""

# A part of the bundled prompts, and few rounds of resampling: what is tested is the page.
TOY = """
import actor_lens as al
from actor_lens import widgets
from actor_lens.experiments.look import look_at_layers

model = al.load_model("toy")
whole = al.load_prompts("toy")
parts = [whole.where(split=split).sample(20) for split in ("train", "validation", "test")]
prompts = al.PromptSet(tuple(one for part in parts for one in part))
look = look_at_layers(model, prompts, train=prompts.by_split()[0], rounds=2)
"""
DASHBOARD = """
dashboard = widgets.Dashboard(model, prompts, look=look)
dashboard
"""
# 1,002 drawn prompts at 32 layers, of a random model that is quick otherwise.
DEEP = """
import torch
from transformers import LlamaConfig, LlamaForCausalLM
import actor_lens as al
from actor_lens import widgets
from actor_lens.judges.first_token import RefusalTokens
from actor_lens.directions.layer_scores import LayerScore, LayerScores
from actor_lens.models.chat_model import wrap_model
from actor_lens.statistics.separation import Measurement
from actor_lens.experiments.look import Look
from tests.support.tiny_models import ARCHITECTURES, tiny_tokenizer
from tests.support.tiny_runs import tiny_prompts

torch.manual_seed(0)
config = LlamaConfig(**{**ARCHITECTURES["llama"], "num_hidden_layers": 32})
model = wrap_model(LlamaForCausalLM(config), tiny_tokenizer(), name="deep")
train, drawn = tiny_prompts(20, "train"), tiny_prompts(334, "validation", offset=200)
prompts = al.PromptSet(train.prompts + drawn.prompts)
residuals = al.collect_residuals(model, train)
directions = al.refusal_directions(residuals)
projections = al.project(al.collect_residuals(model, drawn), directions)
measured = Measurement(0.9, 0.8, 0.95, 0.4, 0.6)
rows = tuple(LayerScore(layer, "auroc", "harmful_vs_benign", measured) for layer in range(32))
tokens = RefusalTokens(tuple(range(0, 300, 2)), ("",) * 150)
look = Look(prompts, residuals, directions, projections, tokens, LayerScores(rows, 32), {})
"""
STRANGE = (
    TOY
    + """
import dataclasses

texts = [
    "<img src=x onerror='window.harmed = 1'>",
    "<script>window.harmed = 1</script>",
    "</pre></textarea><h1>large</h1>",
    "one line\\nand another",
    "\\U0001f600 \\U0001f3f3\\ufe0f\\u200d\\U0001f308",
    "\\u202emirrored\\u202c \\u0645\\u0631\\u062d\\u0628\\u0627",
    "costs $5 or $6, **bold**, %{x} and {{ 7 * 7 }}",
    "z" * 10_000,
]
shown = look.projections.prompts
strange = al.PromptSet(
    tuple(
        dataclasses.replace(prompt, prompt=f"{number} {texts[number % len(texts)]}"[:150])
        for number, prompt in enumerate(shown)
    )
)
residuals = dataclasses.replace(look.projections.residuals, prompts=strange)
look = dataclasses.replace(
    look, projections=dataclasses.replace(look.projections, residuals=residuals)
)
prompts = al.PromptSet(
    tuple(one for one in prompts if one.split != "validation") + strange.prompts
)
"""
)
UPDATES_NOTED = """
import time

sent = []
dashboard.figure.observe(
    lambda change: change["new"] and sent.append(time.time()), "_py2js_update"
)
"""
