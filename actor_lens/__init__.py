"""Actor Lens: why does a chat model refuse harmless prompts, and which single layer repairs it?

The rooms of the package are the method, in order: `load_prompts` reads harmful, benign and
pseudo-harmful prompts, and `load_model` a chat model; `collect_residuals` caches the residual
stream after every layer; `refusal_directions` is the difference in means, harmful minus benign;
`project` places each prompt on it, and `score_layers` says at which layers the classes separate;
`just_enough_targets` sets where each prompt's activation should move at the chosen layer;
`finetune_layer` trains that one block to move it there; `evaluate` counts refusals, before and
after. `run_study` does all of it in one call, `compare` puts other methods beside it.

Every result has a table (`.frame()`), plain values (`.summary()`) and shows itself in a few lines.
`actor_lens.figures` draws results, `actor_lens.widgets` lets you explore; `actor_lens.judges`,
`actor_lens.prompts`, `actor_lens.export` and `actor_lens.methods` hold what is needed less often.

Importing the package is quick: `__init__.pyi` lists the names, and each is loaded on first use.
"""

import importlib
import os
from typing import Any

import lazy_loader

__version__ = "0.1.0"

# Threads that wait for one another by spinning take the core from the one they wait for as soon as
# another program runs too: by libgomp's own number of turns work takes up to ten times as long, and
# by none a third more on idle cores. So few take a sixth of a millisecond; other libraries know
# only whether to spin. Read when torch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

# Names that are found here too, though not listed: types of results, and what is needed rarely.
_RARE = {
    "activations.residuals": "Activations BlockInputs Residuals "
    "collect_activations collect_block_inputs",
    "activations.store": "Store default_store",
    "diagnostics.description": "ModelDescription",
    "directions.just_enough_shift": "JustEnoughShift",
    "directions.layer_scores": "LayerChoice LayerScores",
    "directions.predicted_refusals": "PredictedRefusals current_refusals",
    "directions.projections": "LayerMap Projections TokenProjections",
    "directions.refusal_directions": "Directions",
    "directions.subspaces": "RefusalSubspace refusal_subspace",
    "directions.targets": "TargetPreview Targets",
    "evaluation.corrected_rates": "CorrectedRates",
    "evaluation.changes": "EvaluationChange",
    "evaluation.divergence": "Divergence next_token_divergence reply_divergence",
    "evaluation.evaluate": "Evaluation",
    "evaluation.harness": "TaskScores",
    "evaluation.panel": "JudgePanel",
    "evaluation.perplexity": "Perplexity",
    "evaluation.utility": "Utility",
    "experiments.ablations.results": "Ablations",
    "experiments.comparison.leaderboard": "Leaderboard",
    "experiments.harmfulness": "Harmfulness harmfulness",
    "experiments.look": "Look",
    "experiments.sweep.layer_sweep": "LayerSweep",
    "export.folders": "export_delta export_model",
    "export.hub_upload": "upload_export",
    "export.lora": "LoraExport export_lora",
    "judges.first_token": "FirstTokenJudge RefusalTokens",
    "judges.keywords": "KeywordJudge",
    "judges.language_model": "JudgingCost LanguageModelJudge",
    "prompts.checks": "overlap_report",
    "prompts.form": "balance_form",
    "prompts.splits": "split_prompts",
    "statistics.form_control": "FormControl form_control",
    "training.run": "TrainingStep",
}
_RARE_HOME = {name: module for module, names in _RARE.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    """Load a name on first use."""
    if name not in _RARE_HOME:
        return _load(name)
    return getattr(importlib.import_module(f"{__name__}.{_RARE_HOME[name]}"), name)
