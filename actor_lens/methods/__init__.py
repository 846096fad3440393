"""Ways to reduce over-refusal, to be compared with ACTOR: one file each, one small protocol.

A method of your own is one file: a class with ``name`` and ``fit`` whose result has
``applied_to`` (see ``support.base``), for instance a ``FittedIntervention``. ``al.compare`` takes
it beside the names of those here.
"""

from __future__ import annotations

import importlib
from dataclasses import fields
from typing import Any

from actor_lens.errors import UserError, did_you_mean
from actor_lens.methods.support.base import FittedMethod, Method
from actor_lens.methods.support.fitted import FittedIntervention

__all__ = ["METHODS", "FittedIntervention", "FittedMethod", "Method", "make_method"]

METHODS: dict[str, str] = {
    "default": "default:Default",
    "prompt-helpful": "system_prompt:HelpfulPrompt",
    "prompt-cautious": "system_prompt:CautiousPrompt",
    "self-cd": "self_cd:SelfCD",
    "adacd": "adacd:AdaCD",
    "safe-decoding": "safe_decoding:SafeDecoding",
    "dro": "dro:DRO",
    "sft-full": "sft:FullSFT",
    "sft-layer": "sft:LayerSFT",
    "poft": "poft:PoFT",
    "sift": "sift:SIFT",
    "mezo-layer": "mezo:MezoLayer",
    "lora": "lora_sft:LoraSFT",
    "lora-layer": "lora_sft:LayerLoraSFT",
    "mosr-like": "mosr:MosrLike",
    "loreft": "loreft:LoReFT",
    "ablation": "ablation:DirectionalAblation",
    "activation-addition": "activation_addition:ActivationAddition",
    "surgical": "surgical:Surgical",
    "scans": "scans:Scans",
    "cast": "cast:Cast",
    "alphasteer": "alphasteer:AlphaSteer",
    "alphasteer-inverted": "alphasteer:InvertedAlphaSteer",
    "llm-va": "llm_va:LLMVA",
    "angular": "angular:AngularSteering",
    "uniform-shift": "actor:UniformShift",
    "actor": "actor:Actor",
    "actor-auto": "actor:AutoActor",
    "mezo-actor": "mezo:MezoActor",
    "actor-raw": "actor:RawActor",
    "control-random-direction": "random_direction:RandomDirection",
    "control-shuffled-labels": "shuffled_labels:ShuffledLabels",
    "control-form-direction": "form_direction:FormDirection",
}
"""Name of each method, in the order of the tables, and where its class is (``module:Class``)."""


def check_method(name: str) -> None:
    """Check that there is a method of that name.

    Raises:
        UserError: If there is none; the message names the nearest and lists all.
    """
    if name not in METHODS:
        meant = did_you_mean(name, METHODS) or ";"
        raise UserError(f"unknown method '{name}'{meant} use one of: {', '.join(METHODS)}")


def make_method(name: str, **settings: Any) -> Method:
    """A method by its name.

    Args:
        name: One of ``METHODS``.
        settings: Fields of its class that differ from their defaults.

    Raises:
        UserError: If there is no method of that name, or it has no such setting.
    """
    check_method(name)
    module, class_name = METHODS[name].split(":")
    kind = getattr(importlib.import_module(f"actor_lens.methods.{module}"), class_name)
    allowed = [field.name for field in fields(kind)]
    for setting in settings:
        if setting not in allowed:
            raise UserError(
                f"method '{name}' has no such setting as '{setting}'; use one of: "
                f"{', '.join(allowed)}"
            )
    method: Method = kind(**{"name": name, **settings})
    return method
