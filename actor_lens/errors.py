"""The one kind of error that a user can fix, what others say, and checks of single values."""

from __future__ import annotations

import difflib
import importlib
import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from numbers import Real
from typing import Any


class UserError(ValueError):
    """Something given by the user cannot be used: a file, a model, an argument.

    The message is one line that names what was given, what was expected and what to do. The
    command line prints it without a traceback and exits with code 2.
    """


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error, then what it was raised from or while handling, the nearest first."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def require(package: str, extra: str, purpose: str, otherwise: str = "") -> Any:
    """Import a package that is not installed with every copy.

    Args:
        package: The package, or a module of it.
        extra: Extra of ``actor-lens`` that it comes with.
        purpose: What it is needed for, as the subject of a sentence.
        otherwise: What else can be done, to follow the advice to install it.

    Raises:
        UserError: If it is not installed.
    """
    root = package.partition(".")[0]
    try:
        importlib.import_module(root)
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(
            f"{purpose} needs {root}, which is not installed: pip install "
            f"'actor-lens[{extra}]'{otherwise and f', {otherwise}'}"
        ) from error


def require_all(packages: Mapping[str, str], purpose: str) -> None:
    """Check that packages are installed, without importing them; what is missing is told at once.

    Args:
        packages: Each package with the extra of ``actor-lens`` that it comes with.
        purpose: What they are needed for, as the subject of a sentence.

    Raises:
        UserError: If one of them is not installed.
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        extras = ",".join(packages[package] for package in missing)
        raise UserError(
            f"{purpose} needs {' and '.join(missing)}, not installed here: pip install "
            f"'actor-lens[{extras}]'"
        )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """What a message about an unknown name adds: ", did you mean toy?", or nothing."""
    near = difflib.get_close_matches(name.casefold(), list(known), n=1)
    return f", did you mean {near[0]}?" if near else ""


def check_choice(name: str, value: object, choices: Sequence[str]) -> str:
    """Return a value that is one of several names.

    Raises:
        UserError: If it is something else.
    """
    if not isinstance(value, str) or value not in choices:
        raise UserError(f"{name} '{value}' is not known; use one of {', '.join(choices)}")
    return str(value)


def check_number(name: str, value: object, low: float, high: float = math.inf) -> float:
    """Return a finite number from ``low`` to ``high`` as a float, also one of NumPy or torch.

    Raises:
        UserError: If it is something else.
    """
    number = _as_float(value)
    if not low <= number <= high or math.isinf(number):
        limits = f"at least {low:g}" if math.isinf(high) else f"from {low:g} to {high:g}"
        raise UserError(f"{name} is {value!r}; give a number {limits}")
    return number


def check_positive(name: str, value: object) -> float:
    """Return a positive finite number as a float, also one of NumPy or torch.

    Raises:
        UserError: If it is something else.
    """
    number = _as_float(value)
    if not 0 < number < math.inf:
        raise UserError(f"{name} is {value!r}; give a positive finite number")
    return number


def check_whole(name: str, value: object, low: int, high: int | None = None) -> int:
    """Return a whole number from ``low`` to ``high`` as an int, also one of NumPy or torch.

    Raises:
        UserError: If it is something else.
    """
    try:
        plain = unboxed(value)
        number = None if isinstance(plain, bool) else operator.index(plain)
    except TypeError:
        number = None
    if number is None or number < low or (high is not None and number > high):
        limits = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise UserError(f"{name} is {value!r}; give a whole number {limits}")
    return number


def unboxed(value: Any) -> Any:
    """A number of NumPy or torch (a scalar, or an array that holds one) as Python's own.

    Anything else is returned as it is.
    """
    if not hasattr(value, "item"):
        return value
    try:
        return value.item()
    except (ValueError, TypeError, RuntimeError):  # more than one number, or none
        return value


def _as_float(value: object) -> float:
    value = unboxed(value)
    if isinstance(value, Real) and not isinstance(value, bool):
        with suppress(OverflowError):  # a whole number beyond what a float holds
            return float(value)
    return math.nan
