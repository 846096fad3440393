"""The README.md of an export: what was done, what it did, how to use it and how to undo it.

All names and texts that come from elsewhere (models, prompt files, results) are escaped: none of
them can add front matter, markup or code to the page.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from actor_lens.errors import UserError
from actor_lens.judges.base import safety_meaning
from actor_lens.models.chat_model import ChatModel
from actor_lens.text import clean, percent
from actor_lens.training.run import TrainingRun

CARD_FILE = "README.md"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
# What Markdown or HTML could read as markup.
_MARKUP = re.compile(r"([\\`*_{}\[\]()#+!|<>&~$-])")
_LIMITS = (
    "Refusals are counted by a judge on greedy replies; another judge, sampling or longer replies "
    "give other rates.",
    "The intervals are 95 % Wilson intervals: they are about the choice of prompts, not about the "
    "judge's errors.",
    "A model that refuses less can also refuse less where it should. Measure it on your own "
    "harmful prompts before you use it.",
    "Every use that the licence and the policy of the base model forbid stays forbidden.",
)


@dataclass(frozen=True)
class CardFacts:
    """What a card says beyond the run.

    Attributes:
        base_model: How others find the base model; None for the name it was loaded by.
        license: An SPDX name or one of the hub's; None where it is not known.
        results: A ``summary.json`` of ``train`` or ``evaluate``, for the rates; None for no rates.
        prompts_note: Licence or source of the training prompts, in words; "" for none.
    """

    base_model: str | None = None
    license: str | None = None
    results: Mapping[str, Any] | None = None
    prompts_note: str = ""


@dataclass(frozen=True)
class Form:
    """One way to export a run, as the card describes it.

    Attributes:
        library: The hub's name of the library that reads it.
        what: What the folder holds, as a sentence.
        lines: Lines of Python that load it.
        undo: How to get the untouched model back, as a sentence.
        tags: Further tags.
        notes: Further limits, each a sentence.
    """

    library: str
    what: str
    lines: Sequence[str]
    undo: str
    tags: Sequence[str] = ()
    notes: Sequence[str] = ()


def base_model_name(model: ChatModel, facts: CardFacts) -> str:
    """What code loads the base model by: a name on the hub, else the folder."""
    if facts.base_model:
        return facts.base_model
    return str((model.source or {}).get("name", model.name))


def base_in_code(base: str) -> str:
    """The arguments by which ``from_pretrained`` finds the base model, as Python."""
    if Path(base).suffix.lower() == ".gguf":
        return f"{str(Path(base).parent)!r}, gguf_file={Path(base).name!r}"
    return repr(base)


def is_hub_name(name: str) -> bool:
    """Whether a name looks like ``owner/model`` and is no folder of this machine."""
    return bool(_HUB_NAME.fullmatch(name)) and not os.path.exists(name)


def write_model_card(
    folder: Path, model: ChatModel, run: TrainingRun, form: Form, facts: CardFacts
) -> None:
    """Write ``README.md`` into the folder of an export of a run, made from the untouched model."""
    text = render_model_card(model, run, form, facts)
    (folder / CARD_FILE).write_bytes(text.encode("utf-8", "replace"))


def render_model_card(model: ChatModel, run: TrainingRun, form: Form, facts: CardFacts) -> str:
    """The text that ``write_model_card`` writes: front matter, then sections."""
    base = base_model_name(model, facts)
    name = escaped(base if is_hub_name(base) else Path(base).name)
    sections = [
        _heading(model, run, form, name),
        "\n".join(["## Use\n\n```python", *form.lines, "```"]),
        f"## Undo\n\n{form.undo}",
        _rates(facts.results or {}),
        _data(run, facts),
        _settings(run, model.system_prompt),
        _licence(facts, name),
        "## Limits\n\n" + "\n".join(f"- {limit}" for limit in (*form.notes, *_LIMITS)),
    ]
    return "\n\n".join([_front_matter(form, facts, base), *filter(None, sections)]) + "\n"


def escaped(value: object) -> str:
    """A text in one line, none of which Markdown or HTML takes for markup."""
    return _MARKUP.sub(r"\\\1", " ".join(clean(value).split())).replace("\\<", "&lt;")


def _front_matter(form: Form, facts: CardFacts, base: str) -> str:
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        base_model=base if is_hub_name(base) else None,
        library_name=form.library,
        license=facts.license,
        pipeline_tag="text-generation",
        tags=["actor-lens", "over-refusal", *form.tags],
        ignore_metadata_errors=True,
    )
    return f"---\n{data.to_yaml().strip()}\n---"


def _heading(model: ChatModel, run: TrainingRun, form: Form, name: str) -> str:
    return (
        f"# {name}, layer {run.layer} trained against over-refusal\n\n"
        f"{form.what} Of its {model.n_layers} decoder blocks only block {run.layer} (counted from "
        f"0) was trained, {run.trained_parameters:,} of {model.hf.num_parameters():,} parameters, "
        "with activations as targets and without a single reply to learn from "
        "([ACTOR, Dabas et al. 2025](https://arxiv.org/abs/2507.04250); made with Actor Lens)."
    )


def _rates(results: Mapping[str, Any]) -> str:
    """Refused prompts before and after with intervals; no section where nothing was measured.

    Raises:
        UserError: If the results are not those of ``train`` or ``evaluate``.
    """
    try:
        rows = list(_rate_rows(results))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            "the results for the model card are no summary of train or evaluate "
            f"({type(error).__name__}: {error}); write summary.json again, or remove it "
            "from the run's folder"
        ) from error
    if not rows:
        return ""
    means = safety_meaning(str(results.get("judge")))
    other = "" if means == "refused" else f" (of harmful prompts: of replies that are {means})"
    judged = (
        f"Share of prompts refused{other}, 95 % interval in brackets. "
        f"Judge {escaped(results['judge'])}, "
        f"greedy replies of at most {escaped(results['new_tokens'])} tokens.\n\n"
        if {"judge", "new_tokens"} <= results.keys()
        else ""
    )
    head = "| prompts | n | before | after |\n|---|---|---|---|"
    return "\n".join([f"## Results\n\n{judged}{head}", *rows])


def _rate_rows(results: Mapping[str, Any]) -> Iterator[str]:
    ood = results.get("ood") or {}
    parts = (
        ("test", results.get("before"), results.get("after")),
        ("out of distribution", ood.get("before"), ood.get("after")),
    )
    for split, before, after in parts:
        for label, rate in (before or {}).items():
            later = (after or {}).get(label)
            yield (
                f"| {escaped(str(label).replace('_', ' '))}, {split} | {int(rate['n'])} "
                f"| {_rate(rate)} | {_rate(later) if later else 'not measured'} |"
            )


def _rate(rate: Mapping[str, Any]) -> str:
    if rate["refused"] is None or math.isnan(rate["refused"]):
        return "not measured"
    return f"{percent(rate['refused'])} ({percent(rate['low'])} to {percent(rate['high'])})"


def _data(run: TrainingRun, facts: CardFacts) -> str:
    counts = ", ".join(
        f"{count} {escaped(label.replace('_', ' '))}" for label, count in run.train_prompts.items()
    )
    if run.anchors is not None:
        counts += f"; direction of other prompts, {escaped(run.anchors.name)}"
    note = f" {escaped(facts.prompts_note)}" if facts.prompts_note else ""
    return (
        f"## Data\n\nTraining prompts: {escaped(run.prompts_name or 'not named')} ({counts}); "
        f"fingerprint {escaped(run.prompts_fingerprint[:12])}.{note}"
    )


def _settings(run: TrainingRun, system_prompt: str | None) -> str:
    rows: dict[str, object] = asdict(run.config)
    rows["weights of step"] = run.best_step
    rows["training ended"] = run.status
    rows["fingerprint of the base weights"] = run.fingerprint[:12]
    if system_prompt:
        rows["system prompt"] = system_prompt
    if run.chosen and run.chosen.get("reason"):
        rows["why this layer"] = run.chosen["reason"]
    lines = [f"| {escaped(name)} | {escaped(value)} |" for name, value in rows.items()]
    return "\n".join(["## Settings\n\n| setting | value |\n|---|---|", *lines])


def _licence(facts: CardFacts, name: str) -> str:
    licence = f"Given as {escaped(facts.license)}." if facts.license else "Not stated here."
    return (
        f"## Licence\n\n{licence} These weights are derived from {name}, whose licence applies to "
        "them, and the terms of the training prompts may limit their use too."
    )
