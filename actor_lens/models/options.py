"""Names of number formats, device maps and kinds of quantisation, without torch."""

from __future__ import annotations

from typing import Literal, get_args

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
"""Number format of the weights; auto is the checkpoint's own on a GPU, float32 on a CPU."""

DeviceMapStrategy = Literal["auto", "balanced", "balanced_low_0", "sequential"]
"""How accelerate spreads blocks over devices."""

Quantization = Literal["4bit", "8bit"]
"""Weights in normal float 4 or in LLM.int8, through bitsandbytes."""

DTYPES: tuple[Dtype, ...] = get_args(Dtype)
DEVICE_MAPS: tuple[DeviceMapStrategy, ...] = get_args(DeviceMapStrategy)
QUANTIZATIONS: tuple[Quantization, ...] = get_args(Quantization)
