"""Weights in 4 or 8 bits through bitsandbytes: for looking inside and for evaluating.

The block that ACTOR trains must be held in full precision, so such a model is not trained.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch

from actor_lens.errors import check_choice, require
from actor_lens.models.options import QUANTIZATIONS, Quantization

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def quantization_config(quantization: Quantization, compute_dtype: torch.dtype) -> Any:
    """How transformers should quantise a model while it loads.

    Args:
        quantization: ``"4bit"`` (normal float 4, double quantisation) or ``"8bit"`` (LLM.int8).
        compute_dtype: Number format that 4-bit weights are unpacked to in a matrix product.

    Raises:
        UserError: If the kind is not known or bitsandbytes is not installed.

    Source: Dettmers et al. 2022 (arXiv 2208.07339); Dettmers et al. 2023 (arXiv 2305.14314).
    """
    check_choice("quantization", quantization, QUANTIZATIONS)
    quiet_bitsandbytes()
    purpose = f"quantization {quantization}"
    require("bitsandbytes", "quantized", purpose, "or load the model without quantization")
    from transformers import BitsAndBytesConfig

    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def quiet_bitsandbytes() -> None:
    """Let bitsandbytes log errors only, before something imports it.

    It logs a line at every 8-bit product on a CPU, and one about kernels that nobody asked for
    when PEFT imports it.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def quantization_of(hf: PreTrainedModel) -> str | None:
    """``"4bit"``, ``"8bit"``, the method of a checkpoint quantised otherwise, or None."""
    if not getattr(hf, "is_quantized", False):
        return None
    config: Any = hf.config.quantization_config
    for kind in QUANTIZATIONS:
        if getattr(config, f"load_in_{kind}", False):
            return kind
    method = getattr(config, "quant_method", "unknown")
    return str(getattr(method, "value", method))


def settle(hf: PreTrainedModel) -> None:
    """Bring quantised layers into the form that they keep, before they are used or shared.

    At its first forward pass an 8-bit layer moves its numbers from the parameter into a state of
    its own, and a 4-bit layer packs the parameter anew where a CPU multiplies bfloat16. A second
    module tree over the same parameters would then find nothing, or nonsense. The first is done
    here once and for all; the second is switched off, since it also rounds the scales and fails on
    widths that are no multiple of its blocks.
    """
    for module in hf.modules():
        layer: Any = module
        if hasattr(layer, "init_8bit_state") and layer.weight.CB is not None:
            layer.init_8bit_state()
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def shared_state(hf: PreTrainedModel) -> list[Any]:
    """What settled layers keep beside their parameters, for a second module tree to share."""
    states: list[Any] = []
    for module in hf.modules():
        layer: Any = module
        if hasattr(layer, "init_8bit_state"):
            states.append(layer.state)
        if getattr(layer, "quant_state", None) is not None:
            states.append(layer.quant_state)
    return states
