"""The commands ``layers``, which scores every layer, ``lens``, a page, and ``enough``.

Directions are fitted on the training prompts and scored on the validation prompts; nothing is
trained. Layers whose score lies within the interval of the best one tie, and the reason for the
recommended one is printed. ``actor-lens sweep`` trains the layers instead of predicting.

``layers --position`` reads another token than the last. ``layers --subspace`` asks whether one
direction is enough: for each pair of labels, how well the training prompts are told apart on the
first one, two, ... directions that their categories span.

``lens`` writes what the dashboard shows as one HTML file that stays linked without Python: click a
layer, and every panel follows. ``--run`` adds what a run changed, ``--sweep`` trains every layer.
With several runs it writes a gallery: a table of them to sort, with the panels of one or two side
by side. A run that has a linked page already need not be asked again: give the page.

``enough`` finds for each over-refused prompt of a split the least shift against R at the layer with
which it is answered, and fits a line: how much of the way to go, and from where to count.

Files in ``--out`` of ``layers`` (those of ``enough`` begin with that name):
    layers.csv: One row a layer, score and pair of labels, with 95 % intervals and the band under
        permuted labels.
    subspaces.csv: One row a layer, pair of labels and number of directions, with ``--subspace``.
    layers.html: Figures of projections, scores and subspaces, offline.
    summary.json: The record that ``--json`` prints.

Ctrl-C writes nothing; residuals that were collected stay in the activation store, so that the next
call is quicker.

Examples:
    actor-lens layers
    actor-lens layers --model smollm2-cautious --out look
    actor-lens layers --by auroc --alpha 0.5 --json
    actor-lens layers --position instruction --subspace 2,4,6
    actor-lens lens --out lens.html
    actor-lens lens --run run --sweep --out lens.html
    actor-lens lens --run runs/a runs/b earlier.html --out gallery.html
    actor-lens enough --layer 4 --split test --out enough
    actor-lens enough --gammas 0.05,0.1,0.2,0.4,0.6,0.8,1 --bisect --json
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from actor_lens.cli.arguments import (
    TARGET_SETTINGS,
    add_command,
    add_common,
    add_flags,
    add_settings,
    settings_of,
)
from actor_lens.cli.inputs import (
    load_model_and_prompts,
    load_run,
    model_settings,
    open_judge,
    open_progress,
    read_summary,
)
from actor_lens.cli.printing import (
    give_results,
    print_json,
    print_layers,
    print_table,
    say,
)
from actor_lens.cli.values import counting, numbers, word_or_integer
from actor_lens.cli.writing import prepare_out
from actor_lens.directions.options import PAPER_GAMMAS, SCORES
from actor_lens.errors import UserError, check_choice
from actor_lens.files.paths import user_path
from actor_lens.files.sizes import format_size
from actor_lens.results import versions
from actor_lens.text import percent
from actor_lens.training.config import FinetuneConfig

if TYPE_CHECKING:
    from actor_lens.activations.residuals import Residuals
    from actor_lens.directions.subspaces import RefusalSubspace, SubspacePair
    from actor_lens.prompts.sets import PromptSet
    from actor_lens.report.linked_page import GalleryRow, Lens
    from actor_lens.training.run import TrainingRun


def add_commands(commands: Any) -> None:
    """Register ``layers``."""
    parser = add_command(commands, "layers", layers, "score every layer and say which to train")
    add_common(parser)
    add_flags(parser, "--by", "--per-label")
    add_settings(parser, *TARGET_SETTINGS)
    text = "token to read: last, instruction (its end), refusal (its first), or -2, -3, ..; "
    text += "default: last"
    parser.add_argument(
        "--position", type=word_or_integer, default="last", metavar="NAME|-N", help=text
    )
    text = "layers at which to count the directions that tell labels apart; default: none"
    parser.add_argument("--subspace", type=counting, default=[], metavar="N,..", help=text)
    text = "one linked page: click a layer and every panel follows, offline and without Python"
    parser = add_command(commands, "lens", lens, text)
    add_common(parser, seed=None, page="lens.html")
    text = "a folder that train wrote; of several, linked pages and evaluations too, a gallery"
    parser.add_argument("--run", metavar="DIR", nargs="+", default=[], help=text)
    parser.add_argument("--sweep", action="store_true", help="train every layer, show the outcomes")
    add_flags(parser, "--per-label", "--judge", "--new-tokens")
    text = "the least shift with which each over-refused prompt is answered"
    parser = add_command(commands, "enough", enough, text)
    add_common(parser)
    add_flags(
        parser,
        "--layer",
        help="block to shift after; default: auto, chosen by the validation prompts",
    )
    add_flags(parser, "--by", "--per-label")
    add = parser.add_argument
    text = "split whose harmless prompts are asked; default: validation"
    add("--split", default="validation", metavar="NAME", help=text)
    shown = ",".join(f"{gamma:g}" for gamma in PAPER_GAMMAS)
    text = f"shares of R to try; default: {shown}, as in the paper"
    add("--gammas", type=numbers, default=PAPER_GAMMAS, metavar="X,..", help=text)
    add("--bisect", action="store_true", help="halve the range instead of trying one by one")
    add_flags(parser, "--judge", "--new-tokens")


def layers(arguments: argparse.Namespace) -> None:
    """Score every layer.

    Raises:
        UserError: If a setting is not allowed, the prompts lack a label, a split or, with
            ``--subspace``, categories, the model refuses none of them, or ``--out`` cannot be
            written.
    """
    out = prepare_out(arguments)
    with open_progress(arguments):
        from actor_lens.experiments.look import look_at_layers

        # Looking takes long: first what would fail after it.
        if arguments.by is not None:
            check_choice("score", arguments.by, SCORES)
        target = settings_of(arguments)
        FinetuneConfig(layer=0, **target)
        by_causal = arguments.by == "causal" or arguments.alpha != FinetuneConfig.alpha
        if by_causal and arguments.position not in ("last", -1):
            raise UserError(
                "--by causal and --alpha are of the causal score, which is of the last token: "
                f"leave them out, or --position {arguments.position}"
            )
        model, prompts, load_seconds = load_model_and_prompts(arguments)
        train = prompts.where(split="train").sample(arguments.per_label, arguments.seed)
        counted = [*dict.fromkeys(map(model.check_layer, arguments.subspace))]
        pairs = _pairs(train) if counted else ()
        look = look_at_layers(
            model, prompts, train=train, position=arguments.position, seed=arguments.seed, **target
        )
        subspaces = _subspaces(look.train_residuals, counted, pairs, arguments.seed)
    choice = look.scores.best(arguments.by)
    summary = look.summary()
    record = {
        **summary,
        "model_settings": model_settings(model),
        "layer": choice.layer,
        "layer_by": choice.by,
        "layer_reason": choice.reason,
        "layer_ties": list(choice.ties),
        **({"subspaces": [one.summary() for one in subspaces]} if subspaces else {}),
        "seconds": {"load": load_seconds, **summary["seconds"]},
        "seed": arguments.seed,
        "versions": versions(),
    }
    if out is not None:
        from actor_lens.report.layers_report import write_look

        write_look(look, choice, out / "layers.html", subspaces)
    tables = {"layers.csv": look.scores.frame}
    if subspaces:
        import pandas as pd

        tables["subspaces.csv"] = lambda: pd.concat([one.frame() for one in subspaces])

    def show() -> None:
        print_layers(look, choice)
        if subspaces:
            _print_subspaces(subspaces)

    give_results(arguments, out, record, tables, show, "layers.html")


def _pairs(train: PromptSet) -> tuple[SubspacePair, ...]:
    """Pairs of labels that the prompts have; whether they are of several kinds is seen now."""
    from actor_lens.directions.subspaces import SUBSPACE_PAIRS, kinds_of

    pairs = tuple(pair for pair, two in SUBSPACE_PAIRS.items() if set(two) <= set(train.labels))
    for pair in pairs:
        kinds_of(train, pair)
    return pairs


def _subspaces(
    residuals: Residuals, layers: list[int], pairs: tuple[SubspacePair, ...], seed: int
) -> list[RefusalSubspace]:
    from actor_lens.directions.subspaces import refusal_subspace
    from actor_lens.progress import stage

    tasks = [(layer, pair) for layer in layers for pair in pairs]
    found = []
    with stage("directions", len(tasks)) as done:
        for count, (layer, pair) in enumerate(tasks, start=1):
            found.append(refusal_subspace(residuals, layer, pair=pair, seed=seed))
            done(count)
    return found


def _print_subspaces(subspaces: list[RefusalSubspace]) -> None:
    """Print a row a layer and pair of labels, a column a number of directions."""
    most = max(len(one.steps) for one in subspaces)
    rows = []
    for one in subspaces:
        areas = [f"{step.auroc.value:.2f}{'*' if step.adds else ' '}" for step in one.steps]
        pair = "/".join(label[0] for label in one.pair.split("_vs_"))
        blanks = [""] * (most - len(areas))
        rows.append([f"layer {one.layer} {pair}", *areas, *blanks, f"{one.whole.value:.2f}"])
    columns = ["", *(str(number) for number in range(1, most + 1)), "whole"]
    print_table("AUROC on so many directions; * the last of them adds something", columns, rows)


def lens(arguments: argparse.Namespace) -> None:
    """Write the linked page, or the gallery of several runs.

    Raises:
        UserError: If a run is none, or a lone evaluation, the prompts lack a label or a split, the
            model refuses none of them, a run does not fit its model, or ``--out`` cannot be
            written.
    """
    opened: list[TrainingRun | list[GalleryRow] | None] = [*map(_open_source, arguments.run)]
    path = user_path(arguments.out)
    path = path / "lens.html" if path.is_dir() else path
    arguments.out, arguments.overwrite = path.parent, True
    prepare_out(arguments)
    from actor_lens.report.gallery import write_gallery

    lenses: list[GalleryRow] = []
    with open_progress(arguments):
        for source, one in zip(arguments.run or [None], opened or [None], strict=True):
            made = one if isinstance(one, list) else [_look_through(arguments, one)]
            lenses += [lens if lens.name else replace(lens, name=source) for lens in made]
    write_gallery(lenses, path)
    if arguments.json:
        told = [
            {
                "name": lens.name,
                "model": lens.model,
                "layer": (lens.run or vars(lens)).get("layer"),
            }
            for lens in lenses
        ]
        print_json({"page": str(path), "runs": told})
    else:
        print(f"Page: {path} ({format_size(path.stat().st_size)})")


def _open_source(source: str) -> TrainingRun | list[GalleryRow]:
    """A run, or what a linked page or an evaluation's folder holds.

    Raises:
        UserError: If it is none of them.
    """
    from actor_lens.report.gallery import read_lenses, row_of_rates

    path = user_path(source)
    if path.is_file():
        return read_lenses(path)
    if not (path / "run.json").exists():
        record = read_summary(source) or {}
        if {"before", "after", "layer"} <= record.keys():
            return [row_of_rates(record, source)]
    return load_run(source)


def _look_through(arguments: argparse.Namespace, run: TrainingRun | None) -> Lens:
    """All panels of a model, and of a run where there is one.

    Raises:
        UserError: If the prompts lack a label or a split, or the run does not fit the model.
    """
    from actor_lens.activations.residuals import collect_residuals
    from actor_lens.directions.projections import project
    from actor_lens.experiments.look import look_at_layers
    from actor_lens.experiments.run_evaluation import evaluate_run
    from actor_lens.experiments.sweep.layer_sweep import sweep_layers
    from actor_lens.widgets.exploration import Exploration, RunComparison

    arguments = argparse.Namespace(**vars(arguments))  # each run has a seed of its own
    judge = open_judge(arguments)
    model, prompts, _ = load_model_and_prompts(arguments, run)
    if run is not None:
        run.check_belongs_to(model)
    train = prompts.where(split="train").sample(arguments.per_label, arguments.seed)
    look = look_at_layers(model, prompts, train=train, seed=arguments.seed)
    state = Exploration(model, prompts, train, look, seed=arguments.seed)
    if arguments.sweep:
        sweep = sweep_layers(model, train, state.shown, tokens=look.tokens)
        state.outcomes, state.sweep = sweep.outcomes, sweep
        state.layer = sweep.best.layer
    if run is not None:
        state.add_run(run)
        state.layer = run.layer
        asked = evaluate_run(model, prompts, run, judge=judge, new_tokens=arguments.new_tokens)
        assert asked.after is not None
        state.comparisons = {0: RunComparison(asked.before, asked.after, None)}
        with run.applied_to(model):
            after = collect_residuals(model, state.shown, store=False)
        state.projections_after = {0: project(after, look.directions)}
    return state.lens()


def enough(arguments: argparse.Namespace) -> None:
    """Measure how much is enough for each over-refused prompt.

    Raises:
        UserError: If a setting is not allowed, the prompts lack a label or the split, the model
            refuses none of them, or ``--out`` cannot be written.
    """
    out = prepare_out(arguments)
    judge = open_judge(arguments)
    with open_progress(arguments):
        from actor_lens.activations.residuals import collect_residuals
        from actor_lens.directions.just_enough_shift import check_gammas, just_enough_shift
        from actor_lens.directions.refusal_directions import refusal_directions
        from actor_lens.experiments.look import look_at_layers

        check_gammas(arguments.gammas)  # now, not after a look at all layers
        model, prompts, load_seconds = load_model_and_prompts(arguments)
        train = prompts.where(split="train").sample(arguments.per_label, arguments.seed)
        asked = prompts.where(split=arguments.split)
        if not len(asked):
            raise UserError(f"{prompts.name} has no prompts in split '{arguments.split}'")
        layer = arguments.layer
        if layer is None:
            look = look_at_layers(model, prompts, train=train, seed=arguments.seed)
            layer, directions = look.scores.best(arguments.by).layer, look.directions
        else:
            layer = model.check_layer(layer)
            directions = refusal_directions(collect_residuals(model, train))
        started = time.perf_counter()
        shift = just_enough_shift(
            model,
            asked,
            directions,
            layer,
            gammas=arguments.gammas,
            bisect=arguments.bisect,
            judge=judge,
            new_tokens=arguments.new_tokens,
            seed=arguments.seed,
        )
    record = {
        "model": model.name,
        "prompts": prompts.name,
        "split": arguments.split,
        "train_prompts": train.counts(),
        **shift.summary(),
        "model_settings": model_settings(model),
        "seconds": {"load": load_seconds, "measure": round(time.perf_counter() - started, 3)},
        "versions": versions(),
    }
    if out is not None:
        from actor_lens.figures import config
        from actor_lens.report.pages import write_page

        write_page(shift.plot().to_html(config=config()), out / "enough.html")
    give_results(
        arguments, out, record, {"enough.csv": shift.frame}, partial(_print, record), "enough.html"
    )


def _print(record: dict[str, Any]) -> None:
    """Print how many prompts a shift was enough for, the line, and how to train with it."""
    missed = record["n_not_enough"]
    say(
        f"Layer {record['layer']}: {record['n_refused']} of {record['n_harmless']} harmless "
        f"{record['split']} prompts are refused"
        + (f"; for {missed} of them nothing tried was enough." if missed else ".")
    )
    r, origin = record["correlation"], record["origin"]
    if origin["value"] is None:
        say("Too few prompts, or too much alike, for a line.")
        return
    say(
        f"r {r['value']:.2f} ({r['low']:.2f} to {r['high']:.2f}) between projection and shift. "
        f"Line: alpha {record['alpha']:.2g}, origin {origin['value']:.3g} ({origin['low']:.3g} to "
        f"{origin['high']:.3g}), {percent(record['origin_place'])} of the way from the benign mean "
        f"({record['benign_mean']:.3g}) to the harmful mean ({record['harmful_mean']:.3g})."
    )
