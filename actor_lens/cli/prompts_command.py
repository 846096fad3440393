"""The commands ``prompts list``, ``prompts show`` and ``prompts check``.

``list`` names the bundled sets and every public one that ``--prompts`` takes, with its licence.
``show`` says why the prompts of a set have their labels, and prints the first rows; ``show paper``
lists the parts of the mixture of the paper. ``check`` counts prompts and tokens, looks for
near-duplicates across splits, which make a test too easy, warns of labels from one source, and says
how well the form of prompts alone (length, last mark, first word, characters) tells their labels
apart.

Nothing is written but the cache of the hub. A set that cannot be fetched, behind a licence click or
offline, ends with exit code 2 and says where to click and how to name a file instead.

Examples:
    actor-lens prompts list
    actor-lens prompts show xstest --rows 5
    actor-lens prompts show paper
    actor-lens prompts check mine.jsonl --model toy
    actor-lens prompts check mine.jsonl --balance form
    actor-lens prompts check advbench,hex-phi,harmbench --split-by source
    actor-lens prompts check xstest:100,advbench:100 --json
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from actor_lens.cli.arguments import add_command, add_count, add_flags, add_group, add_seed
from actor_lens.cli.inputs import arrange, say_sources
from actor_lens.cli.printing import label_text, print_json, print_table, say, warn
from actor_lens.errors import UserError
from actor_lens.text import clip, one_line

if TYPE_CHECKING:
    from actor_lens.prompts.checks import PromptCheck
    from actor_lens.prompts.mixtures import Part
    from actor_lens.prompts.public.catalogue import BenchmarkSet
    from actor_lens.prompts.sets import PromptSet
    from actor_lens.statistics.form_control import FormControl


def add_commands(commands: Any) -> None:
    """Register ``prompts`` and what is below it."""
    text = "public prompt sets, and a look at prompts before they are used"
    inner = add_group(commands, "prompts", text)
    list_parser = add_command(
        inner, "list", list_sets, "bundled and public prompt sets: labels, rows, licence"
    )
    show_parser = add_command(inner, "show", show, "a set: licence, labels and why, first rows")
    show_parser.add_argument("name", metavar="NAME", help="paper, or a set as --prompts takes it")
    add_count(show_parser, "--rows", 5, "rows to show, 0 for none")
    check_parser = add_command(
        inner,
        "check",
        check,
        "counts, token lengths, near-duplicates across splits, form of labels",
    )
    check_parser.add_argument("source", metavar="SOURCE", help="anything that --prompts takes")
    check_parser.add_argument(
        "--model",
        metavar="NAME|DIR",
        default="toy",
        help="tokenizer that counts tokens; default: toy",
    )
    add_flags(check_parser, "--split-by", "--balance")
    for each in (show_parser, check_parser):
        add_seed(each)
    for each in (list_parser, show_parser, check_parser):
        add_flags(each, "--json")


# ---- list ----


def list_sets(arguments: argparse.Namespace) -> None:
    """Print one row a set, those that need no network first."""
    from actor_lens.prompts.files import read_bundled
    from actor_lens.prompts.mixtures import BUNDLED
    from actor_lens.prompts.public.catalogue import catalogue
    from actor_lens.prompts.rows import LABELS

    bundled = {name: read_bundled(name).counts() for name in BUNDLED}
    if arguments.json:
        print_json({"bundled": bundled, "sets": [each.summary() for each in catalogue()]})
        return
    print_table(
        "Bundled prompts",
        ("name", *map(label_text, LABELS)),
        ([name, *(f"{counts[label]:,}" for label in LABELS)] for name, counts in bundled.items()),
    )
    print_table(
        "Public prompt sets",
        ("name", "labels", "licence", "gated", "rows"),
        (
            [
                each.name,
                _labels(each),
                each.licence,
                "yes" if each.gated else "",
                "" if each.rows is None else f"{each.rows:,}",
            ]
            for each in catalogue()
        ),
        texts=4,
    )
    say(
        "Use: --prompts NAME, NAME=FILE, NAME:N or NAME/CATEGORY, several with commas. 'paper' is "
        "the mixture of the paper: actor-lens prompts show paper"
    )


def _labels(entry: BenchmarkSet) -> str:
    return ", ".join(map(label_text, entry.labels))


# ---- show ----


def show(arguments: argparse.Namespace) -> None:
    """Print a set and its first rows, or the parts of the paper's mixture.

    What is known about the set comes first, so that it is there for a set that cannot be fetched.

    Raises:
        UserError: If the set is unknown or cannot be fetched, or it is not one set.
    """
    from actor_lens.prompts.public.catalogue import known_benchmark
    from actor_lens.prompts.public.loading import benchmark

    if arguments.name == "paper":
        _show_paper(arguments)
        return
    part = _one_set(arguments.name)
    entry = known_benchmark(part.name)
    if not arguments.json:
        _print_set(entry)
    prompts = None
    if arguments.rows > 0:
        prompts = benchmark(
            part.name,
            path=part.path,
            limit=part.limit,
            include=part.include,
            categories=part.categories,
            split=None,
            seed=arguments.seed,
        )
    if arguments.json:
        record = entry.summary()
        if prompts is not None:
            first = [
                {name: getattr(one, name) for name in ("prompt", "label", "category", "source")}
                for one in prompts[: arguments.rows]
            ]
            record |= {"loaded": prompts.name, "counts": prompts.counts(), "first": first}
        print_json(record)
    elif prompts is not None:
        _print_rows(prompts, arguments.rows)


def _one_set(source: str) -> Part:
    """The only part of what ``--prompts`` takes.

    Raises:
        UserError: If there are several, or it is no public set.
    """
    from actor_lens.prompts.mixtures import parse_mixture
    from actor_lens.prompts.public.catalogue import find_benchmark

    part, *more = parse_mixture(source)
    if more or find_benchmark(part.name) is None:
        raise UserError(
            f"'{source}' is not one public prompt set; for other prompts use: actor-lens prompts "
            "check SOURCE"
        )
    return part


def _print_set(entry: BenchmarkSet) -> None:
    """Print what the catalogue knows of a set, one line a fact; unknown facts are left out."""
    lines = {
        entry.title: "",
        "labels": f"{_labels(entry)}: {entry.why}",
        "licence": entry.licence + (", licence click needed" if entry.gated else ""),
        "citation": entry.citation,
        "page": entry.page,
        "rows": "differs between versions" if entry.rows is None else f"{entry.rows:,}",
        "drawn": "all" if entry.usual is None else f"{entry.usual:,} a label unless NAME:N",
        "notes": entry.notes,
    }
    for key, text in lines.items():
        if text or key == entry.title:
            print(f"{key}: {text}" if text else key)


def _print_rows(prompts: PromptSet, count: int) -> None:
    """Print the numbers of prompts by label, and the first rows."""
    counts = ", ".join(f"{number} {label}" for label, number in prompts.counts().items() if number)
    sources = ", ".join(sorted({one.source for one in prompts if one.source}))
    print(f"\n{prompts.name}: {len(prompts)} prompts ({counts}), source {sources}")
    for prompt in prompts[:count]:
        category = f", {prompt.category}" if prompt.category else ""
        print(f"  [{prompt.label}{category}] {_plain(prompt.prompt)}")


def _plain(text: str) -> str:
    """A prompt on one line of at most 200 characters, without what a terminal would obey."""
    return clip(one_line(text, 1000), 200)


def _show_paper(arguments: argparse.Namespace) -> None:
    """Print the parts of the mixture: labels, use, number of prompts and licence of each."""
    from actor_lens.prompts.mixtures import PAPER
    from actor_lens.prompts.public.catalogue import known_benchmark

    parts = [(part, known_benchmark(part.name)) for part in PAPER]
    if arguments.json:
        records = [
            entry.summary()
            | {name: getattr(part, name) for name in ("limit", "split", "counts", "label")}
            for part, entry in parts
        ]
        print_json({"name": "paper", "parts": records})
        return
    print("The mixture of the paper (arXiv 2507.04250); validation prompts are our choice:")
    for part, entry in parts:
        label = part.label or " and ".join(entry.labels)
        use = ", ".join(f"{split} {count}" for split, count in part.counts.items())
        gated = f"; licence click needed at {entry.page}" if entry.gated else ""
        print(f"  {part.name}: {label} -> {use or part.split}; {entry.licence}{gated}")
    print("Any part from a file: --prompts paper,hex-phi=FOLDER,xstest=FILE")


# ---- check ----


def check(arguments: argparse.Namespace) -> None:
    """Look at prompts; near-duplicates across splits and labels that form explains are warned of.

    Raises:
        UserError: If prompts or tokenizer cannot be loaded.
    """
    from actor_lens.prompts.checks import check_prompts, token_counter
    from actor_lens.prompts.loading import load_prompts
    from actor_lens.statistics.form_control import form_control

    prompts = arrange(load_prompts(arguments.source, seed=arguments.seed), arguments)
    result = check_prompts(prompts, count_tokens=token_counter(arguments.model))
    # What is fitted and chosen rests on these; a set without splits is taken whole.
    rows = [row for row, one in enumerate(prompts) if one.split in ("train", "validation")]
    form = form_control(prompts.select(rows) if rows else prompts, seed=arguments.seed)
    if not arguments.json:
        _print_check(result, arguments.model)
        _print_form(form)
        return
    print_json(
        {
            "prompts": result.prompts.name,
            "n": len(result.prompts),
            "counts": result.frame().to_dict("records"),
            "overlaps": result.overlaps.frame().to_dict("records"),
            "overlap_seconds": round(result.seconds, 3),
            "form": form.frame().to_dict("records"),
            "warnings": [*result.warnings, *form.warnings],
        }
    )


def _print_check(result: PromptCheck, model: str) -> None:
    """Print one row a label, split and category, then warnings and the most similar pairs.

    Args:
        result: Counts of prompts and tokens, and near-duplicates.
        model: Name of the model whose tokenizer counted tokens.
    """
    print_table(
        f"{result.prompts.name}: {len(result.prompts)} prompts, median and most tokens ({model})",
        ("label", "split", "category", "prompts", "median", "most"),
        (
            [
                label_text(row["label"]),
                row["split"] or "",
                _plain(row["category"] or ""),
                str(row["prompts"]),
                f"{row['median_tokens']:.0f}",
                f"{row['most_tokens']:.0f}",
            ]
            for row in result.frame().to_dict("records")
        ),
        texts=3,
    )
    say_sources(result.prompts)
    for warning in result.warnings:
        warn(warning)
    for row in result.overlaps.frame().head(10).to_dict("records"):
        pair = f"{_plain(row['prompt_a'])} | {_plain(row['prompt_b'])}"
        say(f"  {row['similarity']:.2f} {row['split_a']}/{row['split_b']}: {pair}")
    say(
        f"{len(result.overlaps)} near-duplicate pairs across splits, searched in "
        f"{result.seconds:.1f} s. Paraphrases in other words are not found."
    )


def _print_form(form: FormControl) -> None:
    """Print how well each part of the form tells labels apart, and warnings.

    Args:
        form: Accuracies, of which chance gives 0.5.
    """
    frame = form.frame()
    if frame.empty:
        return
    wide = frame.pivot_table(index="pair", columns="part", values="accuracy", sort=False)
    print_table(
        "Labels told apart by form alone, training and validation prompts (balanced accuracy)",
        ("labels", *wide.columns),
        (
            [label_text(str(pair).replace("_vs_", " / ")), *(f"{one:.2f}" for one in row)]
            for pair, row in wide.iterrows()
        ),
        texts=1,
    )
    for warning in form.warnings:
        warn(warning)
