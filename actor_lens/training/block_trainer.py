"""One block in training: a float32 copy, its optimiser, its cached inputs and its targets.

The copy is float32 in half precision too, where small steps would vanish; a float64 model's is
float64.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from actor_lens.activations.residuals import BlockInputs
from actor_lens.directions.refusal_directions import origin_on
from actor_lens.directions.targets import label_signs, target_shifts
from actor_lens.errors import UserError
from actor_lens.models.blocks import block_arguments, last_token_output
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.threads import suitable_threads
from actor_lens.prompts.rows import LABELS
from actor_lens.training.config import FinetuneConfig
from actor_lens.training.run import ResumeState

# Activations of all prompts are computed in batches of this size, whatever the training batch.
_FORWARD_BATCH = 64
# A loss of 1 means activations at right angles to their targets: the run has lost its way, unless
# its targets were as far away as that from the start.
_DIVERGED = 1.0


class DivergedError(Exception):
    """Training has lost its way."""


class BlockTrainer:
    """A copy of a block, its optimiser, its cached inputs, and the targets."""

    def __init__(
        self,
        model: ChatModel,
        config: FinetuneConfig,
        inputs: BlockInputs,
        vector: Float[Tensor, " d_model"] | None = None,
        place: float | None = None,
        anchors: BlockInputs | None = None,
    ) -> None:
        """Copy the block and take the initial activations, R and origin.

        Args:
            model: The model, which is left as it is.
            config: Settings.
            inputs: Inputs of the block for the training prompts.
            vector: A vector in the place of R in fixed targets, for controls; None for R.
            place: Place of the origin between the class means, where it is fitted.
            anchors: Inputs of the block for the prompts that R and the origin are made of; None
                for the training prompts.

        Raises:
            UserError: If the activations are not finite, or R is zero.
        """
        self.config, self._place = config, place
        self.labels = inputs.prompts.labels
        self.step = 0
        self.torn = False  # True while weights are half updated, where Ctrl-C may strike
        self._model = model
        self._inputs = inputs
        self._anchors = anchors
        dtype = torch.promote_types(model.hf.dtype, torch.float32)
        if config.precision == "bfloat16":
            dtype = torch.bfloat16
        self.block = copy.deepcopy(model.blocks[config.layer]).to(dtype).requires_grad_(True)
        self._device = next(self.block.parameters()).device  # not the embedding's where spread
        self._optimizer = self._make_optimizer()
        self._signs = label_signs(self.labels).to(self._device, dtype)
        self._masks = self._masks_of(self.labels)
        self._anchor_masks = None if anchors is None else self._masks_of(anchors.prompts.labels)
        self._initial = self.activations()
        means = self._class_means(self._initial)
        self._initial_vector = (
            _difference(means) if vector is None else vector.to(self._initial)  # place and dtype
        )
        self._initial_origin = self._origin(means, self._initial_vector)
        # What drift is measured from; anchors are not seen at every step.
        self._start = self._initial_vector
        if anchors is not None:
            self._start = _difference(self._means(self._initial, self._masks))
        self._vector_now, self._origin_now = self._initial_vector, self._initial_origin
        self._last_seen = self._initial.clone()
        self._last_losses = torch.empty(0, dtype=torch.float32, device="cpu")
        self._check_start(model.name, means)
        everyone = list(range(len(self.labels)))
        far = float(self._losses(self._initial, everyone).mean()) >= _DIVERGED / 2
        self._limit = math.inf if far else _DIVERGED

    @property
    def steps_per_epoch(self) -> int:
        """Steps in one pass over the prompts; the last batch may be short."""
        return math.ceil(len(self.labels) / self.config.batch_size)

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.steps_per_epoch * self.config.epochs

    @property
    def unit(self) -> Float[Tensor, " d_model"]:
        """The refusal direction of the start, of length one."""
        length: Tensor = self._initial_vector.norm()
        return self._initial_vector / length

    def activations(self) -> Float[Tensor, "prompt d_model"]:
        """Every prompt's activation under the weights of the moment."""
        return in_batches(self._forward, len(self.labels))

    def batch_of(self, step: int) -> list[int]:
        """Prompts of a step: each epoch is a permutation that seed and epoch alone decide."""
        epoch, place = divmod(step, self.steps_per_epoch)
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.labels), generator=generator, device="cpu").tolist()
        start = place * self.config.batch_size
        return list(order[start : start + self.config.batch_size])

    def take_step(self) -> None:
        """Take one step of the optimiser on the next batch.

        Raises:
            DivergedError: If loss or gradients are not sound; the weights are then as before.
        """
        self._refresh_if_due()
        rows = self.batch_of(self.step)
        with suitable_threads(self._model, sum(map(self._n_tokens, rows))):
            self._step_on(rows)

    def _make_optimizer(self) -> torch.optim.Optimizer:
        config, parameters = self.config, self.block.parameters()
        if config.optimizer == "sgd":
            return torch.optim.SGD(
                parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True
            )
        return torch.optim.AdamW(
            parameters, lr=config.lr, eps=config.eps, weight_decay=config.weight_decay, fused=True
        )

    def _n_tokens(self, row: int) -> int:
        return len(self._inputs.hidden_states[row])

    def _step_on(self, rows: list[int]) -> None:
        with torch.enable_grad():
            current = self._forward(rows)
            losses = self._losses(current, rows)
            self._last_seen[rows] = current.detach()
            self._last_losses = losses.detach()
            self._optimizer.zero_grad(set_to_none=True)
            losses.mean().backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad.norm() for p in self.block.parameters() if p.grad is not None]
        self._check(self._last_losses, gradients, self.step + 1)
        self.torn = True
        self._optimizer.step()
        self.step += 1
        self.torn = False

    def check_sound(self) -> None:
        """Check the weights that the last step made on the batch that it was made from.

        Raises:
            DivergedError: If they or their loss are not sound.
        """
        rows = self.batch_of(self.step - 1)
        with torch.no_grad():
            losses = self.losses_of(rows)
        self._check(losses, [p.detach().norm() for p in self.block.parameters()], self.step)

    def losses_of(self, rows: list[int]) -> Float[Tensor, " prompt"]:
        """Loss of some prompts under the weights of the moment, with gradients."""
        return self._losses(self._forward(rows), rows)

    def last_losses(self) -> tuple[float, dict[str, float]]:
        """Loss of the last step, and its mean for each label of that batch."""
        rows = self.batch_of(self.step - 1)
        return float(self._last_losses.mean()), self._by_label(self._last_losses, rows)

    def drift(self) -> tuple[dict[str, float], float]:
        """Mean projection of each label, and cosine of R with R at the start, as last seen."""
        along = self._last_seen @ self.unit
        projections = self._by_label(along, list(range(len(self.labels))))
        now = _difference(self._means(self._last_seen, self._masks))
        return projections, float(nn.functional.cosine_similarity(now, self._start, dim=0))

    def resume_state(self) -> ResumeState:
        """All that changes from step to step."""
        tensors = {
            "last_seen": self._last_seen,
            "vector": self._vector_now,
            "origin": self._origin_now,
        }
        for name, parameter in self.block.named_parameters():
            moments = self._optimizer.state.get(parameter, {})
            tensors[f"weight.{name}"] = parameter.detach()
            tensors |= {f"{key}.{name}": value for key, value in moments.items()}
        return ResumeState(
            self.step, {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
        )

    def load_state(self, state: ResumeState) -> None:
        """Continue from a state that ``resume_state`` gave."""
        self.step = state.step
        tensors = {name: tensor.to(self._device) for name, tensor in state.tensors.items()}
        self._last_seen, self._vector_now = tensors["last_seen"], tensors["vector"]
        self._origin_now = tensors["origin"]
        for name, parameter in self.block.named_parameters():
            with torch.no_grad():
                parameter.copy_(tensors[f"weight.{name}"])
            moments = {
                key: state.tensors[f"{key}.{name}"] if key == "step" else tensors[f"{key}.{name}"]
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{key}.{name}" in tensors
            }
            if moments:
                self._optimizer.state[parameter] = moments

    def _refresh_if_due(self) -> None:
        """Recompute R and the origin of moving targets at the start of an epoch, or of a step."""
        refresh = self.config.refresh
        if self.config.anchor == "initial" or refresh == "never":
            return
        every = {"epoch": self.steps_per_epoch, "step": 1}.get(str(refresh)) or int(refresh)
        if self.step % every == 0:
            if self._anchors is None:
                self._last_seen = self.activations()
            means = self._class_means(self._last_seen)
            self._vector_now = _difference(means)
            self._origin_now = self._origin(means, self._vector_now)

    def _losses(
        self, current: Float[Tensor, "prompt d_model"], rows: list[int]
    ) -> Float[Tensor, " prompt"]:
        """Loss of some prompts at their activations of the moment; targets carry no gradients."""
        if self.config.anchor == "initial":
            start, vector, origin = self._initial[rows], self._initial_vector, self._initial_origin
        else:
            start, vector, origin = current.detach(), self._vector_now, self._origin_now
        shifts = target_shifts(
            start,
            vector,
            origin,
            self._signs[rows],
            alpha=self.config.alpha,
            shift=self.config.shift,
        )
        targets = start + shifts[:, None] * (vector / vector.norm())
        return 1 - nn.functional.cosine_similarity(current, targets, dim=-1)

    def _check(self, losses: Tensor, norms: list[Tensor], step: int) -> None:
        loss = float(losses.mean())
        finite = math.isfinite(loss) and torch.isfinite(torch.stack(norms)).all()
        if not finite or loss >= self._limit:
            raise DivergedError(f"Step {step} diverged (loss {loss:.3g}).")

    def _check_start(self, name: str, means: Mapping[str, Tensor]) -> None:
        where = f"layer {self.config.layer} of '{name}'"
        if not torch.isfinite(self._initial).all():
            raise UserError(
                f"activations at {where} hold values that are not finite; load the model with "
                "dtype float32 or bfloat16"
            )
        sizes = max(mean.norm() for mean in means.values())
        if self._initial_vector.norm() <= torch.finfo(torch.float32).eps * sizes:
            raise UserError(
                f"harmful and benign prompts have the same mean at {where}: no direction there; "
                "check that the two labels hold different prompts"
            )

    def _by_label(self, values: Float[Tensor, " prompt"], rows: list[int]) -> dict[str, float]:
        """Mean of a value for each label of a batch."""
        groups = {label: mask[rows] for label, mask in self._masks.items()}
        return {label: float(values[m].mean()) for label, m in groups.items() if m.any()}

    def _forward(self, rows: list[int]) -> Float[Tensor, "prompt d_model"]:
        return last_activations(self._model, self.block, self._inputs, rows)

    def _masks_of(self, labels: Sequence[str]) -> dict[str, Tensor]:
        """Which prompts have each label."""
        return {
            label: torch.tensor([one == label for one in labels], device=self._device)
            for label in LABELS
        }

    def _class_means(self, seen: Tensor) -> dict[str, Tensor]:
        """Means of the anchors by the weights of the moment, else of what was seen in training."""
        if self._anchors is None or self._anchor_masks is None:
            return self._means(seen, self._masks)
        forward = partial(last_activations, self._model, self.block, self._anchors)
        activations = in_batches(forward, len(self._anchors.prompts))
        return self._means(activations, self._anchor_masks)

    def _means(self, activations: Tensor, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        # float64 sums, as in refusal_directions
        return {
            label: activations[masks[label]].double().mean(dim=0).to(activations.dtype)
            for label in ("harmful", "benign")
        }

    def _origin(self, means: Mapping[str, Tensor], vector: Tensor) -> Float[Tensor, ""]:
        unit = vector / vector.norm()
        return origin_on(
            self.config.origin,
            benign=means["benign"] @ unit,
            harmful=means["harmful"] @ unit,
            place=self._place,
        )


# The same difference in means as refusal_directions, but of means that are rounded already:
# trained weights depend on its last bits.
def _difference(means: Mapping[str, Tensor]) -> Float[Tensor, " d_model"]:
    return torch.sub(means["harmful"], means["benign"])


def last_activations(
    model: ChatModel, block: nn.Module, inputs: BlockInputs, rows: list[int]
) -> Float[Tensor, "prompt d_model"]:
    """What a copy of a block makes of the cached inputs of some prompts, at the last token.

    No other block is run.
    """
    weight = next(block.parameters())
    hidden, mask, positions = inputs.batch(rows, weight.device)
    hidden = hidden.to(weight.dtype)
    arguments = block_arguments(model, inputs.layer, hidden, mask, positions)
    return last_token_output(block, hidden, arguments)


def in_batches(
    forward: Callable[[list[int]], Tensor], n_prompts: int
) -> Float[Tensor, "prompt d_model"]:
    """Call a function for all prompts, some at a time and without gradients."""
    rows = list(range(n_prompts))
    with torch.no_grad():
        parts = [
            forward(rows[start : start + _FORWARD_BATCH])
            for start in range(0, n_prompts, _FORWARD_BATCH)
        ]
    return torch.cat(parts)
