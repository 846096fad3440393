"""One block in training: a float32 copy, its optimiser, its cached inputs and its targets.

The copy is float32 whatever the model's dtype: small steps would vanish in half precision.
"""

from __future__ import annotations

import copy
import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from actor_lens.activations import BlockInputs
from actor_lens.blocks import block_arguments, last_token_output
from actor_lens.models import ChatModel
from actor_lens.prompts import LABELS
from actor_lens.targets import label_signs, target_shifts
from actor_lens.training_run import FinetuneConfig, ResumeState

# Activations of all prompts are computed in batches of this size, whatever the training batch.
_FORWARD_BATCH = 64
# A loss of 1 means activations at right angles to their targets: the run has lost its way.
_DIVERGED = 1.0


class BlockTrainer:
    """A float32 copy of a block, its optimiser, its cached inputs, and the targets."""

    def __init__(self, model: ChatModel, config: FinetuneConfig, inputs: BlockInputs) -> None:
        """Copy the block and take the initial activations, R and origin."""
        self.config = config
        self.labels = inputs.prompts.labels
        self.step = 0
        self.torn = False  # True while weights are half updated, where Ctrl-C may strike
        self._model = model
        self._inputs = inputs
        self._device = model.device
        self.block = copy.deepcopy(model.blocks[config.layer]).float().requires_grad_(True)
        self._optimizer = torch.optim.AdamW(
            self.block.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )
        self._signs = label_signs(self.labels).to(self._device)
        self._masks: dict[str, Tensor] = {
            label: torch.tensor([one == label for one in self.labels], device=self._device)
            for label in LABELS
        }
        self._initial = self.activations()
        self._initial_vector = self._vector(self._initial)
        self._initial_origin = self._origin(self._initial, self._initial_vector)
        self._vector_now, self._origin_now = self._initial_vector, self._initial_origin
        self._last_seen = self._initial.clone()

    @property
    def steps_per_epoch(self) -> int:
        """Steps in one pass over the prompts; the last batch may be short."""
        return math.ceil(len(self.labels) / self.config.batch_size)

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.steps_per_epoch * self.config.epochs

    def activations(self) -> Float[Tensor, "prompt d_model"]:
        """Every prompt's activation under the weights of the moment."""
        rows = list(range(len(self.labels)))
        with torch.no_grad():
            parts = [
                self._forward(rows[start : start + _FORWARD_BATCH])
                for start in range(0, len(rows), _FORWARD_BATCH)
            ]
        return torch.cat(parts)

    def batch_of(self, step: int) -> list[int]:
        """Prompts of a step: each epoch is a permutation that seed and epoch alone decide."""
        epoch, place = divmod(step, self.steps_per_epoch)
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.labels), generator=generator).tolist()
        start = place * self.config.batch_size
        return list(order[start : start + self.config.batch_size])

    def refresh_if_due(self) -> None:
        """Recompute R and the origin of moving targets at the start of an epoch or step."""
        if self.config.anchor == "initial" or self.config.refresh == "never":
            return
        if self.config.refresh == "step" or self.step % self.steps_per_epoch == 0:
            self._last_seen = self.activations()
            self._vector_now = self._vector(self._last_seen)
            self._origin_now = self._origin(self._last_seen, self._vector_now)

    def losses(self, rows: list[int]) -> Float[Tensor, " prompt"]:
        """Loss of each prompt of a batch, with gradients."""
        current = self._forward(rows)
        self._last_seen[rows] = current.detach()
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

    def update(self, loss: Float[Tensor, ""]) -> bool:
        """One step of the optimiser; False, and no step, if loss or gradients are not sound."""
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in self.block.parameters() if p.grad is not None]
        sound = torch.isfinite(torch.stack([gradient.norm() for gradient in gradients])).all()
        if not sound or not math.isfinite(loss.item()) or loss.item() >= _DIVERGED:
            return False
        self.torn = True
        self._optimizer.step()
        self.step += 1
        self.torn = False
        return True

    def by_label(self, values: Float[Tensor, " prompt"], rows: list[int]) -> dict[str, float]:
        """Mean of a value for each label of a batch."""
        groups = {label: mask[rows] for label, mask in self._masks.items()}
        return {label: float(values[m].mean()) for label, m in groups.items() if m.any()}

    def drift(self) -> tuple[dict[str, float], float]:
        """Mean projection of each label, and cosine of R with R at the start, as last seen."""
        unit = self._initial_vector / self._initial_vector.norm()
        projections = self.by_label(self._last_seen @ unit, list(range(len(self.labels))))
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

    def _forward(self, rows: list[int]) -> Float[Tensor, "prompt d_model"]:
        hidden, mask, positions = self._inputs.batch(rows, self._device)
        hidden = hidden.float()
        arguments = block_arguments(self._model, self.config.layer, hidden, mask, positions)
        return last_token_output(self.block, hidden, arguments)

    def _vector(self, activations: Tensor) -> Float[Tensor, " d_model"]:
        return self._mean(activations, "harmful") - self._mean(activations, "benign")

    def _origin(self, activations: Tensor, vector: Tensor) -> Float[Tensor, ""]:
        unit = vector / vector.norm()
        benign: Tensor = self._mean(activations, "benign") @ unit
        if self.config.origin == "zero":
            return torch.zeros_like(benign)
        if self.config.origin == "benign_mean":
            return benign
        harmful: Tensor = self._mean(activations, "harmful") @ unit
        return (benign + harmful) / 2

    def _mean(self, activations: Tensor, label: str) -> Float[Tensor, " d_model"]:
        # float64 sums, as in refusal_directions
        return activations[self._masks[label]].double().mean(dim=0).float()
