"""Pages of the site that are made from the code: notebooks, commands, and the API by room.

MkDocs calls the ``on_`` functions (``hooks`` in mkdocs.yml). Nothing here lists a module, a command
or a notebook by name, so the site follows the code; ``mkdocs build --strict`` fails on a dead link.
"""

from __future__ import annotations

import ast
import html
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "actor_lens"
NOTEBOOKS = ROOT / "notebooks"
EXECUTED = ROOT / "build" / "notebooks"
"""Notebooks with outputs; where one is missing, the page shows the notebook without outputs."""

FIGURE = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
PLOTLY_JS = "scripts/plotly.min.js"
NOT_PYTHON_API = ("cli",)
MADE_OF = {
    r"notebooks/([\w-]+)\.ipynb": r"notebooks/\2.md",
    r"actor_lens/__init__\.pyi": "api/index.md",
    r"actor_lens/cli/__init__\.py": "api/commands.md",
}
"""Files that pages link to, and the pages that the site has in their place."""
NAMES_HEAD = """\
# Names at the top

`import actor_lens as al` offers these names; each loads its module (and torch) when it is first
used. Rarer ones are imported from their room. Rooms are in the order in which they may import each
other, from the ground up; `figures` and `widgets` are loaded by
`from actor_lens import figures, widgets`.

| room | names |
|---|---|
"""

_outputs: dict[str, list[str]] = {}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the two empty sections of the navigation."""
    nav = {title: pages for section in config.nav or [] for title, pages in section.items()}
    nav["Notebooks"] += [_notebook_page(path) for path in sorted(NOTEBOOKS.glob("*.ipynb"))]
    nav["API"] += ["api/index.md", "api/commands.md", *(f"api/{room}.md" for room in _rooms())]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made here, and plotly's script for the figures of the notebooks."""
    from plotly.offline import get_plotlyjs

    pages = {"api/index.md": _names(), "api/commands.md": _commands()}
    pages |= {f"api/{room}.md": _room(room) for room in _rooms()}
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        pages[_notebook_page(path)] = _notebook(path)
    pages[PLOTLY_JS] = get_plotlyjs()
    for address, content in pages.items():
        files.append(File.generated(config, address, content=content))
    return files


def on_page_markdown(markdown: str, **_others: object) -> str:
    """Let links, written as they work in the repository, lead to the pages made of their files."""
    for file, made in MADE_OF.items():
        markdown = re.sub(rf"\]\(\.\./((?:\.\./)*){file}\)", rf"](\1{made})", markdown)
    return markdown


def on_page_content(content: str, page: Page, **_others: object) -> str:
    """Put a notebook's outputs into its page, after Markdown can no longer touch them."""
    outputs = _outputs.get(page.file.src_uri)
    if not outputs:
        return content
    for number, output in enumerate(outputs):
        content = content.replace(_placeholder(number), output)
    return f'<script src="../{PLOTLY_JS}"></script>\n{content}'


# ---- The API ----


def _rooms() -> list[str]:
    """Rooms and ground-floor files with public names, from the ground up."""
    tree = ast.parse((ROOT / "tests" / "test_imports.py").read_text(encoding="utf-8"))
    order: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ORDER":
            order = [room for floor in ast.literal_eval(node.value) for room in floor]
    entries = {
        path.stem
        for path in PACKAGE.iterdir()
        if not path.name.startswith(("_", ".")) and (path.suffix == ".py" or _modules(path))
    }
    rank = {room: place for place, room in enumerate(order)}
    rooms = entries - set(NOT_PYTHON_API)
    return sorted(rooms, key=lambda room: (rank.get(room, len(rank)), room))


def _modules(folder: Path) -> list[str]:
    """Dotted names of the public modules in a folder, packages before what is in them."""
    names = []
    for path in sorted(folder.rglob("*.py")):
        place = path.relative_to(PACKAGE).with_suffix("")
        parts = place.parts[:-1] if place.name == "__init__" else place.parts
        if not any(part.startswith("_") for part in parts):
            names.append(".".join(("actor_lens", *parts)))
    return names


def _room(room: str) -> str:
    """The page of one room: every public module in it."""
    folder = PACKAGE / room
    modules = _modules(folder) if folder.is_dir() else [f"actor_lens.{room}"]
    blocks = [f"---\ntitle: {room}\n---\n\n# `actor_lens.{room}`"]
    for module in modules:
        short = module.removeprefix(f"actor_lens.{room}").lstrip(".")
        if short:
            blocks.append(f"## `{short}`")
        blocks.append(f"::: {module}\n    options:\n      show_root_heading: false\n")
    return "\n\n".join(blocks)


def _names() -> str:
    """The first page of the API: what ``import actor_lens as al`` offers, by room."""
    rooms: dict[str, list[str]] = {}
    for module, name in _public_names():
        parts = module.split(".")
        if len(parts) > 1:
            rooms.setdefault(parts[1], []).append(f"[`{name}`][{module}.{name}]")
    rows = [
        f"| [{room}]({room}.md) | {', '.join(sorted(set(rooms[room]), key=str.casefold))} |"
        for room in _rooms()
        if room in rooms
    ]
    others = [f"[{room}]({room}.md)" for room in _rooms() if room not in rooms]
    return (
        NAMES_HEAD
        + "\n".join(rows)
        + f"\n\nRooms without a name at the top: {', '.join(others)}.\n"
    )


def _public_names() -> Iterator[tuple[str, str]]:
    """Module and name of what the package imports for type checkers."""
    stub = PACKAGE / "__init__.pyi"
    source = stub if stub.exists() else PACKAGE / "__init__.py"
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            module = f"actor_lens.{node.module}" if node.level else node.module
            yield from ((module, alias.name) for alias in node.names)


# ---- The command line ----


def _commands() -> str:
    """Every command's ``--help``."""
    blocks = [
        "# Commands\n\nWhat `--help` says of each command. "
        "See the [guide to the command line](../guides/command-line.md) for what they are for.",
        _fenced(_help()),
    ]
    for command in _subcommands(_help()):
        text = _help(command)
        blocks += [f"## `actor-lens {command}`", _fenced(text)]
        for part in _subcommands(text):
            blocks += [f"### `actor-lens {command} {part}`", _fenced(_help(command, part))]
    return "\n\n".join(blocks)


def _help(*words: str) -> str:
    environment = {**os.environ, "COLUMNS": "82", "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    command = [sys.executable, "-m", "actor_lens", *words, "--help"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return run.stdout


def _subcommands(text: str) -> list[str]:
    _, _, listing = text.partition("\n  COMMAND\n")
    return re.findall(r"^    ([a-z][\w-]*)", listing, flags=re.MULTILINE)


def _fenced(text: str, language: str = "text") -> str:
    return f"```{language}\n{text.rstrip()}\n```"


# ---- Notebooks ----


def _notebook_page(path: Path) -> str:
    return f"notebooks/{path.stem}.md"


def _notebook(path: Path) -> str:
    """A notebook as Markdown, with places for its outputs."""
    executed = EXECUTED / path.name
    source = executed if executed.exists() else path
    cells = json.loads(source.read_text(encoding="utf-8"))["cells"]
    outputs = _outputs[_notebook_page(path)] = []
    blocks = []
    for number, cell in enumerate(cells):
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            blocks.append(_without_badges(text))
            continue
        block = [_fenced(text, "python")]
        for output in cell["outputs"]:
            shown = _shown(output, f"{path.stem}-{number}-{len(outputs)}")
            if shown:
                block.append(_placeholder(len(outputs)))
                outputs.append(shown)
        blocks.append(_folded(block) if _is_answer(cell) else "\n\n".join(block))
    where = f"This page is `notebooks/{path.name}`. To run and change it: `make lab`."
    if source == path:
        where += " It is shown without outputs, as it was not run when this site was built."
    blocks.insert(1, f'!!! note ""\n    {where}')
    return "\n\n".join(blocks)


def _placeholder(number: int) -> str:
    return f'<div class="notebook-output" id="output-{number}"></div>'


def _is_answer(cell: dict[str, Any]) -> bool:
    return "answer" in cell["metadata"].get("tags", [])


def _folded(blocks: list[str]) -> str:
    inner = "\n\n".join(blocks).replace("\n", "\n    ")
    return f'??? note "An answer"\n\n    {inner}'


def _without_badges(text: str) -> str:
    """Turn linked pictures from the network into links with their text."""
    return re.sub(r"\[!\[(.*?)\]\(https?://.*?\)\]", r"[\1]", text)


def _shown(output: dict[str, Any], name: str) -> str:
    """The HTML of one output; nothing for the script with which plotly is loaded in a notebook."""
    if output["output_type"] == "stream":
        return _printed("".join(output["text"]))
    if output["output_type"] == "error":
        raise RuntimeError(f"{name} holds an error: {output['ename']}: {output['evalue']}")
    data = output["data"]
    if FIGURE in data:
        return _figure(data[FIGURE], name)
    if WIDGET in data and ("text/html" in data or "%|" in "".join(data["text/plain"])):
        return ""  # a picture of it follows, or it is a bar of progress that has gone
    if WIDGET in data:
        return _box("A widget stands here while the notebook runs.", "widget")
    page = "".join(data.get("text/html", ""))
    if "PlotlyConfig" in page:
        return ""
    if page:
        return _box(page)
    return _printed("".join(data.get("text/plain", "")))


def _box(page: str, kind: str = "") -> str:
    return f'<div class="notebook-output {kind}">{page}</div>'


def _printed(text: str) -> str:
    return f'<pre class="notebook-output">{html.escape(text)}</pre>' if text.strip() else ""


def _figure(figure: dict[str, Any], name: str) -> str:
    import plotly.io as pio

    page = pio.to_html(
        figure,
        config={**figure.pop("config", {}), "responsive": True},
        full_html=False,
        include_plotlyjs=False,
        validate=False,
        div_id=f"figure-{name}",
    )
    return _box(page, "figure")
