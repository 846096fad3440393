"""Residual streams at the last templated token, and the inputs of one block.

"At layer l" means after block l (``resid_post``). The last token is the last one of the templated
prompt, just before the model's reply: where the model has read everything and decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from actor_lens.batching import TokenBatch, batches_by_length, left_padding
from actor_lens.blocks import record_block_input
from actor_lens.errors import UserError
from actor_lens.models import ChatModel
from actor_lens.prompt_rows import shown
from actor_lens.prompts import PromptSet

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

Progress = Callable[[int, int], None]
"""Called with the number of prompts done and the number of all."""


@dataclass(frozen=True, eq=False)
class Residuals:
    """Residual stream of every prompt at every layer, at the last token.

    Attributes:
        values: ``resid_post``, float32, on the CPU.
        prompts: In the order of the second dimension.
        model_name: The model they come from.
    """

    values: Float[Tensor, "layer prompt d_model"]
    prompts: PromptSet
    model_name: str

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return int(self.values.shape[0])

    def mask(self, label: str) -> Bool[Tensor, " prompt"]:
        """Which prompts have a label."""
        return torch.tensor([one == label for one in self.prompts.labels], dtype=torch.bool)

    def of(self, label: str) -> Float[Tensor, "layer prompt d_model"]:
        """Residuals of the prompts with a label."""
        return self.values[:, self.mask(label)]

    def select(self, prompts: PromptSet) -> Residuals:
        """Residuals of some of the prompts, in the order given.

        Raises:
            UserError: If a prompt is not among these residuals.
        """
        places = {prompt.prompt: place for place, prompt in enumerate(self.prompts)}
        missing = [prompt.prompt for prompt in prompts if prompt.prompt not in places]
        if missing:
            raise UserError(
                f"no residuals for {len(missing)} prompts, the first is {shown(missing[0])}; "
                "collect them with collect_residuals"
            )
        indices = torch.tensor([places[prompt.prompt] for prompt in prompts], dtype=torch.long)
        return Residuals(self.values[:, indices], prompts, self.model_name)

    def frame(self) -> pd.DataFrame:
        """One row a layer and prompt: ``layer``, those of ``prompt_columns``, ``norm``."""
        norms = self.values.double().norm(dim=-1).numpy()
        return layer_prompt_frame(self.prompts, norms, "norm")


@dataclass(frozen=True, eq=False)
class BlockInputs:
    """What one block receives for each prompt, at all of its tokens.

    Attributes:
        layer: The block.
        hidden_states: ``resid_pre`` of each prompt without padding, in the model's dtype.
        prompts: In the same order.
    """

    layer: int
    hidden_states: tuple[Float[Tensor, "_token d_model"], ...]  # _: each its own length
    prompts: PromptSet

    @property
    def nbytes(self) -> int:
        """Memory that the cached inputs take, in bytes."""
        return sum(states.nbytes for states in self.hidden_states)

    def batch(
        self, indices: list[int], device: torch.device
    ) -> tuple[Float[Tensor, "prompt token d_model"], Tensor, Tensor]:
        """Hidden states of some prompts padded on the left, attention mask and position ids."""
        chosen = [self.hidden_states[index] for index in indices]
        mask, positions = left_padding([len(states) for states in chosen], device)
        padded = torch.zeros(*mask.shape, chosen[0].shape[-1], dtype=chosen[0].dtype, device=device)
        for row, states in enumerate(chosen):
            padded[row, -len(states) :] = states.to(device)
        return padded, mask, positions


def collect_residuals(
    model: ChatModel,
    prompts: PromptSet,
    *,
    batch_size: int = 32,
    on_progress: Progress | None = None,
) -> Residuals:
    """Cache ``resid_post`` of every layer at the last templated token, through TransformerLens.

    Prompts run in left-padded batches of like length with attention masks; a batch gives what each
    prompt alone gives. Only the hooks that are read are cached, without logits or KV cache.

    Args:
        model: The model to look into.
        prompts: At least one.
        batch_size: Prompts in one forward pass.
        on_progress: Told after every batch.

    Raises:
        UserError: If there are no prompts, or one is longer than the model takes.
    """
    values = torch.empty(model.n_layers, len(prompts), model.d_model)
    for batch in _batches(model, prompts, batch_size, on_progress):
        values[:, list(batch.indices)] = _last_token_residuals(model, batch)
    return Residuals(values, prompts, model.name)


def collect_block_inputs(
    model: ChatModel,
    prompts: PromptSet,
    layer: int,
    *,
    batch_size: int = 32,
    on_progress: Progress | None = None,
) -> BlockInputs:
    """Cache what one block receives, at every token of every prompt.

    The blocks above are not run. With everything below frozen, this is all that training the
    block needs of the network.

    Args:
        model: The model to look into.
        prompts: At least one.
        layer: The block, from 0.
        batch_size: Prompts in one forward pass.
        on_progress: Told after every batch.

    Raises:
        UserError: If the layer does not exist, there are no prompts, or one is too long.
    """
    layer = model.check_layer(layer)
    hidden: dict[int, Tensor] = {}
    for batch in _batches(model, prompts, batch_size, on_progress):
        with torch.no_grad():
            states = record_block_input(
                model, layer, batch.input_ids, batch.attention_mask, batch.position_ids
            )
        for row, index in enumerate(batch.indices):
            length = int(batch.attention_mask[row].sum())
            hidden[index] = states[row, -length:].clone()  # a view would keep the padding
    return BlockInputs(layer, tuple(hidden[index] for index in range(len(prompts))), prompts)


def layer_prompt_frame(prompts: PromptSet, values: np.ndarray, name: str) -> pd.DataFrame:
    """A tidy table of one number a layer and prompt.

    Args:
        prompts: The second dimension of ``values``.
        values: ``[layer, prompt]``.
        name: Column of the number.
    """
    import numpy as np
    import pandas as pd

    n_layers, n_prompts = values.shape
    columns = prompt_columns(prompts)
    frame = pd.DataFrame({key: np.tile(column, n_layers) for key, column in columns.items()})
    frame.insert(0, "layer", np.repeat(np.arange(n_layers), n_prompts))
    frame[name] = values.reshape(-1)
    return frame


def prompt_columns(prompts: PromptSet) -> dict[str, np.ndarray]:
    """The columns by which every result names its prompts.

    They are ``prompt_index``, ``prompt``, ``label``, ``split`` and ``category``.
    """
    import numpy as np

    columns: dict[str, np.ndarray] = {"prompt_index": np.arange(len(prompts))}
    for key in ("prompt", "label", "split", "category"):
        column = np.empty(len(prompts), dtype=object)
        column[:] = [getattr(prompt, key) for prompt in prompts]
        columns[key] = column
    return columns


def _batches(
    model: ChatModel, prompts: PromptSet, batch_size: int, on_progress: Progress | None
) -> Iterator[TokenBatch]:
    if len(prompts) == 0:
        raise UserError("no prompts were given; check the label, split or file they come from")
    done = 0
    for batch in batches_by_length(
        model.tokenize(prompts.texts),
        batch_size=batch_size,
        pad_token_id=model.pad_token_id,
        device=model.device,
    ):
        yield batch
        done += len(batch.indices)
        if on_progress is not None:
            on_progress(done, len(prompts))


def _last_token_residuals(
    model: ChatModel, batch: TokenBatch
) -> Float[Tensor, "layer prompt d_model"]:
    with torch.no_grad():
        _, cache = model.bridge.run_with_cache(
            batch.input_ids,
            attention_mask=batch.attention_mask,
            pos_slice=-1,
            use_cache=False,
            logits_to_keep=1,
            names_filter=lambda name: name.endswith("hook_resid_post"),
        )
    layers = [cache["resid_post", layer][:, 0].float().cpu() for layer in range(model.n_layers)]
    return torch.stack(layers)
