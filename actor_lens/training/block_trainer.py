"""One block in training: a float32 copy, its optimiser, its cached inputs and its targets.

The copy is float32 whatever the model's dtype: small steps would vanish in half precision.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

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
    """A float32 copy of a block, its optimiser, its cached inputs, and the targets."""

    def __init__(
        self,
        model: ChatModel,
        config: FinetuneConfig,
        inputs: BlockInputs,
        vector: Float[Tensor, " d_model"] | None = None,
        place: float | None = None,
    ) -> None:
        """Copy the block and take the initial activations, R and origin.

        Args:
            model: The model, which is left as it is.
            config: Settings.
            inputs: Inputs of the block for the training prompts.
            vector: A vector in the place of R in fixed targets, for controls; None for R.
            place: Place of the origin between the class means, where it is fitted.

        Raises:
            UserError: If the activations are not finite, or R is zero.
        """
        self.config, self._place = config, place
        self.labels = inputs.prompts.labels
        self.step = 0
        self.torn = False  # True while weights are half updated, where Ctrl-C may strike
        self._model = model
        self._inputs = inputs
        self.block = copy.deepcopy(model.blocks[config.layer]).float().requires_grad_(True)
        self._device = next(self.block.parameters()).device  # not the embedding's where spread
        self._optimizer = torch.optim.AdamW(
            self.block.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
        self._signs = label_signs(self.labels).to(self._device)
        self._masks: dict[str, Tensor] = {
            label: torch.tensor([one == label for one in self.labels], device=self._device)
            for label in LABELS
        }
        self._initial = self.activations()
        self._initial_vector = (
            self._vector(self._initial) if vector is None else vector.float().to(self._device)
        )
        self._initial_origin = self._origin(self._initial, self._initial_vector)
        self._vector_now, self._origin_now = self._initial_vector, self._initial_origin
        self._last_seen = self._initial.clone()
        self._last_losses = torch.empty(0, dtype=torch.float32, device="cpu")
        self._check_start(model.name)
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
            losses = self._losses(self._forward(rows), rows)
        self._check(losses, [p.detach().norm() for p in self.block.parameters()], self.step)

    def last_losses(self) -> tuple[float, dict[str, float]]:
        """Loss of the last step, and its mean for each label of that batch."""
        rows = self.batch_of(self.step - 1)
        return float(self._last_losses.mean()), self._by_label(self._last_losses, rows)

    def drift(self) -> tuple[dict[str, float], float]:
        """Mean projection of each label, and cosine of R with R at the start, as last seen."""
        along = self._last_seen @ self.unit
        projections = self._by_label(along, list(range(len(self.labels))))
        now = self._vector(self._last_seen)
        return projections, float(nn.functional.cosine_similarity(now, self._initial_vector, dim=0))

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
            self._last_seen = self.activations()
            self._vector_now = self._vector(self._last_seen)
            self._origin_now = self._origin(self._last_seen, self._vector_now)

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

    def _check_start(self, name: str) -> None:
        where = f"layer {self.config.layer} of '{name}'"
        if not torch.isfinite(self._initial).all():
            raise UserError(
                f"activations at {where} hold values that are not finite; load the model with "
                "dtype float32 or bfloat16"
            )
        sizes = max(self._mean(self._initial, label).norm() for label in ("harmful", "benign"))
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

    # The same difference in means as refusal_directions, but of means that are float32 already:
    # trained weights depend on its last bits.
    def _vector(self, activations: Tensor) -> Float[Tensor, " d_model"]:
        return self._mean(activations, "harmful") - self._mean(activations, "benign")

    def _origin(self, activations: Tensor, vector: Tensor) -> Float[Tensor, ""]:
        unit = vector / vector.norm()
        return origin_on(
            self.config.origin,
            benign=self._mean(activations, "benign") @ unit,
            harmful=self._mean(activations, "harmful") @ unit,
            place=self._place,
        )

    def _mean(self, activations: Tensor, label: str) -> Float[Tensor, " d_model"]:
        # float64 sums, as in refusal_directions
        return activations[self._masks[label]].double().mean(dim=0).float()


def last_activations(
    model: ChatModel, block: nn.Module, inputs: BlockInputs, rows: list[int]
) -> Float[Tensor, "prompt d_model"]:
    """What a float32 copy of a block makes of the cached inputs of some prompts, at the last token.

    No other block is run.
    """
    device = next(block.parameters()).device
    hidden, mask, positions = inputs.batch(rows, device)
    hidden = hidden.float()
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
