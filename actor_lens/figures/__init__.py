"""Figures of the results: pure functions that take a result and return a plotly figure.

They show nothing, save nothing and measure nothing: they read a result's `.frame()` and draw it.
Pass `config()` to `figure.show(config=...)` and `figure.to_html(config=...)`: it turns off the
button that uploads a figure, and with it the prompts.
"""

from actor_lens.figures.composition import Composition, Panel, compose
from actor_lens.figures.evaluation import refusal_rates
from actor_lens.figures.finetuning import training_curves, training_lines
from actor_lens.figures.judging import judge_confusion
from actor_lens.figures.layer_choice import layer_scores
from actor_lens.figures.layer_sweep import layer_outcomes
from actor_lens.figures.projections import layer_map, projections_by_layer, prompt_shifts
from actor_lens.figures.prompts import prompts_at_layer, token_heatmap
from actor_lens.figures.targets import target_preview
from actor_lens.figures.theme import config, use_in_notebook

__all__ = [
    "Composition",
    "Panel",
    "compose",
    "config",
    "judge_confusion",
    "layer_map",
    "layer_outcomes",
    "layer_scores",
    "projections_by_layer",
    "prompt_shifts",
    "prompts_at_layer",
    "refusal_rates",
    "target_preview",
    "token_heatmap",
    "training_curves",
    "training_lines",
    "use_in_notebook",
]
