"""Labelled prompts: loaded by name or from files, split, mixed and checked.

Importing the room is quick: a name below loads its module when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actor_lens.prompts.checks import OverlapReport as OverlapReport
    from actor_lens.prompts.checks import PromptCheck as PromptCheck
    from actor_lens.prompts.checks import check_prompts as check_prompts
    from actor_lens.prompts.checks import overlap_report as overlap_report
    from actor_lens.prompts.checks import token_counter as token_counter
    from actor_lens.prompts.loading import load_prompts as load_prompts
    from actor_lens.prompts.public.catalogue import BenchmarkSet as BenchmarkSet
    from actor_lens.prompts.public.catalogue import Catalogue as Catalogue
    from actor_lens.prompts.public.catalogue import catalogue as catalogue
    from actor_lens.prompts.public.loading import benchmark as benchmark
    from actor_lens.prompts.rows import LABELS as LABELS
    from actor_lens.prompts.rows import SPLITS as SPLITS
    from actor_lens.prompts.rows import Prompt as Prompt
    from actor_lens.prompts.rows import PromptWarning as PromptWarning
    from actor_lens.prompts.sets import PromptSet as PromptSet
    from actor_lens.prompts.splits import split_prompts as split_prompts

_MODULES = {
    "checks": ("OverlapReport", "PromptCheck", "check_prompts", "overlap_report", "token_counter"),
    "loading": ("load_prompts",),
    "public.catalogue": ("BenchmarkSet", "Catalogue", "catalogue"),
    "public.loading": ("benchmark",),
    "rows": ("LABELS", "SPLITS", "Prompt", "PromptWarning"),
    "sets": ("PromptSet",),
    "splits": ("split_prompts",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    """Load a public name's module on first use (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_MODULE_OF)
