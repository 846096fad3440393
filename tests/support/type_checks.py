"""Beartype for annotations while tests run, but a name that is none of a Literal passes.

The package itself refuses such a name with a message of its own, and tests ask for that message.
"""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from beartype import BeartypeConf, FrozenDict, beartype

PACKAGE = Path(__file__).parents[2] / "actor_lens"


def literals() -> Iterator[Any]:
    """Every ``Literal`` of strings that a module of the package gives a name or an argument."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("Literal"):
                names = ast.literal_eval(node.slice)
                names = names if isinstance(names, tuple) else (names,)
                if all(isinstance(name, str) for name in names):
                    yield Literal[names]


# A whole number is a float, as for every type checker (PEP 484).
_CONFIG = BeartypeConf(
    is_pep484_tower=True, hint_overrides=FrozenDict({one: str for one in literals()})
)


def checked(function: Callable[..., Any]) -> Any:
    """Check the arguments and the result of a function at each call."""
    return beartype(conf=_CONFIG)(function)
