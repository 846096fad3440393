"""A chat model: tokenizer and chat template, a clean Hugging Face model, its TransformerLens twin.

Training, generation and export use ``ChatModel.hf``. Looking inside uses ``ChatModel.bridge``, a
TransformerLens ``TransformerBridge`` over a second module tree that shares every tensor with
``hf``: a change of a weight in place is seen by both.
"""

from __future__ import annotations

import copy
import operator
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex

import torch
from torch import Tensor, nn

from actor_lens.data import bundled
from actor_lens.errors import UserError
from actor_lens.prompt_rows import shown
from actor_lens.weights import WeightsIdentity, fingerprint

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import (
        LogitsProcessor,
        PreTrainedConfig,
        PreTrainedModel,
        PreTrainedTokenizerBase,
    )

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BUNDLED_MODELS = {"toy": "toy-chat"}
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


@dataclass(frozen=True, eq=False)
class ChatModel:
    """A causal language model together with the way it is spoken to.

    Attributes:
        name: What it was loaded by: ``"toy"``, a folder or a hub name.
        hf: The clean Hugging Face model, in evaluation mode, with eager attention so that it
            and the TransformerLens twin agree bit for bit.
        tokenizer: Its tokenizer, which holds the chat template.
        fingerprint: Identifies the weights as they were loaded and the chat template (hex
            digits): directions and runs depend on both.
        source: What ``load_model`` was called with; None for a model made in memory.
        system_prompt: What the system says before every prompt; None for nothing.
        decoding: Makes, for the prompts of a batch, what changes their next-token scores before a
            token is picked; None leaves them alone. Replies and first-token scores feel it.
    """

    name: str
    hf: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    fingerprint: str
    source: Mapping[str, Any] | None = None
    system_prompt: str | None = None
    decoding: Callable[[Sequence[str]], LogitsProcessor] | None = None
    _weights: WeightsIdentity = field(default_factory=WeightsIdentity, repr=False, compare=False)

    @cached_property
    def bridge(self) -> TransformerBridge:
        """The TransformerLens twin, made on first use (importing TransformerLens takes seconds).

        Raises:
            UserError: If TransformerLens does not know the architecture.
        """
        from transformer_lens.model_bridge import TransformerBridge

        _give_in_memory_tokenizer_a_name(self.tokenizer)
        try:
            return TransformerBridge.boot_transformers(
                self.name,
                hf_model=twin(self.hf),
                tokenizer=self.tokenizer,
                device=str(self.device),
                dtype=self.hf.dtype,
            )
        except ValueError as error:
            raise UserError(
                f"model '{self.name}' cannot be looked into: TransformerLens does not wrap a "
                f"{type(self.hf).__name__} ({_one_line(error)[:100]}); use another model"
            ) from error

    @property
    def identity(self) -> str:
        """A hash of all weights as they are now, also while a run is applied."""
        return self._weights.of(self.hf)

    @property
    def is_hooked(self) -> bool:
        """Whether hooks may change what a forward pass computes."""
        hooks = (
            hook
            for module in self.hf.modules()
            for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        )
        # Once asked for hidden states or attentions, transformers leaves hooks that only record.
        if any(hook.__module__ != "transformers.utils.output_capturing" for hook in hooks):
            return True
        if "bridge" not in self.__dict__:  # not made yet, so nobody has hooked it
            return False
        return any(point.has_hooks() for point in self.bridge.hook_dict.values())

    @property
    def blocks(self) -> nn.ModuleList:
        """The decoder blocks in order: block ``l`` writes ``resid_post`` of layer ``l``."""
        blocks: nn.ModuleList = getattr(self.hf.base_model, self.blocks_name)
        return blocks

    @cached_property
    def blocks_name(self) -> str:
        """The attribute of the base model that holds the blocks (``layers``, GPT-2: ``h``)."""
        for name, child in self.hf.base_model.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == self.n_layers > 0:
                return name
        raise UserError(
            f"model '{self.name}' ({type(self.hf).__name__}): no list of {self.n_layers} decoder "
            "blocks found; use a decoder-only text model"
        )

    @property
    def n_layers(self) -> int:
        """Number of decoder blocks."""
        return int(self.hf.config.num_hidden_layers)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.hf.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the embedding lives, and so where token ids must be."""
        return self.hf.device

    @property
    def max_tokens(self) -> int:
        """Longest templated prompt that the model takes, in tokens."""
        return int(getattr(self.hf.config, "max_position_embeddings", 2**31))

    def block_prefix(self, layer: int) -> str:
        """Hugging Face name of a block's tensors, up to and with the dot: ``model.layers.5.``."""
        return f"{self.hf.base_model_prefix}.{self.blocks_name}.{layer}."

    def check_layer(self, layer: SupportsIndex) -> int:
        """Return ``layer`` as an int (numpy integers are taken too) if the model has it.

        Raises:
            UserError: If it is not a whole number from 0 to ``n_layers - 1``.
        """
        try:
            index = None if isinstance(layer, bool) else operator.index(layer)
        except TypeError:
            index = None
        if index is None:
            raise UserError(
                f"layer is {layer!r}; give a whole number from 0 to {self.n_layers - 1}"
            )
        if not 0 <= index < self.n_layers:
            raise UserError(
                f"layer {index} is out of range: '{self.name}' has layers 0 to {self.n_layers - 1}"
            )
        return index

    def render(self, prompt: str) -> str:
        """The prompt as the model sees it: one turn of the user, then the opening of the reply.

        A system prompt, where there is one, comes first: in a turn of the system, or, where the
        template has none, before what the user says.

        Raises:
            UserError: If the chat template cannot render the prompt.
        """
        return _render(self.name, self.tokenizer, prompt, self.system_prompt)

    def tokenize(self, prompts: Sequence[str], *, room: int = 0) -> list[list[int]]:
        """Token ids of each templated prompt, without padding.

        The template already holds the beginning-of-sequence token, so no special tokens are
        added: a second one changes every reply.

        Args:
            prompts: User messages, not yet templated.
            room: Tokens to keep free for a reply.

        Raises:
            UserError: If a templated prompt and the room exceed ``max_tokens``.
        """
        if not prompts:
            return []
        texts = [self.render(prompt) for prompt in prompts]
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        for prompt, tokens in zip(prompts, ids, strict=True):
            if len(tokens) + room > self.max_tokens:
                raise UserError(
                    f"prompt {shown(prompt)} has {len(tokens)} tokens with the chat template"
                    f"{f' and needs {room} for the reply' if room else ''}; '{self.name}' takes "
                    f"{self.max_tokens}: shorten or remove it"
                )
        return ids

    @property
    def pad_token_id(self) -> int:
        """Fills the left of shorter prompts; masked, so its value is never read."""
        for token_id in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token_id is not None:
                return int(token_id)
        return 0


def load_model(
    name: str | Path,
    *,
    device: str = "auto",
    device_map: str | Mapping[str, int | str] | None = None,
    dtype: str = "auto",
    chat_template: str | Path | None = None,
    trust_remote_code: bool = False,
) -> ChatModel:
    """Load a chat model by hub name or folder.

    Weights are read from safetensors only.

    Args:
        name: ``"toy"`` (bundled), a folder with config, safetensors and tokenizer, or a hub name.
        device: ``"auto"`` takes a GPU where there is one, else a torch device name.
        device_map: Spreads the blocks over several devices through accelerate: ``"auto"``, another
            of accelerate's strategies, or module names to devices. Each block is on one device.
        dtype: ``"auto"`` is the checkpoint's own type on a GPU and float32 on a CPU; else
            ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        chat_template: A Jinja template, or the path of a file with one, for a tokenizer without.
        trust_remote_code: Run model code that comes with the checkpoint. Off unless asked for.

    Raises:
        UserError: If the model cannot be found or read, is not a causal language model, has no
            tokenizer or chat template, or does not fit on its devices.
    """
    import transformers

    if device_map is not None and device != "auto":
        raise UserError(
            f"device '{device}' and a device map were given; leave one of them out (a map says "
            "itself which devices it uses)"
        )

    name = str(name)
    source = _resolve(name)
    torch_device = _device(device)
    torch_dtype = _dtype(dtype, torch_device)
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with _one_line_errors(name):
        config = transformers.AutoConfig.from_pretrained(
            source, trust_remote_code=trust_remote_code
        )
        _check_causal(name, config)
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            source, trust_remote_code=trust_remote_code
        )
        _set_chat_template(name, tokenizer, chat_template)
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
            source,
            config=config,
            dtype=torch_dtype,
            device_map=device_map,
            attn_implementation="eager",
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, by name
        )
        hf, report = loaded
        _check_complete(name, report)
        if device_map is None:
            hf.to(torch_device)
        else:
            _check_not_offloaded(name, hf)
    loaded_with = {
        "name": os.path.abspath(source) if os.path.isdir(source) else name,
        "device": device,
        "device_map": device_map,
        "dtype": dtype,
        "chat_template": tokenizer.chat_template,
        "trust_remote_code": trust_remote_code,
    }
    return replace(wrap_model(hf, tokenizer, name=name), source=loaded_with)


def wrap_model(
    hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, name: str = "model"
) -> ChatModel:
    """Make a ``ChatModel`` of a Hugging Face model and tokenizer that are in memory already.

    Attention is switched to the eager implementation, gradients are switched off.

    Raises:
        UserError: If the model has no list of decoder blocks.
    """
    hf.set_attn_implementation("eager")
    hf.eval()  # type: ignore[no-untyped-call]
    hf.requires_grad_(False)
    model = ChatModel(name=name, hf=hf, tokenizer=tokenizer, fingerprint=fingerprint(hf, tokenizer))
    model.block_prefix(0)  # looks for the blocks now, not in the middle of some later stage
    return model


def twin(hf: PreTrainedModel, replaced: Mapping[str, Tensor] | None = None) -> PreTrainedModel:
    """A second module tree over the same tensors: wrapping it leaves ``hf`` as it was.

    Args:
        hf: The model whose tensors are shared.
        replaced: Values of parameters that the second tree has for itself, by their names.
    """
    memo: dict[int, Any] = {id(t): t for t in [*hf.parameters(), *hf.buffers()]}
    own = dict(hf.named_parameters())  # a tied tensor is here under its first name alone
    for name, value in (replaced or {}).items():
        if name in own:
            like = own[name]
            values = value.to(device=like.device, dtype=like.dtype, copy=True)
            memo[id(like)] = nn.Parameter(values, requires_grad=False)
    second = copy.deepcopy(hf, memo)
    if not second.config.architectures:  # a model that was never saved; TransformerLens goes by it
        second.config.architectures = [type(hf).__name__]
    return second


@contextmanager
def _one_line_errors(name: str) -> Iterator[None]:
    """Turn whatever a broken checkpoint makes the libraries raise or log into one line.

    Libraries answer broken files with many kinds of error, some of them bare ``Exception``.
    """
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(_loading_message(name, error)) from error
    finally:
        logging.set_verbosity(verbosity)


def _resolve(name: str) -> str:
    """Folder or hub name to read from, with a folder's contents checked before torch reads them."""
    if name in BUNDLED_MODELS:
        return str(bundled(BUNDLED_MODELS[name]))
    folder = Path(name).expanduser()
    if not os.path.exists(folder):  # Path.exists raises on names too long for a file
        return name
    if not folder.is_dir():
        raise UserError(f"model '{name}' is a file; give the folder that holds config.json")
    if not (folder / "config.json").is_file():
        raise UserError(f"model folder '{name}' has no config.json; give a Hugging Face folder")
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"model folder '{name}' has no *.safetensors weights (pickled weights are not read); "
            "save the model with save_pretrained first"
        )
    if not any((folder / file).is_file() for file in _TOKENIZER_FILES):
        raise UserError(
            f"model folder '{name}' has no tokenizer ({', '.join(_TOKENIZER_FILES)}); "
            "save the tokenizer into it with save_pretrained"
        )
    return str(folder)


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"device '{device}' is not known; use auto, cpu or cuda") from error
    try:
        torch.zeros(1, device=chosen).item()
    except Exception as error:  # each kind of device has its own error for not being there
        raise UserError(
            f"device '{device}' is not available ({_one_line(error)[:100]}); use --device cpu"
        ) from error
    return chosen


def _dtype(dtype: str, device: torch.device) -> torch.dtype | str:
    if dtype == "auto":
        # Half precision is slow on CPUs and gains nothing for models that fit one.
        return torch.float32 if device.type == "cpu" else "auto"
    if dtype not in DTYPES:
        raise UserError(f"dtype '{dtype}' is not known; use auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


def _check_causal(name: str, config: PreTrainedConfig) -> None:
    architectures = getattr(config, "architectures", None) or []
    endings = ("ForCausalLM", "LMHeadModel")
    if architectures and not any(a.endswith(endings) for a in architectures):
        raise UserError(
            f"model '{name}' is a {architectures[0]}, not a causal language model; "
            "give a decoder-only chat model"
        )


def _check_complete(name: str, report: Mapping[str, Any]) -> None:
    """Refuse what transformers would fill with random numbers."""
    misfits = {key for key, *_shapes in report["mismatched_keys"]}
    faults = ((report["missing_keys"], "lacks"), (misfits, "has in another shape"))
    for names, fault in faults:
        if names:
            raise UserError(
                f"model '{name}' {fault} {len(names)} of the tensors that its config.json asks "
                f"for, the first is {min(names)}; copy or save the model again"
            )


def _check_not_offloaded(name: str, hf: PreTrainedModel) -> None:
    """Refuse a map that leaves blocks in main memory or on disk and fetches them at every pass."""
    offloaded = [key for key, tensor in hf.state_dict().items() if tensor.is_meta]
    if offloaded:
        raise UserError(
            f"model '{name}' does not fit on its devices: {len(offloaded)} tensors would be "
            f"fetched at every pass, the first is {offloaded[0]}; use dtype bfloat16, more or "
            "larger devices, or device cpu"
        )


def _loading_message(name: str, error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return (
            f"model '{name}' needs Python code that comes with it, which is not run; if you trust "
            "its authors: load_model(..., trust_remote_code=True)"
        )
    reason = f"{type(error).__name__}: {_one_line(error)}"
    if not os.path.exists(Path(name).expanduser()) and name not in BUNDLED_MODELS:
        return (
            f"model '{name}' was not found: it is neither a folder nor a readable hub model "
            f"({reason}); bundled models: {', '.join(BUNDLED_MODELS)}"
        )
    return f"model folder '{name}' cannot be loaded; mend or replace its files ({reason})"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _set_chat_template(
    name: str, tokenizer: PreTrainedTokenizerBase, chat_template: str | Path | None
) -> None:
    if chat_template is not None:
        tokenizer.chat_template = _template_text(chat_template)
    if not tokenizer.chat_template:
        raise UserError(
            f"model '{name}' has no chat template; pass one with --chat-template FILE "
            "(load_model(..., chat_template=...)), or use the chat version of the model"
        )
    probe = "Hello"
    if probe not in _render(name, tokenizer, probe):
        raise UserError(
            f"the chat template of '{name}' leaves out what the user says; pass another one with "
            "--chat-template FILE (load_model(..., chat_template=...))"
        )


def _template_text(chat_template: str | Path) -> str:
    text = str(chat_template)
    if isinstance(chat_template, str) and "{" in text:
        return text
    try:
        return Path(text).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(
            f"chat template {shown(text)} is neither a Jinja template nor a readable UTF-8 file "
            f"({type(error).__name__})"
        ) from error


def _render(
    name: str, tokenizer: PreTrainedTokenizerBase, prompt: str, system_prompt: str | None = None
) -> str:
    user = {"role": "user", "content": prompt}
    if system_prompt is not None:
        system = {"role": "system", "content": system_prompt}
        with suppress(Exception):  # a template is a program: it may fail in any way
            rendered = _templated(tokenizer, [system, user])
            if system_prompt.strip() in rendered:
                return rendered
        # A template that knows no system: what it says comes before what the user says.
        user["content"] = f"{system_prompt}\n\n{prompt}"
    try:
        return _templated(tokenizer, [user])
    except Exception as error:
        raise UserError(
            f"the chat template of '{name}' fails on {shown(prompt)} ({type(error).__name__}: "
            f"{_one_line(error)}); mend it or pass another one"
        ) from error


def _templated(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]]) -> str:
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


def _give_in_memory_tokenizer_a_name(tokenizer: PreTrainedTokenizerBase) -> None:
    """TransformerLens reads these keys, which only tokenizers that were loaded by name have."""
    tokenizer.init_kwargs.setdefault("name_or_path", "")
    tokenizer.init_kwargs.setdefault("add_bos_token", True)
