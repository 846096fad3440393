"""Labelled prompts: loaded by name or from files, split, mixed and checked."""

from actor_lens.prompts.checks import (
    OverlapReport,
    PromptCheck,
    check_prompts,
    overlap_report,
    token_counter,
)
from actor_lens.prompts.loading import load_prompts
from actor_lens.prompts.public.catalogue import BenchmarkSet, Catalogue, catalogue
from actor_lens.prompts.public.loading import benchmark
from actor_lens.prompts.rows import LABELS, SPLITS, Label, Prompt, PromptWarning, Split
from actor_lens.prompts.sets import PromptSet
from actor_lens.prompts.splits import split_prompts

__all__ = [
    "LABELS",
    "SPLITS",
    "BenchmarkSet",
    "Catalogue",
    "Label",
    "OverlapReport",
    "Prompt",
    "PromptCheck",
    "PromptSet",
    "PromptWarning",
    "Split",
    "benchmark",
    "catalogue",
    "check_prompts",
    "load_prompts",
    "overlap_report",
    "split_prompts",
    "token_counter",
]
