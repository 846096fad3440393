"""The command ``export``: a run as one block, a whole model, or a LoRA adapter.

Files in ``--out``, which is needed here:
    With ``--as delta``: the weights of the one block, exact, with the three lines that load them.
    With ``--as model``: a whole Hugging Face folder, for any library that reads one.
    With ``--as lora``: a PEFT adapter, cut off at a rank; a table on the screen says what each rank
        leaves out, in the weights and in the logits of some test prompts.
    README.md: The model card, with the rates of ``summary.json`` in the folder of the run.

The folder is put together beside its place and moved there when it is whole: Ctrl-C leaves none,
or the old one. What can be wrong with an upload is found before the model is loaded.

Examples:
    actor-lens export --run run --as delta --out repaired
    actor-lens export --run run --as model --out whole --license mit
    actor-lens export --run run --as lora --rank auto --error 0.02 --out adapter
    actor-lens export --run run --as delta --out mine --push-to-hub me/mine
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from actor_lens.cli.arguments import add_command, add_common, add_flags
from actor_lens.cli.inputs import load_model_and_prompts, load_run, open_progress, read_summary
from actor_lens.cli.printing import print_json, print_table, print_written, say
from actor_lens.cli.values import integer, number
from actor_lens.errors import UserError
from actor_lens.files.paths import user_path
from actor_lens.text import percent

if TYPE_CHECKING:
    from actor_lens.export.folders import Kind
    from actor_lens.export.hub_upload import HubApi
    from actor_lens.export.lora import LoraExport
    from actor_lens.training.run import TrainingRun

FORMS = ("delta", "model", "lora")
# Prompts by which the error in the logits is measured: enough for two digits.
MEASURED_PROMPTS = 48


def add_commands(commands: Any) -> None:
    """Register ``export``."""
    text = "a run as one block, a whole model or a LoRA adapter, with a model card"
    parser = add_command(commands, "export", export, text)
    add_common(parser, seed=None, out_text="needed")
    add = parser.add_argument
    add_flags(parser, "--run", required=True)
    add(
        "--as",
        dest="form",
        choices=FORMS,
        required=True,
        help="delta: the one block, exact; model: a whole Hugging Face folder; lora: a PEFT "
        "adapter, cut off at a rank",
    )
    add(
        "--rank",
        type=rank,
        default=8,
        metavar="N|auto",
        help="rank of a LoRA adapter; auto: the smallest within --error; default: 8",
    )
    add(
        "--error",
        type=number,
        default=0.05,
        metavar="X",
        help="relative error of the weights that --rank auto allows; default: 0.05",
    )
    add("--base-model", metavar="NAME", help="what the card calls the base model")
    add("--license", metavar="NAME", help="for the card, such as mit; default: not stated")
    add("--prompts-note", metavar="TEXT", default="", help="for the card: whose prompts these are")
    add("--push-to-hub", metavar="OWNER/NAME", help="upload it, with the token in $HF_TOKEN")
    add("--public", action="store_true", help="a new repository is public; default: private")


def rank(text: str) -> int | str:
    """A whole number, or ``auto``."""
    return text if text == "auto" else integer(text, ", or auto")


def export(arguments: argparse.Namespace) -> None:
    """Export a run, and upload it where that was asked for.

    Raises:
        UserError: If ``--out`` is missing or holds something else, the run does not fit the model,
            a rank or error is not allowed, or the hub refuses the upload.
    """
    if arguments.out is None:
        raise UserError("--out is missing; give the folder to write to")
    with open_progress(arguments):
        record, lora = _export(arguments, load_run(arguments.run))
    if arguments.json:
        print_json(record)
        return
    if lora is not None:
        _print_lora(lora)
    if "load_with" in record:
        print("\nIn that folder:\n\n" + "\n".join(record["load_with"]) + "\n")
    print_written(user_path(arguments.out), "README.md")
    if "uploaded" in record:
        print(f"Uploaded to {record['uploaded']}")


def _export(
    arguments: argparse.Namespace, run: TrainingRun
) -> tuple[dict[str, Any], LoraExport | None]:
    """Check, load, write and upload.

    Returns:
        What ``--json`` prints, and the errors of an adapter by rank.
    """
    from actor_lens.export.folders import delta_lines, export_delta, export_model
    from actor_lens.export.hub_upload import upload_export
    from actor_lens.export.lora import export_lora
    from actor_lens.export.model_card import CardFacts

    facts = CardFacts(
        base_model=arguments.base_model,
        license=arguments.license,
        results=read_summary(arguments.run),
        prompts_note=arguments.prompts_note,
    )
    api = _check_export(arguments, run)
    if arguments.form != "lora":
        # Which prompts does not matter; those of the run may be on another machine.
        arguments.prompts = arguments.prompts or "toy"
    model, prompts, _ = load_model_and_prompts(arguments, run)
    out = user_path(arguments.out)
    settings: dict[str, Any] = {"overwrite": arguments.overwrite, "facts": facts}
    record: dict[str, Any] = {"form": arguments.form, "folder": str(out), "layer": run.layer}
    lora = None
    if arguments.form == "lora":
        lora = export_lora(
            model,
            run,
            out,
            rank=arguments.rank,
            error=arguments.error,
            prompts=prompts.where(split="test")[:MEASURED_PROMPTS],
            **settings,
        )
        record |= lora.summary()
    elif arguments.form == "delta":
        export_delta(model, run, out, **settings)
        record["load_with"] = delta_lines(model, facts)
    else:
        export_model(model, run, out, **settings)
    if api is not None:
        record["uploaded"] = upload_export(
            out, arguments.push_to_hub, private=not arguments.public, api=api
        )
    return record, lora


def _check_export(arguments: argparse.Namespace, run: TrainingRun) -> HubApi | None:
    """Find what is wrong before a model is loaded.

    Returns:
        The hub's client if the export is to be uploaded.

    Raises:
        UserError: If one of the arguments cannot be used.
    """
    from actor_lens.export.folders import check_folder
    from actor_lens.export.hub_upload import check_upload, hub_api
    from actor_lens.export.lora import check_lora

    if arguments.public and not arguments.push_to_hub:
        raise UserError("--public is about an upload; add --push-to-hub OWNER/NAME")
    if arguments.form == "lora":
        check_lora(arguments.rank, arguments.error)
    kind: Kind = "adapter" if arguments.form == "lora" else arguments.form
    check_folder(user_path(arguments.out), kind, overwrite=arguments.overwrite)
    if not arguments.push_to_hub:
        return None
    base_model = arguments.base_model or arguments.model or run.model_name
    check_upload(arguments.push_to_hub, base_model)
    return hub_api()


def _print_lora(lora: LoraExport) -> None:
    """Print one row a rank: the error of all modules, of the worst one, and of the logits."""
    print_table(
        "What is left out of the change at each rank",
        ("rank", "weights", "worst module", "logits"),
        (_rank_cells(lora, rank) for rank in sorted({each.rank for each in lora.errors})),
        texts=0,
    )
    say(
        "* the adapter. Weights: Frobenius norm. Logits: of the first reply token, as a share of "
        f"how far the run moved them. Full rank: {lora.full_rank}."
    )
    if lora.held_whole:
        say(
            f"Kept whole, as no low rank holds them: {', '.join(lora.held_whole)}; without them "
            f"the logits would be off by {percent(lora.without_held, 2)}."
        )


def _rank_cells(lora: LoraExport, rank: int) -> list[str]:
    """A row of that table: the errors at one rank in percent, the chosen rank marked."""
    from actor_lens.export.lora import ALL_MODULES

    errors = {each.module: each for each in lora.errors if each.rank == rank}
    together = errors.pop(ALL_MODULES)
    worst = max(errors.values(), key=lambda each: each.relative_error)
    return [
        f"{rank} *" if rank == lora.rank else str(rank),
        percent(together.relative_error, 2),
        f"{percent(worst.relative_error, 2)} {worst.module.rpartition('.')[2]}",
        percent(together.logit_error, 2),
    ]
