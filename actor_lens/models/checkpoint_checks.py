"""What a checkpoint's files hold that would change a model without a word."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actor_lens.errors import UserError
from actor_lens.models.adapters import ADAPTER_FILE, alone_message, base_of
from actor_lens.prompts.rows import shown
from actor_lens.text import plural

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_FLOATS = ("F64", "F32", "F16", "BF16")
# Names of what stands beside quantised weights, without which they mean nothing.
_SCALES = re.compile(
    r"(weight_scale|input_scale|scales|scale_inv)$|zero_?point|qzeros|qweight|absmax"
)


def check_causal(name: str, architectures: Sequence[str]) -> None:
    """Refuse a model of a class that does not say which token comes next.

    Raises:
        UserError: If the first of the classes is of another kind.
    """
    endings = ("ForCausalLM", "LMHeadModel")
    if architectures and not any(one.endswith(endings) for one in architectures):
        raise UserError(
            f"model '{name}' is a {architectures[0]}, not a causal language model; "
            "give a decoder-only chat model"
        )


def check_not_offloaded(name: str, hf: PreTrainedModel) -> None:
    """Refuse a map that leaves blocks in main memory or on disk and fetches them at every pass.

    Raises:
        UserError: If a tensor is on none of the devices.
    """
    offloaded = [key for key, tensor in hf.state_dict().items() if tensor.is_meta]
    if offloaded:
        raise UserError(
            f"model '{name}' does not fit on its devices: {len(offloaded)} tensors would be "
            f"fetched at every pass, the first is {offloaded[0]}; use dtype bfloat16, more or "
            "larger devices, or device cpu"
        )


def check_no_adapter(name: str, folder: Path) -> None:
    """Refuse an adapter, alone or beside whole weights, to which transformers would apply it.

    Raises:
        UserError: If the folder has an adapter's files.
    """
    if not (folder / ADAPTER_FILE).is_file():
        return
    if (folder / "config.json").is_file():
        raise UserError(
            f"model folder '{name}' holds an adapter ({ADAPTER_FILE}) beside whole weights, and "
            "loading would apply it to them: move adapter_* into a folder of its own, and give it "
            "with --adapter (load_model(..., adapter=...)) if it is not merged already"
        )
    raise UserError(alone_message(name, base_of(folder)))


def check_not_applied(name: str, hf: PreTrainedModel) -> None:
    """Refuse a model of the hub to which transformers has applied an adapter.

    Raises:
        UserError: If it has.
    """
    if getattr(hf, "_hf_peft_config_loaded", False):
        raise UserError(
            f"model '{name}' comes with an adapter ({ADAPTER_FILE}), which was applied to its "
            "weights; download it, move adapter_* into a folder of its own, and give that with "
            "--adapter (load_model(..., adapter=...)) if you want it"
        )


def stored_dtypes(folder: Path) -> dict[str, str]:
    """Number format of every tensor in a folder's safetensors files, as they name it: "BF16"."""
    dtypes: dict[str, str] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        dtypes |= {key: one["dtype"] for key, one in header.items() if key != "__metadata__"}
    return dtypes


def check_not_packed(name: str, folder: Path | None, unread: Iterable[str]) -> None:
    """Refuse quantised weights whose config does not say so: they would be read without scales.

    Args:
        name: Name of the model.
        folder: Where its files are; None where that is not known.
        unread: Names of the tensors that its architecture has no place for.

    Raises:
        UserError: If there are such weights.
    """
    dtypes = {} if folder is None else stored_dtypes(folder)
    packed = [key for key, dtype in dtypes.items() if dtype.startswith(("F8", "F4", "F6"))]
    packed += sorted(key for key in unread if _SCALES.search(key))
    if packed:
        raise UserError(
            f"model '{name}' has quantised weights ({plural(len(packed), 'tensor')}, the first is "
            f"{packed[0]}{_in_format(dtypes, packed[0])}) but its config.json has no "
            "quantization_config: their scales would be left out; use the checkpoint in bfloat16, "
            "or restore its config"
        )


def check_embedded(
    name: str,
    hf: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    token_ids: Iterable[Sequence[int]],
) -> None:
    """Refuse texts with tokens that the model has no embedding for.

    Args:
        name: Name of the model.
        hf: The model.
        tokenizer: Its tokenizer.
        token_ids: Token ids of texts.

    Raises:
        UserError: If there are such tokens.
    """
    rows = _embedding_rows(hf)
    beyond = sorted({token for ids in token_ids for token in ids if token >= rows})
    if beyond:
        texts = ", ".join(shown(str(tokenizer.convert_ids_to_tokens(one))) for one in beyond[:3])
        raise UserError(
            f"model '{name}' has no embedding for {plural(len(beyond), 'token')} of its tokenizer "
            f"({texts}; ids from {beyond[0]}, the embedding has {rows} rows): resize it "
            "(resize_token_embeddings) and train it, or use the tokenizer and chat template that "
            "the model was trained with"
        )


def tokens_beyond(hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Tokens of a tokenizer that the model has no embedding for, in the order of their ids."""
    rows = _embedding_rows(hf)
    vocabulary: Mapping[str, int] = tokenizer.get_vocab()
    beyond = [token for token, row in vocabulary.items() if row >= rows]
    return sorted(beyond, key=vocabulary.__getitem__)


def _embedding_rows(hf: PreTrainedModel) -> int:
    embedding: Any = hf.get_input_embeddings()
    return int(embedding.weight.shape[0])


def _in_format(dtypes: Mapping[str, str], key: str) -> str:
    return f", {dtypes[key]}" if key in dtypes and dtypes[key] not in _FLOATS else ""
