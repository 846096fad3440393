"""Residual streams at one position of the templated prompts, and the inputs of one block.

"At layer l" means after block l (``resid_post``). Unless another position is named it is the last
token, just before the model's reply: where the model has read everything and decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from actor_lens.activations.filling import Array, Key, collect, identity_of
from actor_lens.activations.passes import run_batch
from actor_lens.activations.positions import LAST, Position, find_position
from actor_lens.activations.store import Store
from actor_lens.errors import UserError, check_whole, unboxed
from actor_lens.files.sizes import format_size
from actor_lens.models.batches import left_padding
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.reading import read_beginning
from actor_lens.prompts.columns import layer_prompt_frame, prompt_columns
from actor_lens.prompts.sets import PromptSet
from actor_lens.results import Result, harmless_head
from actor_lens.text import plural

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Residuals(Result):
    """Residual stream of every prompt at every layer, at one position.

    Attributes:
        values: ``resid_post``, float32, on the CPU. Those that come from the activation store are
            mapped from its file: what is not read takes no memory, and changes stay in memory.
        prompts: Prompts in the order of the second dimension.
        model_name: Name of the model they come from.
        position: Where they were read.
    """

    values: Float[Tensor, "layer prompt d_model"]
    prompts: PromptSet
    model_name: str
    position: Position = LAST

    _hint = "next: al.refusal_directions(residuals)"

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return int(self.values.shape[0])

    def at(self, layer: int) -> Float[Tensor, "prompt d_model"]:
        """Residuals of all prompts at one layer.

        Raises:
            UserError: If there is no such layer.
        """
        return self.values[self.check_layer(layer)]

    def check_layer(self, layer: int) -> int:
        """Return a layer as an int, also one of NumPy or torch.

        Raises:
            UserError: If there is no such layer.
        """
        layer = unboxed(layer)
        if not 0 <= layer < self.n_layers:
            raise UserError(f"layer {layer} is out of range: layers 0 to {self.n_layers - 1}")
        return check_whole("layer", layer, 0)

    def mask(self, label: str) -> Bool[Tensor, " prompt"]:
        """Which prompts have a label."""
        return torch.tensor(
            [own == label for own in self.prompts.labels], dtype=torch.bool, device="cpu"
        )

    def of(self, label: str) -> Float[Tensor, "layer prompt d_model"]:
        """Residuals of the prompts with a label."""
        return self.values[:, self.mask(label)]

    def select(self, prompts: PromptSet) -> Residuals:
        """Residuals of some of the prompts, in the order given.

        Raises:
            UserError: If a prompt is not among these residuals.
        """
        places = {prompt.prompt: place for place, prompt in enumerate(self.prompts)}
        missing = sum(prompt.prompt not in places for prompt in prompts)
        if missing:
            raise UserError(f"no residuals for {missing} prompts; collect_residuals makes them")
        indices = torch.tensor(
            [places[prompt.prompt] for prompt in prompts], dtype=torch.long, device="cpu"
        )
        return replace(self, values=self.values[:, indices], prompts=prompts)

    def frame(self) -> pd.DataFrame:
        """One row a layer and prompt: ``layer``, those of ``prompt_columns``, ``norm``."""
        norms = self.values.double().norm(dim=-1).numpy()
        return layer_prompt_frame(self.prompts, norms, "norm")

    def summary(self) -> dict[str, Any]:
        """``model_name``, ``n_layers``, ``d_model``, number of ``prompts``, ``position``."""
        n_layers, n_prompts, d_model = self.values.shape
        sizes = {"n_layers": n_layers, "d_model": d_model, "prompts": n_prompts}
        return {"model_name": self.model_name, "position": self.position.name, **sizes}

    def _headline(self) -> str:
        n_layers, n_prompts, d_model = self.values.shape
        return (
            f"Residuals: {plural(n_prompts, 'prompt')} at {self.position}, "
            f"{plural(n_layers, 'layer')} of width {d_model}, {self.model_name}"
        )

    def _table(self) -> pd.DataFrame:
        # Of the first layer alone: the others would have to be read from the disk.
        return harmless_head(replace(self, values=self.values[:1]).frame())


@dataclass(frozen=True, eq=False, repr=False)
class BlockInputs(Result):
    """What one block receives for each prompt, at all of its tokens.

    Attributes:
        layer: The block.
        hidden_states: ``resid_pre`` of each prompt without padding, in the model's dtype.
        prompts: Prompts in the same order.
    """

    layer: int
    hidden_states: tuple[Float[Tensor, "_token d_model"], ...]  # _: each its own length
    prompts: PromptSet

    def frame(self) -> pd.DataFrame:
        """One row a prompt: those of ``prompt_columns``, ``tokens`` (their number)."""
        import pandas as pd

        tokens = [len(states) for states in self.hidden_states]
        return pd.DataFrame({**prompt_columns(self.prompts), "tokens": tokens})

    def summary(self) -> dict[str, Any]:
        """``layer``, ``nbytes`` and the numbers of ``prompts`` and their ``tokens``."""
        sizes = {"prompts": len(self.prompts), "tokens": sum(map(len, self.hidden_states))}
        return {"layer": self.layer, **sizes, "nbytes": self.nbytes}

    def _headline(self) -> str:
        return (
            f"BlockInputs: what block {self.layer} receives for "
            f"{plural(len(self.prompts), 'prompt')}, {format_size(self.nbytes)}"
        )

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
        padded = torch.zeros(*mask.shape, chosen[0].shape[-1], dtype=chosen[0].dtype, device="cpu")
        for row, states in enumerate(chosen):
            padded[row, -len(states) :] = states
        return padded.to(device), mask, positions


@dataclass(frozen=True, eq=False, repr=False)
class Activations(Result):
    """Residuals and block inputs from one pass over the prompts.

    Attributes:
        residuals: Residuals of every layer at one position; None where they were not asked for.
        block_inputs: What the blocks asked for receive, by layer.
    """

    residuals: Residuals | None
    block_inputs: Mapping[int, BlockInputs]

    def frame(self) -> pd.DataFrame:
        """One row an array: ``kind``, ``layer`` (None for all), ``prompts``, ``nbytes``."""
        import pandas as pd

        rows: list[tuple[str, int | None, int, int]] = []
        if self.residuals is not None:
            values = self.residuals.values
            rows.append(("residuals", None, values.shape[1], values.nbytes))
        for layer, inputs in self.block_inputs.items():
            rows.append(("block_inputs", layer, len(inputs.prompts), inputs.nbytes))
        return pd.DataFrame(rows, columns=["kind", "layer", "prompts", "nbytes"])

    def summary(self) -> dict[str, Any]:
        """``residuals`` (whether they are there) and the layers of the ``block_inputs``."""
        return {
            "residuals": self.residuals is not None,
            "block_inputs": list(self.block_inputs),
        }

    def _headline(self) -> str:
        parts = [] if self.residuals is None else [self.residuals._headline()]
        parts += [f"BlockInputs of {plural(len(self.block_inputs), 'block')}"]
        return f"Activations: {'; '.join(parts)}"


def collect_residuals(
    model: ChatModel,
    prompts: PromptSet,
    *,
    position: str | int | Position = LAST,
    opening: Sequence[int] = (),
    store: Store | bool = True,
) -> Residuals:
    """Cache ``resid_post`` of every layer at one token of each templated prompt, the last.

    Prompts run in left-padded batches; a batch gives what each prompt alone gives. The token is
    taken out while the model runs, which ends after the last block: no logits and no KV cache.

    Args:
        model: The model to look into.
        prompts: At least one prompt.
        position: ``"last"``, ``"instruction"``, ``"refusal"``, a number such as -2, or the
            ``position`` of other residuals; see ``actor_lens.activations.positions``.
        opening: The token that refusals begin with, for ``"refusal"``:
            ``al.judges.refusal_openings(model, prompts).commonest[:1]``.
        store: Store that keeps them for the next time: True is the default store, False none.

    Raises:
        UserError: If there are no prompts, one is too long, or there is no such position.
    """
    place = find_position(model, position, opening)
    collected = collect_activations(model, prompts, position=place, store=store)
    assert collected.residuals is not None
    return collected.residuals


def collect_block_inputs(
    model: ChatModel,
    prompts: PromptSet,
    layer: int,
    *,
    store: Store | bool = True,
) -> BlockInputs:
    """Cache what one block receives, at every token of every prompt.

    The blocks above are not run. With everything below frozen, this is all that training the
    block needs of the network.

    Args:
        model: The model to look into.
        prompts: At least one prompt.
        layer: The block, from 0.
        store: Store that keeps them for the next time: True is the default store, False none.

    Raises:
        UserError: If the layer does not exist, there are no prompts, or one is too long.
    """
    layer = model.check_layer(layer)
    collected = collect_activations(
        model, prompts, residuals=False, block_inputs=[layer], store=store
    )
    return collected.block_inputs[layer]


def collect_activations(
    model: ChatModel,
    prompts: PromptSet,
    *,
    residuals: bool = True,
    block_inputs: Iterable[int] = (),
    position: Position = LAST,
    store: Store | bool = True,
) -> Activations:
    """Cache residuals of all layers and the inputs of some blocks in one pass.

    Without residuals the pass ends at the deepest block asked for.

    Args:
        model: The model to look into.
        prompts: At least one prompt.
        residuals: Whether to cache ``resid_post`` of every layer at the position.
        block_inputs: Layers whose block inputs to cache, at every token.
        position: Where residuals are read; its opening, if any, follows every prompt.
        store: Store that keeps them for the next time: True is the default store, False none.

    Raises:
        UserError: If a layer does not exist, there are no prompts, or one is too long.
    """
    if len(prompts) == 0:
        raise UserError("no prompts were given; check the label, split or file they come from")
    layers = sorted({model.check_layer(layer) for layer in block_inputs})
    token_ids = position.tokenize(model, prompts.texts)
    lengths = [len(ids) for ids in token_ids]
    common = identity_of(model, token_ids)
    dtype = str(model.hf.dtype).removeprefix("torch.")
    arrays: dict[Key, Array] = {}
    if residuals:
        identity = {**common, "kind": "residuals", "position": position.key, "dtype": "float32"}
        ones = [1] * len(prompts)
        arrays["residuals"] = Array(identity, model.n_layers, ones, model.d_model, torch.float32)
    for layer in layers:
        kind = {"kind": "block_inputs", "layer": layer, "position": "all", "dtype": dtype}
        arrays[layer] = Array({**common, **kind}, 1, lengths, model.d_model, model.hf.dtype)
    beginning = cache(partial(read_beginning, model, token_ids, tail=1 + position.behind))
    run = partial(run_batch, model, position.behind, beginning)
    values = collect(model, token_ids, arrays, run, store=store)
    inputs = {}
    for layer in layers:
        inputs[layer] = BlockInputs(layer, torch.split(values[layer][0], lengths), prompts)
    cached = values.get("residuals")
    one = None if cached is None else Residuals(cached, prompts, model.name, position)
    return Activations(one, inputs)
