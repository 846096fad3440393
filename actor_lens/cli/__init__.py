"""The ``actor-lens`` command. It calls what the notebooks call.

A module for each command (or family of commands) registers its flags, calls the library, writes
into ``--out`` and prints. ``arguments`` has the flags that several share, ``values`` the types of
what they take; ``inputs`` opens what they name; ``writing`` and ``printing`` are the ways out.

Nothing heavy is imported before a command runs, so that ``--help`` and wrong arguments answer at
once. Results go to the standard output, progress, warnings and errors to the error stream.

Exit codes:
    0: The command did what it was asked to do.
    2: An argument, a file or a model cannot be used; the error stream says so on one line.
    130: Ctrl-C; the error stream says what was kept and how to go on.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from actor_lens.cli import (
    ablate_command,
    app_command,
    bench_command,
    class_command,
    compare_command,
    evaluate_command,
    export_command,
    layers_command,
    models_command,
    prompts_command,
    store_commands,
    study_commands,
    sweep_command,
    toy_commands,
    utility_command,
)
from actor_lens.cli.arguments import PROGRAM
from actor_lens.cli.writing import StoppedError
from actor_lens.errors import UserError

EXIT_USER_ERROR, EXIT_INTERRUPTED = 2, 130

# Variables that keep libraries which are imported later from drawing progress bars.
_NO_BARS = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS", "TQDM_DISABLE")

# What a stream does with characters that it cannot write, where that may be to raise.
_FAILING = ("strict", "surrogateescape")

# Each has add_commands; --help lists the commands in this order.
COMMAND_MODULES = (
    app_command,
    study_commands,
    layers_command,
    evaluate_command,
    sweep_command,
    models_command,
    prompts_command,
    utility_command,
    export_command,
    compare_command,
    ablate_command,
    bench_command,
    store_commands,
    toy_commands,
    class_command,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Words after the name of the program; None for those of this process.

    Returns:
        The exit code.

    Raises:
        SystemExit: If the words cannot be parsed (code 2), or only ask for help (code 0).
    """
    with _any_console():
        return _run(list(sys.argv[1:] if argv is None else argv))


def _run(words: list[str]) -> int:
    """Parse words and run their command; the exit code."""
    parser = _parser()
    arguments = parser.parse_args(words)
    arguments.command_line = shlex.join([PROGRAM, *words])
    if getattr(arguments, "store", None) is not None:
        os.environ["ACTOR_LENS_STORE"] = arguments.store
    if getattr(arguments, "quiet", False):
        os.environ.update(dict.fromkeys(_NO_BARS, "1"))
    try:
        with _own_warnings_in_one_line():
            arguments.run_command(arguments)
    except UserError as error:
        _say("error", str(error))
        return EXIT_USER_ERROR
    except (StoppedError, KeyboardInterrupt) as stopped:
        print(f"{PROGRAM}: {str(stopped) or 'interrupted'}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output, for instance head, has gone
        sys.stderr.close()
        return 0
    return 0


@contextmanager
def _any_console() -> Iterator[None]:
    """Let every console show what is printed, with other characters for those that it lacks.

    How the streams were is back once the context is left.
    """
    streams: list[Any] = [sys.stdout, sys.stderr]
    streams = [s for s in streams if hasattr(s, "reconfigure") and s.errors in _FAILING]
    changed = [(stream, stream.errors) for stream in streams]
    for stream, _ in changed:
        stream.reconfigure(errors="replace")
    try:
        yield
    finally:
        for stream, errors in changed:
            with suppress(ValueError, OSError):  # closed, or its reader has gone
                stream.reconfigure(errors=errors)


class _Parser(argparse.ArgumentParser):
    """Argument errors in one line, as all other errors."""

    def error(self, message: str) -> NoReturn:
        """Print the message of argparse and where to read on; end with exit code 2."""
        _say("error", f"{message}; see {self.prog} --help")
        sys.exit(EXIT_USER_ERROR)


def _parser() -> _Parser:
    """The parser of the program with those of all its commands."""
    from actor_lens import __version__

    parser = _Parser(
        prog=PROGRAM,
        description="See why a chat model refuses harmless prompts, choose the one layer to "
        "train, and repair it.",
        epilog="Each command has its own --help.",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in COMMAND_MODULES:
        module.add_commands(commands)
    return parser


def _say(kind: str, message: str) -> None:
    """Print an error or a warning on one line of the error stream."""
    print(f"{PROGRAM}: {kind}: {' '.join(message.split())}", file=sys.stderr)


@contextmanager
def _own_warnings_in_one_line() -> Iterator[None]:
    """Show warnings of this library's categories without file, line and source; others as ever.

    The way that warnings were shown is back once the context is left: ``main`` may be called from a
    program that has a way of its own.
    """
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_in_one_line(
            message: Warning | str, category: type[Warning], *where: Any, **named: Any
        ) -> None:
            # By the module's name: importing the categories would import numpy.
            if category.__module__.split(".")[0] == __name__.split(".")[0]:
                _say("warning", str(message))
            else:
                show(message, category, *where, **named)

        warnings.showwarning = show_in_one_line
        yield
