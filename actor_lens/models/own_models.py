"""Models that are in memory already: those of transformers, and bridges of TransformerLens."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actor_lens.errors import UserError
from actor_lens.models.chat_templates import check_system_prompt, set_chat_template
from actor_lens.models.checkpoint_checks import check_causal, check_not_offloaded
from actor_lens.models.module_trees import module_tree_of
from actor_lens.text import clip, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_GIVE = (
    "give a name, a folder, a causal language model of transformers with tokenizer=..., or a "
    "TransformerBridge of TransformerLens"
)


def check_no_tokenizer(name: str, tokenizer: object) -> None:
    """Refuse a tokenizer for a model that is loaded by name and has its own.

    Raises:
        UserError: If one was given.
    """
    if tokenizer is not None:
        raise UserError(
            f"a tokenizer was given for '{name}', which has its own; save another into its folder "
            "(save_pretrained), or give the model itself: load_model(model, tokenizer=...)"
        )


def take_model(
    model: Any,
    tokenizer: Any,
    *,
    chat_template: str | Path | None,
    system_prompt: str | None,
    **how: object,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    """Take a model that is in memory, as ``load_model`` was asked to.

    Args:
        model: A model of transformers, or a ``TransformerBridge``.
        tokenizer: Its tokenizer; None takes that of the bridge.
        chat_template: A template, or its file, in the place of the tokenizer's own.
        system_prompt: What the system says.
        **how: What says how to load a model by name; nothing of it may be given.

    Returns:
        The clean Hugging Face model, its tokenizer with the chat template in place, and its name.

    Raises:
        UserError: If it is no such model, was changed in a way that cannot be undone, is no causal
            language model, is not wholly in memory, or has no tokenizer or chat template.
    """
    defaults = {"device": "auto", "dtype": "auto", "trust_remote_code": False}
    given = [name for name, value in how.items() if value not in (None, defaults.get(name))]
    if given:
        raise UserError(
            f"{given[0]} was given for a model that is in memory already; leave it out, or give "
            "the model's name or folder"
        )
    hf, tokenizer, name = _parts(model, tokenizer)
    if chat_template is not None:
        tokenizer = copy.deepcopy(tokenizer)  # the user's own stays as it is
    set_chat_template(name, tokenizer, chat_template)
    check_system_prompt(name, tokenizer, system_prompt)
    return hf, tokenizer, name


def _parts(model: Any, tokenizer: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    kind = type(model).__name__
    hf, name = model, str(getattr(model, "name_or_path", "") or "model")
    # By its name: importing TransformerLens takes seconds.
    if kind == "TransformerBridge":
        hf, name = _tree_of_bridge(model), str(model.cfg.model_name)
        tokenizer = model.tokenizer if tokenizer is None else tokenizer
    elif not isinstance(model, PreTrainedModel):
        raise UserError(_refusal(model, kind))
    if hasattr(hf, "peft_config"):
        raise UserError(
            f"the model ({kind}) has an adapter of PEFT beside its weights; merge it first "
            "(merge_and_unload), or load both: load_model(BASE, adapter=DIR)"
        )
    check_causal(name, [type(hf).__name__])
    check_not_offloaded(name, hf)
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        given = "none was given" if tokenizer is None else f"a {type(tokenizer).__name__} was given"
        raise UserError(
            f"the model ({kind}) needs its tokenizer, and {given}; call load_model(model, "
            "tokenizer=tokenizer) with a tokenizer of transformers"
        )
    return hf, tokenizer, name


def _refusal(model: Any, kind: str) -> str:
    """Why something is not taken, and what can be given instead."""
    if kind.startswith("Hooked"):
        name = one_line(getattr(getattr(model, "cfg", None), "model_name", "") or "NAME")
        return (
            f"a {kind} of TransformerLens has no Hugging Face weights any more (it folds and "
            f"centres them); give the model's name (load_model({clip(name, 60)!r})), or a "
            "TransformerBridge"
        )
    if kind.startswith("Peft"):
        return (
            f"a {kind} keeps its adapter beside the weights; merge it first (merge_and_unload), or "
            "load both: load_model(BASE, adapter=DIR)"
        )
    if all(hasattr(model, name) for name in ("model", "tokenizer")):
        return f"a {kind} is no model but holds one; give x.model with tokenizer=x.tokenizer"
    if hasattr(model, "_orig_mod") or hasattr(model, "module"):  # torch.compile, DataParallel
        return f"a {kind} wraps a model; give the model itself (x._orig_mod or x.module)"
    return f"model is a {kind}; {_GIVE}"


def _tree_of_bridge(bridge: Any) -> PreTrainedModel:
    """A clean Hugging Face model over the tensors of a bridge, which stays as it is."""
    if bridge.compatibility_mode or getattr(bridge, "_weights_processed", False):
        raise UserError(
            "the weights of the TransformerBridge were folded or centred (compatibility mode, "
            "process_weights), so they are no longer those of Hugging Face; give a bridge as "
            "boot_transformers makes it"
        )
    try:
        return module_tree_of(bridge.original_model)
    except (AttributeError, RuntimeError, TypeError) as error:
        raise UserError(
            "the TransformerBridge has no Hugging Face model below it whose tensors could be "
            f"shared ({one_line(error, 100)}); give the model's name instead"
        ) from error
