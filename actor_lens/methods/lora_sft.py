"""Training on replies with low-rank adapters (LoRA), through PEFT: of all blocks, or of one."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from actor_lens.errors import UserError, require
from actor_lens.methods.support.reply_method import ReplyMethod
from actor_lens.methods.support.reply_training import Trainee, reply_loss
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.module_trees import twin
from actor_lens.models.quantization import quiet_bitsandbytes
from actor_lens.models.torch_defaults import torch_defaults

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class LoraSFT(ReplyMethod):
    """Adapters at every linear map of every block, trained on replies, merged into the weights.

    ``W <- W + (scale / rank) B A``, ``W`` ``[out, in]``, ``A`` ``[rank, in]`` random, ``B``
    ``[out, rank]`` zero at the start; the loss of ``FullSFT``. PEFT trains a second module tree
    that shares the weights, so that the model never holds a module of PEFT.

    Chosen on validation prompts: learning rate and number of epochs. Fixed: rank and scale, no
    dropout, and what ``FullSFT`` fixes.

    Attributes:
        rank: Rank of the adapters.
        scale: LoRA's alpha.

    Source: Hu et al. 2021 (arXiv 2106.09685).
    """

    name: str = "lora"
    lrs: tuple[float, ...] = (3e-3, 1e-2)
    rank: int = 8
    scale: float = 16.0

    def trainee(self, model: ChatModel, layer: int | None) -> Trainee:
        """Adapters in every block, or in one."""
        return lora_trainee(model, rank=self.rank, scale=self.scale, seed=self.seed, layer=layer)


@dataclass(frozen=True)
class LayerLoraSFT(LoraSFT):
    """``LoraSFT`` with adapters in one block only (PEFT's ``layers_to_transform``).

    Attributes:
        layer: Block to train; None for the one that ``target_layer`` chooses on validation prompts.

    Source: Hu et al. 2021 (arXiv 2106.09685); the single layer is ours.
    """

    name: str = "lora-layer"
    epochs: int = 3
    layer: int | None = None


def lora_trainee(
    model: ChatModel, *, rank: int, scale: float, seed: int, layer: int | None = None
) -> Trainee:
    """Adapters in one block or in all, trained on replies and merged into the weights.

    Raises:
        UserError: If PEFT is not installed, or the blocks hold no linear map that it knows.
    """
    hf = adapted_twin(model, rank=rank, scale=scale, seed=seed, layer=layer)
    parameters = [parameter for parameter in hf.parameters() if parameter.requires_grad]
    return Trainee(parameters, partial(reply_loss, hf), partial(merged_weights, hf))


def adapted_twin(
    model: ChatModel, *, rank: int, scale: float, seed: int, layer: int | None = None
) -> PreTrainedModel:
    """A second module tree over the tensors of the model, with adapters in one block or in all.

    Raises:
        UserError: If PEFT is not installed, or the blocks hold no linear map that it knows.
    """
    quiet_bitsandbytes()
    peft = require("peft", "lora", "LoRA")
    names, transposed = _linear_maps(model)
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=scale,
        lora_dropout=0.0,
        target_modules=names,
        layers_to_transform=None if layer is None else [layer],
        layers_pattern=None if layer is None else model.blocks_name,
        fan_in_fan_out=transposed,
        task_type="CAUSAL_LM",
    )
    hf = twin(model.hf)
    seeds = torch.random.fork_rng(devices=_cuda_devices(hf))
    with seeds, torch_defaults(), warnings.catch_warnings():
        # PEFT asks transformers for a name that is about to change.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        torch.manual_seed(seed)
        peft.get_peft_model(hf, config)  # puts adapters into ``hf`` itself
    return hf


def merged_weights(hf: PreTrainedModel) -> dict[str, Tensor]:
    """Each adapted weight with its adapter added, by the model's names, on the CPU."""
    from peft.tuners.lora import LoraLayer

    return {
        f"{name}.weight": _merge(module)
        for name, module in hf.named_modules()
        if isinstance(module, LoraLayer)
    }


def _merge(adapted: Any) -> Tensor:
    weight: Tensor = adapted.get_base_layer().weight
    (adapter,) = adapted.active_adapters
    with torch.no_grad():
        delta = adapted.get_delta_weight(adapter).float()
        merged: Tensor = weight.float() + delta
    return merged.to(weight.dtype).to("cpu", copy=True)


def _linear_maps(model: ChatModel) -> tuple[list[str], bool]:
    """Names of the linear maps inside a block, and whether their weights are ``[in, out]``."""
    from transformers.pytorch_utils import Conv1D

    transposed: dict[str, bool] = {}
    for block in model.blocks:
        for name, module in block.named_modules():
            if isinstance(module, (nn.Linear, Conv1D)):
                transposed[name] = isinstance(module, Conv1D)
    if not transposed:
        raise UserError(
            f"the blocks of '{model.name}' hold no linear map that PEFT can adapt; use sft-full"
        )
    return sorted(transposed), all(transposed.values())


def _cuda_devices(hf: nn.Module) -> list[int]:
    devices = {parameter.device for parameter in hf.parameters()}
    return sorted({device.index or 0 for device in devices if device.type == "cuda"})
