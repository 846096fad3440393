"""What may spoil or change results with a model without being an error.

Each check here is told before any work; what cannot be right at all is refused when the model is
loaded. The guide "Real models" lists both.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from actor_lens.diagnostics.memory_needs import MemoryNeeds
from actor_lens.files.sizes import format_size
from actor_lens.models.adapters import find_adapter
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.chat_templates import template_warnings
from actor_lens.models.checkpoint_checks import tokens_beyond
from actor_lens.models.memory import free_memory
from actor_lens.models.replies import end_tokens
from actor_lens.prompts.rows import shown
from actor_lens.text import plural

# A context that holds a templated prompt of a usual set and a reply of the usual length.
_ENOUGH_TOKENS = 256


def model_warnings(model: ChatModel, ids: list[int], needs: MemoryNeeds) -> tuple[str, ...]:
    """Every warning about a model; each is a sentence without its full stop.

    Args:
        model: The model.
        ids: Token ids of a templated prompt.
        needs: Memory that work on it takes.
    """
    return (
        *template_warnings(model.tokenizer),
        *_of_the_tokens(model, ids),
        *_of_the_adapter(model),
        *_of_the_sizes(model, needs),
    )


def _of_the_tokens(model: ChatModel, ids: list[int]) -> list[str]:
    warnings = []
    beyond = tokens_beyond(model.hf, model.tokenizer)
    if beyond:
        warnings.append(
            f"{plural(len(beyond), 'token')} of the tokenizer have no embedding, the first is "
            f"{shown(beyond[0])}: prompts with them are refused"
        )
    bos = model.tokenizer.bos_token_id
    if bos is not None:
        added = list(model.tokenizer("x")["input_ids"])[:1] == [bos]
        if ids[:2] == [bos, bos]:
            warnings.append(
                "the chat template begins with two beginning tokens; use another template"
            )
        elif added and ids[:1] != [bos]:
            warnings.append(
                "the tokenizer begins texts with a beginning token but the chat template does "
                "not; check the template"
            )
    if not end_tokens(model):
        warnings.append("no token ends a reply: every reply will be as long as it may be")
    return warnings


def _of_the_adapter(model: ChatModel) -> list[str]:
    """A base model of another name; whether it is another model, only the user knows."""
    settings = model.source or {}
    if settings.get("adapter") is None:
        return []
    base = find_adapter(settings["adapter"]).base
    if base is None:
        return ["the adapter does not name its base model; make sure that it is this one"]
    if _last_part(base) == _last_part(str(settings["name"])):
        return []
    return [
        f"the adapter says that its base model is {shown(base)}, and it was merged into "
        f"{shown(str(model.name))}; make sure that they are the same"
    ]


def _last_part(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).name.casefold()


def _of_the_sizes(model: ChatModel, needs: MemoryNeeds) -> list[str]:
    warnings = []
    if model.max_tokens < _ENOUGH_TOKENS:
        warnings.append(
            f"the context is {model.max_tokens} tokens: longer prompts, with the reply, are refused"
        )
    free = needs.weights + free_memory(model.device)  # its own weights are there already
    for work, most in (("evaluating", needs.evaluate), ("training", needs.train)):
        if most is not None and most > free:
            warnings.append(
                f"{work} with full batches takes about {format_size(most)}, and "
                f"{format_size(free)} are free: batches will be smaller, and the work slower"
            )
    return warnings
