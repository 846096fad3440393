"""Attention by one fused kernel: for reply tokens, and for questions about last tokens.

Eager attention, by which everything else is computed, copies keys and values for each of the query
heads that share them, at every token of a reply. torch's fused kernel does not, and gives the same
up to rounding.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from actor_lens.models.chat_model import ChatModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def with_fused_attention(model: ChatModel) -> PreTrainedModel:
    """``model.hf`` in another form, which shares all weights but has fused attention.

    Modules are copied rather than their configuration changed, since other threads may be running
    them. Returns ``model.hf`` itself where the class is not transformers' own or has no fused
    attention, where attention scores are capped or hold distances (ALiBi), which the two forms
    count differently, and where modules are tied to their place: by hooks, which know their module,
    or by accelerate, which spreads them over devices.
    """
    hf = model.hf
    config = hf.config.get_text_config()
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    tied = model.is_hooked or any("forward" in vars(module) for module in hf.modules())
    own = not type(hf).__module__.startswith("transformers.")
    if own or capped or tied or getattr(config, "alibi", False) or not hf._supports_sdpa:
        return hf
    fused: PreTrainedModel = _copy_tree(hf, {})
    return fused


def _copy_tree(module: Any, memo: dict[int, Any]) -> Any:
    """A copy of a module tree with the parameters of the other and configurations of its own."""
    twin: Any = copy.copy(module)
    children = {
        name: child if child is None else _copy_tree(child, memo)
        for name, child in module._modules.items()
    }
    object.__setattr__(twin, "_modules", children)
    # Some rotary modules put other frequencies in place of theirs while they run.
    object.__setattr__(twin, "_buffers", dict(module._buffers))
    if "config" in vars(module):
        twin.config = copy.deepcopy(module.config, memo)
        twin.config._attn_implementation = "sdpa"
    return twin
