"""The commands ``class check`` and ``class kernels``, for teachers.

``check`` says who solved which exercise, from handed-in notebooks. The folder may hold a folder a
learner. Notebooks are read as they were saved and never run, so a learner runs the cells, saves,
and hands in. A solution that was folded out and run counts as an answer: the command shows where a
class stands, it is no examination.

Examples:
    actor-lens class check handed-in
    actor-lens class check handed-in --json
    actor-lens class kernels
"""

from __future__ import annotations

import argparse
from typing import Any

from actor_lens.cli.arguments import add_command, add_flags, add_group
from actor_lens.cli.class_kernels import kernels
from actor_lens.cli.printing import print_json, print_table, say, warn
from actor_lens.text import clip, one_line


def add_commands(commands: Any) -> None:
    """Register ``class`` and what is below it."""
    inner = add_group(
        commands, "class", "for teachers: who solved what, and kernels that share memory"
    )
    parser = add_command(inner, "check", check, "who solved which exercise, in handed-in notebooks")
    parser.add_argument("folder", metavar="FOLDER", help="handed-in notebooks, saved with outputs")
    add_flags(parser, "--json")
    text = "fork the kernels of a class from one process, so that each takes less memory (Linux)"
    add_command(inner, "kernels", kernels, text)


def check(arguments: argparse.Namespace) -> None:
    """Show one row a notebook, then one row an exercise.

    Raises:
        UserError: If there is no such folder, or no notebook in it.
    """
    from actor_lens.toy.class_check import check_class

    checked = check_class(arguments.folder)
    if arguments.json:
        print_json(checked.summary())
        return
    rows = [
        (one_line(row.file), one_line(row.left), f"{row.right} of {row.exercises}")
        for row in checked.table().itertuples()
    ]
    print_table("Notebooks", ["notebook", "left to do", "right"], rows, texts=2)
    exercises = checked.by_exercise()
    cells = [tuple(map(one_line, map(str, row))) for row in exercises.itertuples(index=False)]
    print_table("Exercises", list(exercises.columns), cells)
    for name, reason in checked.unread:
        warn(f"{clip(one_line(name), 80)}: {reason}")
    say("Read from what the notebooks printed; nothing in them was run.")
