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
    from actor_lens import widgets as widgets
    from actor_lens.ablations import Ablations as Ablations
    from actor_lens.ablations import ablate as ablate
    from actor_lens.activations import Activations as Activations
    from actor_lens.activations import BlockInputs as BlockInputs
    from actor_lens.activations import Residuals as Residuals
    from actor_lens.activations import collect_activations as collect_activations
    from actor_lens.activations import collect_block_inputs as collect_block_inputs
    from actor_lens.activations import collect_residuals as collect_residuals
    from actor_lens.benchmarks import benchmark as benchmark
    from actor_lens.capability import Divergence as Divergence
    from actor_lens.capability import next_token_divergence as next_token_divergence
    from actor_lens.capability import reply_divergence as reply_divergence
    from actor_lens.comparison import compare as compare
    from actor_lens.description import ModelDescription as ModelDescription
    from actor_lens.description import describe as describe
    from actor_lens.directions import Directions as Directions
    from actor_lens.directions import refusal_directions as refusal_directions
    from actor_lens.errors import UserError as UserError
    from actor_lens.evaluation import Evaluation as Evaluation
    from actor_lens.evaluation import EvaluationChange as EvaluationChange
    from actor_lens.evaluation import compare_evaluations as compare_evaluations
    from actor_lens.evaluation import evaluate as evaluate
    from actor_lens.export import export_delta as export_delta
    from actor_lens.export import export_model as export_model
    from actor_lens.finetuning import finetune_layer as finetune_layer
    from actor_lens.hub_upload import upload_export as upload_export
    from actor_lens.judge_choice import make_judge as make_judge
    from actor_lens.judges import FirstTokenJudge as FirstTokenJudge
    from actor_lens.judges import KeywordJudge as KeywordJudge
    from actor_lens.layer_choice import LayerChoice as LayerChoice
    from actor_lens.layer_choice import LayerScores as LayerScores
    from actor_lens.layer_choice import PredictedRefusals as PredictedRefusals
    from actor_lens.layer_choice import current_refusals as current_refusals
    from actor_lens.layer_choice import predict_refusals as predict_refusals
    from actor_lens.layer_choice import score_layers as score_layers
    from actor_lens.layer_sweep import LayerSweep as LayerSweep
    from actor_lens.layer_sweep import sweep_layers as sweep_layers
    from actor_lens.leaderboard import Leaderboard as Leaderboard
    from actor_lens.llm_judge import JudgingCost as JudgingCost
    from actor_lens.llm_judge import LanguageModelJudge as LanguageModelJudge
    from actor_lens.lora import LoraExport as LoraExport
    from actor_lens.lora import export_lora as export_lora
    from actor_lens.model_card import Facts as Facts
    from actor_lens.models import ChatModel as ChatModel
    from actor_lens.models import load_model as load_model
    from actor_lens.panel_of_judges import CorrectedRates as CorrectedRates
    from actor_lens.panel_of_judges import JudgePanel as JudgePanel
    from actor_lens.panel_of_judges import judge_panel as judge_panel
    from actor_lens.projections import LayerMap as LayerMap
    from actor_lens.projections import Projections as Projections
    from actor_lens.projections import TokenProjections as TokenProjections
    from actor_lens.projections import layer_map as layer_map
    from actor_lens.projections import project as project
    from actor_lens.projections import token_projections as token_projections
    from actor_lens.prompts import Prompt as Prompt
    from actor_lens.prompts import PromptSet as PromptSet
    from actor_lens.prompts import load_prompts as load_prompts
    from actor_lens.prompts import overlap_report as overlap_report
    from actor_lens.prompts import split_prompts as split_prompts
    from actor_lens.store import Store as Store
    from actor_lens.store import default_store as default_store
    from actor_lens.targets import TargetPreview as TargetPreview
    from actor_lens.targets import Targets as Targets
    from actor_lens.targets import just_enough_targets as just_enough_targets
    from actor_lens.tasks import TaskScores as TaskScores
    from actor_lens.tasks import run_tasks as run_tasks
    from actor_lens.tasks import write_mmlu_task as write_mmlu_task
    from actor_lens.text_perplexity import Perplexity as Perplexity
    from actor_lens.text_perplexity import perplexity as perplexity
    from actor_lens.training_run import FinetuneConfig as FinetuneConfig
    from actor_lens.training_run import TrainingRun as TrainingRun
    from actor_lens.training_run import TrainingStep as TrainingStep
    from actor_lens.utility import Utility as Utility
    from actor_lens.utility import measure_utility as measure_utility

__version__ = "0.1.0"

# Where each public name lives. The imports above say the same to type checkers and editors; a test
# keeps the two alike.
_MODULES = {
    "ablations": ("Ablations", "ablate"),
    "activations": (
        "Activations",
        "BlockInputs",
        "Residuals",
        "collect_activations",
        "collect_block_inputs",
        "collect_residuals",
    ),
    "benchmarks": ("benchmark",),
    "description": ("ModelDescription", "describe"),
    "capability": ("Divergence", "next_token_divergence", "reply_divergence"),
    "directions": ("Directions", "refusal_directions"),
    "errors": ("UserError",),
    "evaluation": ("Evaluation", "EvaluationChange", "compare_evaluations", "evaluate"),
    "export": ("export_delta", "export_model"),
    "finetuning": ("finetune_layer",),
    "judge_choice": ("make_judge",),
    "panel_of_judges": ("CorrectedRates", "JudgePanel", "judge_panel"),
    "judges": ("FirstTokenJudge", "KeywordJudge"),
    "hub_upload": ("upload_export",),
    "layer_choice": (
        "LayerChoice",
        "LayerScores",
        "PredictedRefusals",
        "current_refusals",
        "predict_refusals",
        "score_layers",
    ),
    "layer_sweep": ("LayerSweep", "sweep_layers"),
    "llm_judge": ("JudgingCost", "LanguageModelJudge"),
    "lora": ("LoraExport", "export_lora"),
    "model_card": ("Facts",),
    "leaderboard": ("Leaderboard",),
    "comparison": ("compare",),
    "models": ("ChatModel", "load_model"),
    "projections": (
        "LayerMap",
        "Projections",
        "TokenProjections",
        "layer_map",
        "project",
        "token_projections",
    ),
    "prompts": ("Prompt", "PromptSet", "load_prompts", "overlap_report", "split_prompts"),
    "store": ("Store", "default_store"),
    "targets": ("TargetPreview", "Targets", "just_enough_targets"),
    "tasks": ("TaskScores", "run_tasks", "write_mmlu_task"),
    "text_perplexity": ("Perplexity", "perplexity"),
    "training_run": ("FinetuneConfig", "TrainingRun", "TrainingStep"),
    "utility": ("Utility", "measure_utility"),
}
_SUBPACKAGES = ("figures", "widgets")
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
