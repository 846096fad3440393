"""Actor Lens: why does a chat model refuse harmless prompts, and which single layer mends it?

The pipeline, each stage a module and each result an object with a tidy `.frame()`: `load_prompts`
reads harmful, benign and pseudo-harmful prompts, and `load_model` a chat model; `collect_residuals`
caches the residual stream after every layer; `refusal_directions` is the difference in means,
harmful minus benign; `project` places each prompt on it, and `score_layers` says at which layers
the classes separate; `just_enough_targets` sets where each prompt's activation should move at the
chosen layer; `finetune_layer` trains that one block to move it there; `evaluate` counts refusals,
before and after. `actor_lens.figures` draws every result, `actor_lens.widgets` lets you explore.

Importing the package is quick: a name below loads its module (and torch) when it is first used.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actor_lens import figures as figures
    from actor_lens import prompts as prompts
    from actor_lens import widgets as widgets
    from actor_lens.activations.residuals import Activations as Activations
    from actor_lens.activations.residuals import BlockInputs as BlockInputs
    from actor_lens.activations.residuals import Residuals as Residuals
    from actor_lens.activations.residuals import collect_activations as collect_activations
    from actor_lens.activations.residuals import collect_block_inputs as collect_block_inputs
    from actor_lens.activations.residuals import collect_residuals as collect_residuals
    from actor_lens.activations.store import Store as Store
    from actor_lens.activations.store import default_store as default_store
    from actor_lens.diagnostics.description import ModelDescription as ModelDescription
    from actor_lens.diagnostics.description import describe as describe
    from actor_lens.directions.layer_scores import LayerChoice as LayerChoice
    from actor_lens.directions.layer_scores import LayerScores as LayerScores
    from actor_lens.directions.layer_scores import PredictedRefusals as PredictedRefusals
    from actor_lens.directions.layer_scores import current_refusals as current_refusals
    from actor_lens.directions.layer_scores import predict_refusals as predict_refusals
    from actor_lens.directions.layer_scores import score_layers as score_layers
    from actor_lens.directions.projections import LayerMap as LayerMap
    from actor_lens.directions.projections import Projections as Projections
    from actor_lens.directions.projections import TokenProjections as TokenProjections
    from actor_lens.directions.projections import layer_map as layer_map
    from actor_lens.directions.projections import project as project
    from actor_lens.directions.projections import token_projections as token_projections
    from actor_lens.directions.refusal_directions import Directions as Directions
    from actor_lens.directions.refusal_directions import refusal_directions as refusal_directions
    from actor_lens.directions.targets import TargetPreview as TargetPreview
    from actor_lens.directions.targets import Targets as Targets
    from actor_lens.directions.targets import just_enough_targets as just_enough_targets
    from actor_lens.errors import UserError as UserError
    from actor_lens.evaluation.divergence import Divergence as Divergence
    from actor_lens.evaluation.divergence import next_token_divergence as next_token_divergence
    from actor_lens.evaluation.divergence import reply_divergence as reply_divergence
    from actor_lens.evaluation.evaluate import Evaluation as Evaluation
    from actor_lens.evaluation.evaluate import EvaluationChange as EvaluationChange
    from actor_lens.evaluation.evaluate import compare_evaluations as compare_evaluations
    from actor_lens.evaluation.evaluate import evaluate as evaluate
    from actor_lens.evaluation.harness import TaskScores as TaskScores
    from actor_lens.evaluation.harness import run_tasks as run_tasks
    from actor_lens.evaluation.harness import write_mmlu_task as write_mmlu_task
    from actor_lens.evaluation.panel import CorrectedRates as CorrectedRates
    from actor_lens.evaluation.panel import JudgePanel as JudgePanel
    from actor_lens.evaluation.panel import judge_panel as judge_panel
    from actor_lens.evaluation.perplexity import Perplexity as Perplexity
    from actor_lens.evaluation.perplexity import perplexity as perplexity
    from actor_lens.evaluation.utility import Utility as Utility
    from actor_lens.evaluation.utility import measure_utility as measure_utility
    from actor_lens.experiments.ablations.ablate import Ablations as Ablations
    from actor_lens.experiments.ablations.ablate import ablate as ablate
    from actor_lens.experiments.comparison.compare import compare as compare
    from actor_lens.experiments.comparison.leaderboard import Leaderboard as Leaderboard
    from actor_lens.experiments.sweep.layer_sweep import LayerSweep as LayerSweep
    from actor_lens.experiments.sweep.layer_sweep import sweep_layers as sweep_layers
    from actor_lens.export.folders import export_delta as export_delta
    from actor_lens.export.folders import export_model as export_model
    from actor_lens.export.hub_upload import upload_export as upload_export
    from actor_lens.export.lora import LoraExport as LoraExport
    from actor_lens.export.lora import export_lora as export_lora
    from actor_lens.export.model_card import Facts as Facts
    from actor_lens.judges.by_name import make_judge as make_judge
    from actor_lens.judges.first_token import FirstTokenJudge as FirstTokenJudge
    from actor_lens.judges.keywords import KeywordJudge as KeywordJudge
    from actor_lens.judges.language_model import JudgingCost as JudgingCost
    from actor_lens.judges.language_model import LanguageModelJudge as LanguageModelJudge
    from actor_lens.models.chat_model import ChatModel as ChatModel
    from actor_lens.models.chat_model import load_model as load_model
    from actor_lens.prompts.checks import overlap_report as overlap_report
    from actor_lens.prompts.loading import load_prompts as load_prompts
    from actor_lens.prompts.public.loading import benchmark as benchmark
    from actor_lens.prompts.rows import Prompt as Prompt
    from actor_lens.prompts.sets import PromptSet as PromptSet
    from actor_lens.prompts.splits import split_prompts as split_prompts
    from actor_lens.training.config import FinetuneConfig as FinetuneConfig
    from actor_lens.training.finetuning import finetune_layer as finetune_layer
    from actor_lens.training.run import TrainingRun as TrainingRun
    from actor_lens.training.run import TrainingStep as TrainingStep

__version__ = "0.1.0"

# Where each public name lives. The imports above say the same to type checkers and editors; a test
# keeps the two alike.
_MODULES = {
    "prompts.rows": ("Prompt",),
    "prompts.sets": ("PromptSet",),
    "prompts.splits": ("split_prompts",),
    "prompts.checks": ("overlap_report",),
    "prompts.loading": ("load_prompts",),
    "prompts.public.loading": ("benchmark",),
    "models.chat_model": (
        "ChatModel",
        "load_model",
    ),
    "activations.residuals": (
        "Activations",
        "BlockInputs",
        "Residuals",
        "collect_activations",
        "collect_block_inputs",
        "collect_residuals",
    ),
    "activations.store": (
        "Store",
        "default_store",
    ),
    "judges.first_token": ("FirstTokenJudge",),
    "judges.keywords": ("KeywordJudge",),
    "judges.by_name": ("make_judge",),
    "judges.language_model": (
        "JudgingCost",
        "LanguageModelJudge",
    ),
    "directions.refusal_directions": (
        "Directions",
        "refusal_directions",
    ),
    "directions.projections": (
        "LayerMap",
        "Projections",
        "TokenProjections",
        "layer_map",
        "project",
        "token_projections",
    ),
    "directions.targets": (
        "TargetPreview",
        "Targets",
        "just_enough_targets",
    ),
    "directions.layer_scores": (
        "LayerChoice",
        "LayerScores",
        "PredictedRefusals",
        "current_refusals",
        "predict_refusals",
        "score_layers",
    ),
    "training.run": (
        "FinetuneConfig",
        "TrainingRun",
        "TrainingStep",
    ),
    "training.finetuning": ("finetune_layer",),
    "evaluation.evaluate": (
        "Evaluation",
        "EvaluationChange",
        "compare_evaluations",
        "evaluate",
    ),
    "evaluation.panel": (
        "CorrectedRates",
        "JudgePanel",
        "judge_panel",
    ),
    "evaluation.divergence": (
        "Divergence",
        "next_token_divergence",
        "reply_divergence",
    ),
    "evaluation.perplexity": (
        "Perplexity",
        "perplexity",
    ),
    "evaluation.harness": (
        "TaskScores",
        "run_tasks",
        "write_mmlu_task",
    ),
    "evaluation.utility": (
        "Utility",
        "measure_utility",
    ),
    "experiments.sweep.layer_sweep": (
        "LayerSweep",
        "sweep_layers",
    ),
    "experiments.comparison.compare": ("compare",),
    "experiments.comparison.leaderboard": ("Leaderboard",),
    "experiments.ablations.ablate": (
        "Ablations",
        "ablate",
    ),
    "export.folders": (
        "export_delta",
        "export_model",
    ),
    "export.lora": (
        "LoraExport",
        "export_lora",
    ),
    "export.model_card": ("Facts",),
    "export.hub_upload": ("upload_export",),
    "diagnostics.description": (
        "ModelDescription",
        "describe",
    ),
    "errors": ("UserError",),
}
_SUBPACKAGES = ("figures", "prompts", "widgets")
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = ["__version__", *_SUBPACKAGES, *_MODULE_OF]


def __getattr__(name: str) -> object:
    """Load a public name's module on first use (PEP 562)."""
    if name in _SUBPACKAGES:
        return importlib.import_module(f"actor_lens.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'actor_lens' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"actor_lens.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
