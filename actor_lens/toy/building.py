"""Building the bundled model and its prompts anew: tokenizer, both stages, saving, measuring."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from actor_lens.files.paths import user_path
from actor_lens.files.saving import replacing_folder
from actor_lens.progress import stage
from actor_lens.prompts.rows import LABELS, Prompt, Split
from actor_lens.prompts.sets import PromptSet
from actor_lens.results import plain
from actor_lens.toy.language import ToyLanguage, build_language
from actor_lens.toy.tokenizer import train_tokenizer
from actor_lens.toy.training import STAGE_ONE, STAGE_TWO, Stage, new_model, train_stage
from actor_lens.toy.words import REFUSAL_OPENINGS

MODEL_FOLDER = "toy-chat"
PROMPT_FILE = Path("prompts", "toy.jsonl")
_MEASURED_SPLITS: tuple[Split, ...] = ("test", "ood")
_REPLY_TOKENS = 12
_TOKENIZER_TEXTS = 10_000


@dataclass(frozen=True)
class ToyRate:
    """How many prompts of one label and split the new model refuses."""

    label: str
    split: str
    refused: float
    n: int


@dataclass(frozen=True)
class ToyReport:
    """What a rebuild made and what it measured.

    Attributes:
        model: Folder of the model.
        prompts: The prompt file.
        rates: Refusal rates on the test and the out-of-distribution split.
        seed: Seed of language and weights.
        parameters: Number of parameters of the model.
        seconds: Wall time of the whole rebuild.
        cpu_seconds: Processor time of the whole rebuild, summed over threads.
    """

    model: Path
    prompts: Path
    seed: int
    rates: tuple[ToyRate, ...]
    parameters: int
    seconds: float
    cpu_seconds: float

    def summary(self) -> dict[str, Any]:
        """The record that `summary.json` holds."""
        record: dict[str, Any] = plain(self)
        return record

    def frame(self) -> pd.DataFrame:
        """One row per label and split: label, split, refused (share), n."""
        return pd.DataFrame(self.rates)


def train_toy(
    out: str | os.PathLike[str],
    seed: int = 0,
    *,
    stages: tuple[Stage, Stage] = (STAGE_ONE, STAGE_TWO),
) -> ToyReport:
    """Build the chat model and its prompt file from a seed.

    Writes `toy-chat/` and `prompts/toy.jsonl` into `out`; what is there under these names stays
    until both are finished. The same seed gives the same prompts, and on one machine with one
    number of threads the same weights.

    Args:
        out: Folder to write into; made if missing.
        seed: Seed of the splits, the exchanges and the first weights.
        stages: Lengths and learning rates; change them only to try things out.

    Raises:
        UserError: If the folder cannot be written.
    """
    started, cpu_started = time.perf_counter(), time.process_time()
    folder = user_path(out)
    with suppress(OSError):  # what stands in the way is found out in the next line
        folder.mkdir(parents=True, exist_ok=True)
    with replacing_folder(folder / MODEL_FOLDER) as temporary:
        language = build_language(seed)
        tokenizer, model = _train(language, seed, stages)
        save_model(model, tokenizer, temporary)
        model = LlamaForCausalLM.from_pretrained(temporary, dtype=torch.float32)
        rates = measure(model, tokenizer, language.prompts)
        (folder / PROMPT_FILE).parent.mkdir(exist_ok=True)
        language.prompts.save(folder / PROMPT_FILE)
    return ToyReport(
        model=folder / MODEL_FOLDER,
        prompts=folder / PROMPT_FILE,
        seed=seed,
        rates=rates,
        parameters=model.num_parameters(),
        seconds=time.perf_counter() - started,
        cpu_seconds=time.process_time() - cpu_started,
    )


def _train(
    language: ToyLanguage, seed: int, stages: tuple[Stage, Stage]
) -> tuple[PreTrainedTokenizerFast, LlamaForCausalLM]:
    first, second = stages
    exchanges = language.stage_one(first.exchanges)
    tokenizer = train_tokenizer(
        text
        for draw in (language.stage_one, language.stage_two)
        for exchange in draw(_TOKENIZER_TEXTS)
        for text in exchange
    )
    model = new_model(tokenizer, seed)
    train_stage(model, tokenizer, exchanges, first, seed=seed)
    exchanges = language.stage_two(second.exchanges)
    train_stage(model, tokenizer, exchanges, second, seed=seed)
    return tokenizer, model


def save_model(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save as an ordinary Hugging Face folder; weights in float16, to be loaded as float32."""
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    try:
        model.half().save_pretrained(folder)  # type: ignore[no-untyped-call]
    except SafetensorError as error:  # a full disk comes as this
        raise OSError(str(error)) from error
    tokenizer.save_pretrained(folder)
    # Half the size on disk; but float16 arithmetic is slow and coarse on a CPU, so the
    # configuration asks for float32, which `dtype="auto"` follows.
    _edit(folder / "config.json", dtype="float32")
    # How this process came by the tokenizer means nothing to whoever loads it.
    _edit(folder / "tokenizer_config.json", is_local=None, local_files_only=None)


def _edit(path: Path, **changes: str | None) -> None:
    values = {**json.loads(path.read_text()), **changes}
    kept = {key: value for key, value in values.items() if value is not None}
    path.write_text(json.dumps(kept, indent=2) + "\n")


def measure(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: PromptSet,
) -> tuple[ToyRate, ...]:
    """Share of greedy replies that begin as the language's refusals do, per label and split."""
    parts = [
        prompts.where(label=label, split=split) for split in _MEASURED_SPLITS for label in LABELS
    ]
    parts = [part for part in parts if len(part)]
    rates = []
    with stage("measuring", len(parts)) as done:
        for part in parts:
            replies = greedy_replies(model, tokenizer, part.prompts)
            refused = sum(reply.startswith(REFUSAL_OPENINGS) for reply in replies) / len(part)
            rates.append(ToyRate(part[0].label, str(part[0].split), refused, len(part)))
            done(len(rates))
    return tuple(rates)


@torch.no_grad()
def greedy_replies(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: tuple[Prompt, ...],
) -> list[str]:
    """Greedy replies of a few tokens, which begin a refusal or not, as one left-padded batch."""
    turns = [[{"role": "user", "content": prompt.prompt}] for prompt in prompts]
    texts = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    batch = tokenizer(
        texts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt"
    )
    ids: Tensor = model.generate(  # type: ignore[misc, assignment]
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        max_new_tokens=_REPLY_TOKENS,
        do_sample=False,
    )
    width = batch["input_ids"].shape[1]
    return list(tokenizer.batch_decode(ids[:, width:], skip_special_tokens=True))
