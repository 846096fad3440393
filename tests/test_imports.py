"""The import rule: a stage imports earlier stages only, and importing the package is cheap.

In `ORDER` each room may import those on the floors below it. Outputs (figures, widgets, report,
command line) are never imported by a stage; figures hold no torch and know the stages' types only;
the toy language knows nothing of the stages. Read from the source: imports inside functions count
as well.
"""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import actor_lens

PACKAGE = Path(actor_lens.__file__).parent

ORDER = (
    ("errors", "text", "progress"),
    ("files", "results"),
    ("prompts",),
    ("statistics", "models"),
    ("activations",),
    ("judges",),
    ("directions",),
    ("training",),
    ("evaluation", "export"),
    ("methods",),
    ("experiments",),
    ("diagnostics", "report"),
    ("widgets",),
    ("cli",),
    ("__main__",),
)
"""Rooms from the ground up; those of one floor do not know each other."""

ASIDE = {"figures": 2, "toy": 3}
"""Rooms beside the stages, and how many floors of them they stand on."""

STAGES = {room for rooms in ORDER[:12] for room in rooms} - {"report"}
FLOOR = {room: floor for floor, rooms in enumerate(ORDER) for room in rooms}
ALLOWED = {
    room: {other for other, below in FLOOR.items() if below < floor}
    for room, floor in {**FLOOR, **ASIDE}.items()
}
for room in ("report", "widgets", "cli"):
    ALLOWED[room].add("figures")
ALLOWED["cli"].add("toy")
HEAVY = ("torch", "pandas", "plotly", "transformers", "transformer_lens", "sklearn", "scipy")


class Import(NamedTuple):
    module: str
    line: int
    typing_only: bool


def typing_only_nodes(tree: ast.Module) -> set[int]:
    """The ids of all nodes inside `if TYPE_CHECKING:`."""
    guards = (node for node in ast.walk(tree) if isinstance(node, ast.If))
    guarded = (node for node in guards if ast.unparse(node.test).endswith("TYPE_CHECKING"))
    return {id(inner) for guard in guarded for stmt in guard.body for inner in ast.walk(stmt)}


def imports_of(source: str) -> Iterator[Import]:
    """Every imported module; `from package import name` counts as `package.name`."""
    tree = ast.parse(source)
    typing_only = typing_only_nodes(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (Import(module, node.lineno, id(node) in typing_only) for module in modules)


def part_of(module: str) -> str:
    """The stage or output that a module belongs to: `actor_lens.figures.theme` is of `figures`."""
    return [*module.split("."), ""][1]


def violations(part: str, source: str) -> list[str]:
    """What a module of this part imports against the rule, with its line."""
    found = []
    for module, line, typing_only in imports_of(source):
        if part == "figures" and module.split(".")[0] in ("torch", "transformer_lens"):
            found.append(f"line {line}: {module}")
        if module.split(".")[0] != "actor_lens" or module == "actor_lens.__version__":
            continue
        types_for_outsiders = (
            part in ("figures", "progress") and typing_only and part_of(module) in STAGES
        )
        if part_of(module) not in (part, *ALLOWED[part]) and not types_for_outsiders:
            found.append(f"line {line}: {module}")
    return found


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def test_every_module_imports_only_what_lies_below_it():
    violated = {
        str(path.relative_to(PACKAGE)): violations(part, path.read_text(encoding="utf-8"))
        for path in MODULES
        for part in path.relative_to(PACKAGE).with_suffix("").parts[:1]
    }
    assert {path: lines for path, lines in violated.items() if lines} == {}


def test_every_room_has_a_floor():
    rooms = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in MODULES}
    assert rooms == set(ALLOWED)


def test_the_house_stays_small():
    entries = [path for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 26
    assert all(len(path.read_text(encoding="utf-8").splitlines()) <= 400 for path in MODULES)


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("activations", "from actor_lens.directions.targets import Targets"),
        ("activations", "from actor_lens import directions"),
        ("activations", "from actor_lens.judges.base import Judge"),
        ("directions", "import actor_lens as al"),
        ("models", "def f():\n    from actor_lens.activations.residuals import Residuals"),
        ("evaluation", "from actor_lens.figures import refusal_rates"),
        ("experiments", "import actor_lens.report"),
        ("toy", "from actor_lens.models.chat_model import load_model"),
        ("figures", "from actor_lens.directions.projections import Projections"),
        ("figures", "def f():\n    import torch"),
        ("figures", "if TYPE_CHECKING:\n    from torch import Tensor"),
        ("figures", "if TYPE_CHECKING:\n    from actor_lens.report.pages import page"),
    ],
)
def test_the_rule_sees_each_kind_of_violation(part, source):
    assert len(violations(part, source)) == 1


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("directions", "from actor_lens.activations.residuals import Residuals"),
        ("directions", "import torch\nfrom actor_lens.errors import UserError"),
        ("figures", "if TYPE_CHECKING:\n    from actor_lens.training.run import TrainingRun"),
        ("figures", "from actor_lens.figures.theme import colours"),
        ("report", "from actor_lens import __version__, figures"),
    ],
)
def test_the_rule_lets_pass_what_is_allowed(part, source):
    assert violations(part, source) == []


def loaded_by(statement: str) -> set[str]:
    """The top-level modules loaded after a statement, in a Python of its own."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in json.loads(ran.stdout)}


@pytest.mark.parametrize(
    "statement",
    [
        "import actor_lens",
        "import actor_lens.cli",
        "from actor_lens.judges import keywords",
        "from actor_lens import UserError, __version__",
    ],
)
def test_importing_loads_no_heavy_library(statement):
    assert loaded_by(statement).isdisjoint(HEAVY)


def test_every_public_name_resolves():
    for name in (*actor_lens.__all__, *actor_lens._RARE_HOME):
        assert getattr(actor_lens, name) is not None
    assert len(actor_lens.__all__) <= 50


def test_no_public_name_hides_a_room():
    # Python puts an imported submodule on the package under its name, in place of ours.
    rooms = {path.stem for path in PACKAGE.iterdir()}
    assert rooms.isdisjoint(actor_lens._RARE_HOME)
    shown = rooms.intersection(actor_lens.__all__)
    assert shown == {"export", "figures", "judges", "methods", "prompts", "widgets"}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing"):
        _ = actor_lens.nothing


@pytest.mark.skipif(sys.platform != "linux", reason="other systems bring other OpenMP libraries")
@pytest.mark.parametrize("own", [None, "ACTIVE"])
def test_threads_hardly_spin_unless_the_user_says_otherwise(own: str | None):
    environment = {**os.environ, "OMP_DISPLAY_ENV": "VERBOSE"}
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        environment.pop(name, None)
    if own is not None:
        environment["OMP_WAIT_POLICY"] = own
    ran = subprocess.run(
        [sys.executable, "-c", "import actor_lens, torch"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert f"OMP_WAIT_POLICY = '{own or 'PASSIVE'}'" in ran.stderr
    assert ("GOMP_SPINCOUNT = '3000'" in ran.stderr) == (own is None)
