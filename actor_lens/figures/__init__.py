"""Figures of the results: pure functions that take a result and return a plotly figure.

They show nothing, save nothing and measure nothing: they read a result's table and draw it. Each
says in its docstring what it shows, in which units, from which columns, what to look for, and how
it is misread. Text from outside is escaped, and what nobody sees in it is taken out.

Pass `config()` to `figure.show(config=...)` and `figure.to_html(config=...)`: it turns off the
button that uploads a figure, and with it the prompts.

    result                  figures
    projections             projections_by_layer, prompts_at_layer, prompt_shifts
    projections of tokens   token_heatmap
    residuals of a layer    layer_map
    scores of layers        layer_scores
    subspaces               subspace_steps
    targets                 target_preview
    just-enough shifts      just_enough_shift
    training run            training_curves
    evaluations             refusal_rates
    panel of judges         judge_confusion
    sweep                   layer_outcomes
    comparison              leaderboard_table, compliance_against_safety, tradeoff_scores
    ablations               ablation_scores, ablation_series, transfer_matrix
"""

from actor_lens.figures.ablations import ablation_scores, ablation_series, transfer_matrix
from actor_lens.figures.composition import Composition, Panel, compose
from actor_lens.figures.evaluation import refusal_rates
from actor_lens.figures.finetuning import training_curves, training_lines
from actor_lens.figures.judging import judge_confusion
from actor_lens.figures.layer_choice import layer_scores
from actor_lens.figures.layer_sweep import layer_outcomes
from actor_lens.figures.leaderboard import (
    compliance_against_safety,
    leaderboard_table,
    tradeoff_scores,
)
from actor_lens.figures.planes import just_enough_shift, layer_map, prompt_shifts
from actor_lens.figures.projections import projections_by_layer
from actor_lens.figures.prompts import prompts_at_layer, token_heatmap
from actor_lens.figures.subspaces import subspace_steps
from actor_lens.figures.targets import target_preview
from actor_lens.figures.theme import config, use_in_notebook

__all__ = [
    "Composition",
    "Panel",
    "ablation_scores",
    "ablation_series",
    "compliance_against_safety",
    "compose",
    "config",
    "judge_confusion",
    "just_enough_shift",
    "layer_map",
    "layer_outcomes",
    "layer_scores",
    "leaderboard_table",
    "projections_by_layer",
    "prompt_shifts",
    "prompts_at_layer",
    "refusal_rates",
    "subspace_steps",
    "target_preview",
    "token_heatmap",
    "tradeoff_scores",
    "training_curves",
    "training_lines",
    "transfer_matrix",
    "use_in_notebook",
]
