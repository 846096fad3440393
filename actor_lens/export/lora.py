"""A run as a LoRA adapter: the change of each linear layer of the block, cut off at a rank.

The change of a weight is known here, so nothing is trained: its truncated singular value
decomposition is the closest matrix of that rank (Eckart and Young 1936). What is not the weight of
a linear layer (norms, and where the block mixes linears with and without one, those with a bias)
is held whole in the adapter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from actor_lens.errors import UserError, require
from actor_lens.export.folders import writing_export
from actor_lens.export.model_card import Facts, Form, base_model_name, write_model_card
from actor_lens.export.weight_change import check_float_block, difference
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.quantization import quiet_bitsandbytes
from actor_lens.models.replies import first_token_logits
from actor_lens.prompts.sets import PromptSet
from actor_lens.text import percent
from actor_lens.training.run import TrainingRun

if TYPE_CHECKING:
    import pandas as pd

ADAPTER_FILE = "adapter_model.safetensors"
ALL_MODULES = "all"
_NAN = float("nan")


class Factors(NamedTuple):
    """Singular value decomposition of the change of one weight, oriented ``[out, in]``."""

    left: Float[Tensor, "out rank"]
    values: Float[Tensor, " rank"]
    right: Float[Tensor, "rank in"]

    def tail(self, rank: int) -> float:
        """Squared Frobenius norm of what is left out at a rank."""
        return float((self.values[rank:] ** 2).sum())


@dataclass(frozen=True)
class RankError:
    """What is lost at one rank.

    Attributes:
        rank: Of the adapter.
        module: A linear layer, or ``"all"`` for all of them together.
        relative_error: Frobenius norm of what is left out over that of the change.
        logit_error: Distance of the first reply token's logits from those of the run, over the
            distance by which the run moved them; NaN for single modules or without prompts.
    """

    rank: int
    module: str
    relative_error: float
    logit_error: float


@dataclass(frozen=True)
class LoraExport:
    """A written adapter and what it loses.

    Attributes:
        folder: That ``PeftModel.from_pretrained`` reads.
        rank: Of the adapter; a smaller layer has its full rank.
        full_rank: At which nothing is lost but rounding.
        errors: Of several ranks, that of the adapter among them.
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
        import pandas as pd

        return pd.DataFrame([vars(error) for error in self.errors])

    @property
    def error(self) -> RankError:
        """Of the adapter that was written, all modules together."""
        return next(
            each for each in self.errors if each.rank == self.rank and each.module == ALL_MODULES
        )


def export_lora(
    model: ChatModel,
    run: TrainingRun,
    folder: str | Path,
    *,
    rank: int | str = 8,
    error: float = 0.05,
    prompts: PromptSet | None = None,
    overwrite: bool = False,
    facts: Facts | None = None,
) -> LoraExport:
    """Write a run as a LoRA adapter that PEFT reads.

    The decomposition is computed in float64, the adapter is written in float32, with adapters in
    the trained block alone.

    Args:
        model: The model that the run was trained on.
        run: A fine-tune of one of its blocks.
        folder: Where to write; made if it is not there.
        rank: Of the adapter, or ``"auto"`` for the smallest with at most ``error``.
        error: For ``"auto"``: the relative error in the Frobenius norm that is allowed, over all
            linear layers together.
        prompts: Measures the error in the logits as well.
        overwrite: Replace an adapter that is there, with all that is in its folder.
        facts: For the model card.

    Raises:
        UserError: If the run belongs to another model or changed no linear layer, the block is
            quantised, rank or error are out of range, PEFT is missing, or the folder holds
            something or cannot be written.
    """
    check_lora(rank, error)
    check_float_block(model, run)
    parts = _Parts(model, run)
    chosen = parts.smallest_rank(error) if rank == "auto" else min(int(rank), parts.full_rank)
    measured = _Measured(model, run, parts, prompts)
    facts = facts or Facts()
    with writing_export(folder, model, "adapter", overwrite) as staging:
        result = LoraExport(
            folder=Path(folder),
            rank=chosen,
            full_rank=parts.full_rank,
            errors=tuple(measured.errors(chosen)),
            held_whole=tuple(parts.held),
            without_held=measured.without_held(),
        )
        _write_adapter(staging, model, parts, chosen, facts)
        write_model_card(staging, model, run, _form(model, facts, result), facts)
    return result


def check_lora(rank: int | str, error: float) -> None:
    """Check what ``export_lora`` would refuse, without a model. Arguments as there.

    Raises:
        UserError: If PEFT is missing, or rank or error are out of range.
    """
    _need_peft()
    _check_rank(rank, error)


def _need_peft() -> None:
    quiet_bitsandbytes()
    require("peft", "lora", "a LoRA adapter")


def _check_rank(rank: int | str, error: float) -> None:
    if isinstance(rank, str) and rank != "auto":
        raise UserError(f"rank is '{rank}'; give a whole number of at least 1, or auto")
    if isinstance(rank, int) and rank < 1:
        raise UserError(f"rank is {rank}; give a whole number of at least 1, or auto")
    if not 0 < error < 1:
        raise UserError(f"error is {error:g}; give a number between 0 and 1, such as 0.05")


# ---- What an adapter is made of ----


class _Parts:
    """The change of a block, sorted into what LoRA holds and what it cannot.

    Attributes:
        factors: Of each changed linear layer, by module name.
        biases: Changes of their biases, where all of them have one.
        held: Tensors of modules that are kept whole, by module name and tensor name.
        transposed: Whether weights are stored ``[in, out]``, as in GPT-2.
        full_rank: The largest rank of any of them.
    """

    def __init__(self, model: ChatModel, run: TrainingRun) -> None:
        tensors = model.hf.state_dict()
        changes = {name: difference(tensors[name], run.state[name]) for name in run.state}
        changed = {name for name, change in changes.items() if bool((change != 0).any())}
        modules = dict(model.hf.named_modules())
        linears = {
            name
            for name in {tensor.rpartition(".")[0] for tensor in run.state}
            if _is_linear(modules[name]) and f"{name}.weight" in changed
        }
        with_bias = {name for name in linears if f"{name}.bias" in changes}
        moved = {name for name in with_bias if f"{name}.bias" in changed}
        # PEFT adds a bias to all adapters or to none, and merges none into a layer without one.
        self.as_biases = bool(moved) and with_bias == linears
        whole = set() if self.as_biases else moved
        adapted = sorted(linears - whole)
        if not adapted:
            raise UserError(
                f"the run changed no linear layer of block {run.layer} that an adapter could hold; "
                "export it as delta or model"
            )
        self.transposed = not isinstance(modules[adapted[0]], nn.Linear)
        self.factors = {
            name: _decomposed(changes[f"{name}.weight"], transposed=self.transposed)
            for name in adapted
        }
        self.biases = {name: changes[f"{name}.bias"] for name in adapted} if self.as_biases else {}
        self.held = _held(run, changed, set(adapted), as_biases=self.as_biases)
        self.full_rank = max(len(each.values) for each in self.factors.values())

    def relative_error(self, rank: int, names: Sequence[str]) -> float:
        """Frobenius norm of what these modules lose at a rank, over that of their change."""
        lost = sum(self.factors[name].tail(rank) for name in names)
        return math.sqrt(lost / sum(self.factors[name].tail(0) for name in names))

    def smallest_rank(self, error: float) -> int:
        """The first rank with at most that error over all modules."""
        names = list(self.factors)
        low, high = 1, self.full_rank  # the error falls with the rank: bisect
        while low < high:
            middle = (low + high) // 2
            if self.relative_error(middle, names) <= error:
                high = middle
            else:
                low = middle + 1
        return low

    def cut(
        self, name: str, rank: int
    ) -> tuple[Float[Tensor, "rank in"], Float[Tensor, "out rank"]]:
        """LoRA's A and B of a module, float32; the roots of the values go to both."""
        left, values, right = self.factors[name]
        rank = min(rank, len(values))
        root = values[:rank].sqrt()
        a, b = root[:, None] * right[:rank], left[:, :rank] * root
        return a.float().contiguous(), b.float().contiguous()

    def approximated(self, rank: int, run: TrainingRun, model: ChatModel) -> TrainingRun:
        """The run as it would be with this rank."""
        tensors = model.hf.state_dict()
        state = dict(run.state)
        for name in self.factors:
            a, b = self.cut(name, rank)
            change = b.double() @ a.double()
            before = tensors[f"{name}.weight"].cpu()
            moved = before.double() + (change.T if self.transposed else change)
            state[f"{name}.weight"] = moved.to(before.dtype)
        return replace(run, state=state)


def _is_linear(module: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, nn.Linear | Conv1D)


def _decomposed(change: Float[Tensor, "rows columns"], *, transposed: bool) -> Factors:
    left, values, right = torch.linalg.svd(change.T if transposed else change, full_matrices=False)
    return Factors(left, values, right)


def _held(
    run: TrainingRun, changed: set[str], adapted: set[str], *, as_biases: bool
) -> dict[str, dict[str, Tensor]]:
    """All tensors of each module that has changed and is not covered by factors and biases."""
    covered = {f"{name}.weight" for name in adapted}
    if as_biases:
        covered |= {f"{name}.bias" for name in adapted}
    held = sorted({name.rpartition(".")[0] for name in changed - covered})
    return {
        module: {
            name: tensor for name, tensor in run.state.items() if name.rpartition(".")[0] == module
        }
        for module in held
    }


# ---- What it loses ----


class _Measured:
    """Errors at several ranks; with prompts, in the logits too."""

    def __init__(
        self, model: ChatModel, run: TrainingRun, parts: _Parts, prompts: PromptSet | None
    ) -> None:
        self.model, self.run, self.parts = model, run, parts
        self.texts = prompts.texts if prompts is not None else ()
        if self.texts:
            base = first_token_logits(model, self.texts)
            self.wanted = self._logits(run)
            self.moved = float((self.wanted - base).double().norm())

    def errors(self, chosen: int) -> Iterator[RankError]:
        """Of powers of two, the chosen and the full rank."""
        full, names = self.parts.full_rank, list(self.parts.factors)
        powers = {2**power for power in range(full.bit_length()) if 2**power < full}
        for rank in sorted(powers | {chosen, full}):
            for name in names:
                yield RankError(rank, name, self.parts.relative_error(rank, [name]), _NAN)
            together = self.parts.relative_error(rank, names)
            approximated = self.parts.approximated(rank, self.run, self.model)
            yield RankError(rank, ALL_MODULES, together, self.logit_error(approximated))

    def without_held(self) -> float:
        """The logit error if what is held whole were left as it was before training."""
        tensors = self.model.hf.state_dict()
        state = dict(self.run.state)
        for held in self.parts.held.values():
            state.update({name: tensors[name].detach().clone() for name in held})
        return self.logit_error(replace(self.run, state=state))

    def logit_error(self, run: TrainingRun) -> float:
        """Distance from the logits of the run, as a share of how far it moved them."""
        if not self.texts or not self.moved:
            return _NAN
        return float((self._logits(run) - self.wanted).double().norm()) / self.moved

    def _logits(self, run: TrainingRun) -> Float[Tensor, "prompt vocabulary"]:
        with run.applied_to(self.model):
            return first_token_logits(self.model, self.texts)


# ---- What is written ----


def _write_adapter(folder: Path, model: ChatModel, parts: _Parts, rank: int, facts: Facts) -> None:
    from peft import LoraConfig
    from safetensors.torch import save_file

    ranks = {name: min(rank, len(each.values)) for name, each in parts.factors.items()}
    config = LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=base_model_name(model, facts),
        inference_mode=True,
        r=rank,
        lora_alpha=rank,  # a scale of 1: the factors are the change itself
        rank_pattern=ranks,
        alpha_pattern=dict(ranks),
        # Whole names, and not the short ones that every block has.
        target_modules=sorted(parts.factors),
        modules_to_save=sorted(parts.held) or None,
        fan_in_fan_out=parts.transposed,
        lora_bias=parts.as_biases,
    )
    config.save_pretrained(str(folder))
    save_file(_adapter_tensors(parts, rank), folder / ADAPTER_FILE, metadata={"format": "pt"})


def _adapter_tensors(parts: _Parts, rank: int) -> dict[str, Tensor]:
    """Every tensor under the name that PEFT gives it."""
    tensors: dict[str, Tensor] = {}
    for name in parts.factors:
        a, b = parts.cut(name, rank)
        tensors[f"base_model.model.{name}.lora_A.weight"] = a
        tensors[f"base_model.model.{name}.lora_B.weight"] = b
    for name, change in parts.biases.items():
        tensors[f"base_model.model.{name}.lora_B.bias"] = change.float()
    for held in parts.held.values():
        for name, tensor in held.items():
            tensors[f"base_model.model.{name}"] = tensor.detach().cpu().contiguous()
    return tensors


def _form(model: ChatModel, facts: Facts, result: LoraExport) -> Form:
    base = base_model_name(model, facts)
    dtype = str(model.hf.dtype).removeprefix("torch.")
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
            f'base = AutoModelForCausalLM.from_pretrained({base!r}, dtype="{dtype}")',
            "model = PeftModel.from_pretrained(base, '.')  # this folder, or its name on the hub",
        ],
        undo="`model.unload()` gives the base model back; `with model.disable_adapter():` asks it "
        "for a while.",
        tags=["lora"],
        notes=notes,
    )
