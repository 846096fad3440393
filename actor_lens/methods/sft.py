"""Supervised fine-tuning on replies (SFT): of all weights, or of one block only."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from actor_lens.methods.support.reply_method import ReplyMethod
from actor_lens.methods.support.reply_training import ReplyBatch, Trainee, reply_loss
from actor_lens.models.blocks import graft
from actor_lens.models.chat_model import ChatModel


@dataclass(frozen=True)
class FullSFT(ReplyMethod):
    """All weights trained on replies: answers to harmless prompts, refusals of harmful ones.

    ``loss = - mean over reply tokens t of log p(t | prompt, reply before t)``: cross-entropy of
    logits ``[prompt, token, vocabulary]`` on the reply and its end token; template, prompt and
    padding are masked. A float32 copy is trained; with gradients and the two moments of AdamW it
    takes four times the float32 weights.

    Chosen on validation prompts, by the trade-off as ``selection`` says: the learning rate (of
    ``lrs``) and the number of epochs (up to ``epochs``). Fixed: AdamW without decay, gradients
    clipped to length 1, batch size. The settings (``ReplyMethod``) are ours.

    Source: the baseline of Dabas et al. 2025 (arXiv 2507.04250), which trains with a learning rate
        of 1e-3 on answers of GPT-4o.
    """

    name: str = "sft-full"
    lrs: tuple[float, ...] = (2e-4, 1e-3)

    def trainee(self, model: ChatModel, layer: None) -> Trainee:
        """A copy of the model."""
        del layer
        return full_trainee(model)


@dataclass(frozen=True)
class LayerSFT(ReplyMethod):
    """SFT of one block: the parameters of ACTOR with the loss and the replies of SFT.

    The loss and the choices of ``FullSFT``, with every weight outside block ``layer`` frozen. It
    separates the effect of ACTOR's loss from that of training a single layer.

    Attributes:
        layer: Block to train; None for the one that ``target_layer`` chooses on validation prompts.

    Source: the loss of SFT as in Dabas et al. 2025 (arXiv 2507.04250); the single layer is ours.
    """

    name: str = "sft-layer"
    lrs: tuple[float, ...] = (1e-3, 3e-3)
    epochs: int = 4
    layer: int | None = None

    def trainee(self, model: ChatModel, layer: int) -> Trainee:
        """A copy of the block."""
        return layer_trainee(model, layer)


def full_trainee(
    model: ChatModel, loss: Callable[[nn.Module, ReplyBatch], Tensor] = reply_loss
) -> Trainee:
    """A float32 copy of the whole model, all of it trained.

    Args:
        model: The untouched model.
        loss: Loss of the copy on a batch.
    """
    hf: nn.Module = copy.deepcopy(model.hf)
    hf.float()
    hf.requires_grad_(True)
    return Trainee(
        parameters=list(hf.parameters()),
        loss=partial(loss, hf),
        state=lambda: changed_tensors(model, hf.state_dict()),
    )


def layer_trainee(model: ChatModel, layer: int) -> Trainee:
    """A float32 copy of one block, grafted into a model that shares all the rest."""
    block = copy.deepcopy(model.blocks[layer]).float()
    block.requires_grad_(True)
    prefix = model.block_prefix(layer)

    def state() -> dict[str, Tensor]:
        named = {f"{prefix}{name}": tensor for name, tensor in block.state_dict().items()}
        return changed_tensors(model, named)

    loss = partial(reply_loss, graft(model, {layer: block}))
    return Trainee(parameters=list(block.parameters()), loss=loss, state=state)


def changed_tensors(model: ChatModel, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies, in the model's dtype and on the CPU, of those tensors that differ from its own."""
    own = model.hf.state_dict()
    cast = {name: tensor.detach().to(own[name].dtype) for name, tensor in tensors.items()}
    return {
        name: tensor.to("cpu", copy=True)
        for name, tensor in cast.items()
        if not torch.equal(tensor, own[name])
    }
