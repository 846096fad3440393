"""A run as a LoRA adapter: the change of each linear layer of the block, cut off at a rank.

What is not the weight of a linear layer (norms, and where the block mixes linears with and without
one, those with a bias) is held whole in the adapter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from actor_lens.errors import UserError, require
from actor_lens.export.folders import dtype_name, writing_export
from actor_lens.export.low_rank import BlockChange
from actor_lens.export.model_card import (
    CardFacts,
    Form,
    base_in_code,
    base_model_name,
    write_model_card,
)
from actor_lens.files.paths import user_path
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.quantization import quiet_bitsandbytes
from actor_lens.models.replies import first_token_logits
from actor_lens.prompts.sets import PromptSet
from actor_lens.results import Result, plain, records
from actor_lens.text import percent
from actor_lens.training.run import TrainingRun

ADAPTER_FILE = "adapter_model.safetensors"
ALL_MODULES = "all"
_NAN = float("nan")


@dataclass(frozen=True)
class RankError:
    """What is lost at one rank.

    Attributes:
        rank: Rank of the adapter.
        module: A linear layer, or ``"all"`` for all of them together.
        relative_error: Frobenius norm of what is left out over that of the change.
        logit_error: Distance of the first reply token's logits from those of the run, over the
            distance by which the run moved them; NaN for single modules or without prompts.
    """

    rank: int
    module: str
    relative_error: float
    logit_error: float


@dataclass(frozen=True, eq=False, repr=False)
class LoraExport(Result):
    """A written adapter and what it loses.

    Attributes:
        folder: The folder, which ``PeftModel.from_pretrained`` reads.
        rank: Rank of the adapter; a smaller layer has its full rank.
        full_rank: Rank at which nothing is lost but rounding.
        errors: Errors at several ranks, that of the adapter among them.
        held_whole: Modules that a low rank cannot hold and the adapter keeps whole.
        without_held: ``logit_error`` at full rank if those were left out; NaN without prompts.
    """

    folder: Path
    rank: int
    full_rank: int
    errors: tuple[RankError, ...]
    held_whole: tuple[str, ...]
    without_held: float

    def frame(self) -> pd.DataFrame:
        """One row a rank and module: ``rank``, ``module``, ``relative_error``, ``logit_error``."""
        return pd.DataFrame([vars(error) for error in self.errors])

    @property
    def error(self) -> RankError:
        """The error of the adapter that was written, all modules together."""
        return next(
            each for each in self.errors if each.rank == self.rank and each.module == ALL_MODULES
        )

    def summary(self) -> dict[str, Any]:
        """Ranks and errors as plain values; None stands for what was not measured."""
        return {
            "rank": self.rank,
            "full_rank": self.full_rank,
            "held_whole": list(self.held_whole),
            "logit_error_without_held": plain(self.without_held),
            "errors": records(self.frame()),
        }

    def _headline(self) -> str:
        lost = percent(self.error.relative_error)
        return (
            f"LoraExport: rank {self.rank} of {self.full_rank} in {self.folder}; "
            f"leaves out {lost} of the change of the linear layers"
        )


def export_lora(
    model: ChatModel,
    run: TrainingRun,
    folder: str | Path,
    *,
    rank: int | Literal["auto"] = 8,
    error: float = 0.05,
    prompts: PromptSet | None = None,
    overwrite: bool = False,
    facts: CardFacts | None = None,
) -> LoraExport:
    """Write a run as a LoRA adapter that PEFT reads.

    The decomposition is computed in float64, the adapter is written in float32, with adapters in
    the trained block alone.

    Args:
        model: The model that the run was trained on.
        run: A fine-tune of one of its blocks.
        folder: Folder to write to; made if it is not there.
        rank: Rank of the adapter, or ``"auto"`` for the smallest with at most ``error``.
        error: For ``"auto"``: the relative error in the Frobenius norm that is allowed, over all
            linear layers together.
        prompts: Prompts on which the error in the logits is measured as well.
        overwrite: Replace an adapter that is there, with all that is in its folder.
        facts: What the model card says beyond the run.

    Raises:
        UserError: If the run belongs to another model or changed no linear layer, the block is
            quantised, rank or error are out of range, PEFT is missing, or the folder holds
            something or cannot be written.
    """
    check_lora(rank, error)
    facts = facts or CardFacts()
    with writing_export(folder, model, run, "adapter", overwrite) as staging:
        change = BlockChange(model, run)
        number = change.smallest_rank(error) if rank == "auto" else min(rank, change.full_rank)
        errors = _RankErrors(model, run, change, prompts)
        result = LoraExport(
            folder=user_path(folder),
            rank=number,
            full_rank=change.full_rank,
            errors=tuple(errors.at_several_ranks(number)),
            held_whole=tuple(change.held),
            without_held=errors.without_held(),
        )
        _write_adapter(staging, model, change, number, facts)
        write_model_card(staging, model, run, _form(model, facts, result), facts)
    return result


def check_lora(rank: int | Literal["auto"], error: float) -> None:
    """Check what ``export_lora`` would refuse, without a model. Arguments as there.

    Raises:
        UserError: If PEFT is missing, or rank or error are out of range.
    """
    quiet_bitsandbytes()
    require("peft", "lora", "a LoRA adapter")
    if rank != "auto" and (isinstance(rank, str) or rank < 1):
        raise UserError(f"rank is {rank!r}; give a whole number of at least 1, or auto")
    if not 0 < error < 1:
        raise UserError(f"error is {error:g}; give a number between 0 and 1, such as 0.05")


# ---- What it loses ----


class _RankErrors:
    """Errors at several ranks; with prompts, in the logits too."""

    def __init__(
        self, model: ChatModel, run: TrainingRun, change: BlockChange, prompts: PromptSet | None
    ) -> None:
        self.model, self.run, self.change = model, run, change
        self.texts = prompts.texts if prompts is not None else ()
        if self.texts:
            base = first_token_logits(model, self.texts)
            self.target = self._logits(run)
            self.distance = float((self.target - base).double().norm())

    def at_several_ranks(self, rank: int) -> Iterator[RankError]:
        """Errors of the powers of two, of the rank that is written and of the full rank."""
        full, names = self.change.full_rank, list(self.change.factors)
        powers = {2**power for power in range(full.bit_length()) if 2**power < full}
        for each in sorted(powers | {rank, full}):
            for name in names:
                yield RankError(each, name, self.change.relative_error(each, [name]), _NAN)
            error = self.change.relative_error(each, names)
            run = self.change.run_at_rank(each, self.run, self.model)
            yield RankError(each, ALL_MODULES, error, self.logit_error(run))

    def without_held(self) -> float:
        """The logit error if what is held whole were left as it was before training."""
        tensors = self.model.hf.state_dict()
        state = dict(self.run.state)
        for held in self.change.held.values():
            state.update({name: tensors[name].detach().clone() for name in held})
        return self.logit_error(replace(self.run, state=state))

    def logit_error(self, run: TrainingRun) -> float:
        """Distance from the logits of the run, as a share of how far it moved them."""
        if not self.texts or not self.distance:
            return _NAN
        return float((self._logits(run) - self.target).double().norm()) / self.distance

    def _logits(self, run: TrainingRun) -> Float[Tensor, "prompt vocabulary"]:
        with run.applied_to(self.model):
            return first_token_logits(self.model, self.texts)


# ---- What is written ----


def _write_adapter(
    folder: Path, model: ChatModel, change: BlockChange, rank: int, facts: CardFacts
) -> None:
    from peft import LoraConfig

    ranks = {name: min(rank, len(factors.values)) for name, factors in change.factors.items()}
    config = LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=base_model_name(model, facts),
        inference_mode=True,
        r=rank,
        lora_alpha=rank,  # a scale of 1: the factors are the change itself
        rank_pattern=ranks,
        alpha_pattern=dict(ranks),
        # Whole names, and not the short ones that every block has.
        target_modules=sorted(change.factors),
        modules_to_save=sorted(change.held) or None,
        fan_in_fan_out=change.transposed,
        lora_bias=change.as_biases,
    )
    config.save_pretrained(str(folder))
    save_file(_adapter_tensors(change, rank), folder / ADAPTER_FILE, metadata={"format": "pt"})


def _adapter_tensors(change: BlockChange, rank: int) -> dict[str, Tensor]:
    """Every tensor under the name that PEFT gives it."""
    tensors: dict[str, Tensor] = {}
    for name in change.factors:
        a, b = change.lora_weights(name, rank)
        tensors[f"base_model.model.{name}.lora_A.weight"] = a
        tensors[f"base_model.model.{name}.lora_B.weight"] = b
    for name, bias in change.biases.items():
        tensors[f"base_model.model.{name}.lora_B.bias"] = bias.float()
    for held in change.held.values():
        for name, tensor in held.items():
            tensors[f"base_model.model.{name}"] = tensor.detach().cpu().contiguous()
    return tensors


def _form(model: ChatModel, facts: CardFacts, result: LoraExport) -> Form:
    named = base_in_code(base_model_name(model, facts))
    notes = [
        f"The adapter has rank {result.rank} of {result.full_rank}; it leaves out "
        f"{percent(result.error.relative_error, 2)} of the change of the linear layers (Frobenius "
        "norm)."
    ]
    if not math.isnan(result.error.logit_error):
        notes.append(
            "Its first-token logits differ from those of the run by "
            f"{percent(result.error.logit_error, 2)} of what the run moved them by."
        )
    if result.held_whole:
        names = ", ".join(f"`{name}`" for name in result.held_whole)
        notes.append(f"Kept whole, since a low rank cannot hold them: {names}.")
    return Form(
        library="peft",
        what="A LoRA adapter in the format of PEFT.",
        lines=[
            "from peft import PeftModel",
            "from transformers import AutoModelForCausalLM",
            "",
            f'base = AutoModelForCausalLM.from_pretrained({named}, dtype="{dtype_name(model)}")',
            "model = PeftModel.from_pretrained(base, '.')  # this folder, or its name on the hub",
        ],
        undo="`model.unload()` gives the base model back; `with model.disable_adapter():` asks it "
        "for a while.",
        tags=["lora"],
        notes=notes,
    )
