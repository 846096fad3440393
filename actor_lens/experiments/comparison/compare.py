"""The comparison of methods: every one answers the same prompts under the same judge.

Each is fitted on the training prompts, may choose settings on the validation prompts, and is asked
the test prompts and those out of distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from actor_lens.errors import UserError
from actor_lens.evaluation.perplexity import read_text
from actor_lens.experiments.comparison.leaderboard import Leaderboard
from actor_lens.experiments.comparison.trial import (
    ComparisonWork,
    KeptOutcome,
    MethodOutcome,
    failure,
    has_seed,
    judge_for,
    provenance,
    same_settings,
    settings_of,
)
from actor_lens.experiments.ledger import Ledger, other_work
from actor_lens.experiments.older_files import comparison_outcomes
from actor_lens.files.paths import user_path
from actor_lens.judges.base import Judge
from actor_lens.methods import METHODS, Method, check_method, make_method
from actor_lens.models.chat_model import ChatModel
from actor_lens.progress import stage
from actor_lens.prompts.sets import PromptSet, check_anchors
from actor_lens.results import plain

REFERENCE = "actor"
OUTCOMES_FILE = "outcomes.jsonl"


def compare(
    model: ChatModel,
    prompts: PromptSet,
    methods: str | Sequence[str | Method] = "all",
    *,
    seeds: Sequence[int] = (0,),
    judge: Judge | str | None = None,
    per_label: int | Mapping[str, int] | None = None,
    test_per_label: int | Mapping[str, int] | None = None,
    new_tokens: int = 64,
    text: str | Path | None = None,
    anchors: PromptSet | None = None,
    search_seconds: Mapping[str, float] | None = None,
    reference: str = REFERENCE,
    out: str | Path | None = None,
    on_outcome: Callable[[MethodOutcome], None] | None = None,
) -> Leaderboard:
    """Fit every method, let each answer the test prompts, and put them side by side.

    A method that fails has an outcome that says why, and the others go on. Ctrl-C ends the
    comparison with the methods that are done (``complete`` is then False).

    Args:
        model: The untouched model; it is as before afterwards, bit for bit.
        prompts: Prompts with train, validation and test splits; ``ood`` prompts are asked too.
        methods: Names of ``METHODS`` or methods of your own; ``"all"`` for every name.
        seeds: Each method that has a setting ``seed`` is fitted once with each; the others, which
            give the same every time, once.
        judge: Judge of the replies; the keyword judge unless given. Methods with a setting
            ``judge`` that is None, those that train on replies among them, are given it too.
        per_label: Most training prompts of each label, drawn with the first seed; None for all.
        test_per_label: Most prompts of each label and split to ask; None for all.
        new_tokens: Longest reply, in tokens.
        text: A text, or the file that holds it, whose perplexity is measured; None for none.
        anchors: Prompts that the vectors of ACTOR, Surgical and SCANS are made of; None for the
            training prompts. Of a label that is not among them, training prompts are taken.
        search_seconds: Seconds that it took to find the settings of a method before the
            comparison, by its name. They are reported beside the seconds of its fit.
        reference: The method that the others are tested against; where it is not among them, the
            first.
        out: Folder that keeps every finished method and seed; one that holds some goes on.
        on_outcome: Function called with every outcome.

    Raises:
        UserError: If a method is not known or two have one name, a split is empty, anchors lack a
            label or are test prompts, ``out`` holds outcomes of another comparison, or a method
            left the model changed.
        KeyboardInterrupt: If interrupted before any method was done.
    """
    chosen = _chosen(methods)
    if not seeds:
        raise UserError("no seeds were given; give at least one")
    train, validation, tested = prompts.for_experiment(per_label, test_per_label, seed=seeds[0])
    check_anchors(anchors, tested)
    work = ComparisonWork(
        model=model,
        train=train,
        validation=validation,
        tested=tested,
        judge=judge_for(model, judge, validation),
        new_tokens=new_tokens,
        text=None if text is None else read_text(text)[0],
        anchors=anchors,
    )
    work.prepare()
    path = None if out is None else user_path(out) / OUTCOMES_FILE
    ledger = Ledger(
        path,
        work.about(),
        KeptOutcome,
        lambda kept: (kept.outcome.method, kept.outcome.seed),
        work="comparison",
        older=lambda: () if path is None else comparison_outcomes(path.parent),
    )
    outcomes: list[MethodOutcome] = []
    complete = True
    try:
        with stage("methods", len(chosen)) as done:
            for number, method in enumerate(chosen):
                for outcome in _outcomes(work, method, seeds, ledger):
                    outcomes.append(outcome)
                    if on_outcome is not None:
                        on_outcome(outcome)
                done(number + 1)
    except KeyboardInterrupt:
        if not outcomes:
            raise
        complete = False
    names = [outcome.method for outcome in outcomes]
    return Leaderboard(
        outcomes=tuple(outcomes),
        prompts=work.tested,
        reference=reference if reference in names else names[0],
        about={
            **provenance(model, work.judge, new_tokens, seeds),
            "prompts": tested.name,
            **({} if anchors is None else {"anchors": anchors.name}),
            **work.form_control(),
            "search_seconds": dict(search_seconds or {}),
            "train_prompts": train.counts(),
            "validation_prompts": validation.counts(),
            "fingerprints": {
                "model": model.fingerprint,
                "train_prompts": train.fingerprint,
                "test_prompts": tested.fingerprint,
            },
        },
        complete=complete,
    )


def _chosen(methods: str | Sequence[str | Method]) -> list[str | Method]:
    """Names and methods, once it is sure that all are known."""
    if isinstance(methods, str):
        methods = list(METHODS) if methods == "all" else [methods]
    chosen = list(methods)
    names = [one if isinstance(one, str) else one.name for one in chosen]
    for one in chosen:
        if isinstance(one, str):
            check_method(one)
    if not chosen:
        raise UserError("no methods to compare; give at least one")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"two methods are named '{twice[0]}'; give each a name of its own")
    return chosen


def _outcomes(
    work: ComparisonWork, chosen: str | Method, seeds: Sequence[int], ledger: Ledger[KeptOutcome]
) -> list[MethodOutcome]:
    """Outcomes of one method, from the ledger or run now; failures are not kept."""
    if isinstance(chosen, str):
        try:
            method = make_method(chosen)
        except Exception as error:  # for instance a library that is not installed
            return [failure(chosen, seeds[0], error)]
    else:
        method = chosen
    outcomes = []
    settings = plain(settings_of(method))
    for seed in seeds if has_seed(method) else seeds[:1]:
        entry = ledger.entries.get((method.name, seed))
        if entry is None:
            entry = KeptOutcome(settings, work.run(method, seed))
            if entry.outcome.status == "completed":
                ledger.add(entry)
        elif not same_settings(entry.method_settings, method):
            raise UserError(other_work(ledger.path, "comparison", ["method_settings"]))
        outcomes.append(entry.outcome)
    return outcomes
