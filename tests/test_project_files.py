"""The files around the code say what is true: paths exist, versions agree; page one is short."""

import re
from pathlib import Path

import pytest
import yaml

from actor_lens import __version__

CHECKOUT = Path(__file__).parents[1]
WRITTEN = ["README.md", "CONTRIBUTING.md"]
PAGES = [*(CHECKOUT / name for name in WRITTEN), *sorted(CHECKOUT.glob("docs/**/*.md"))]
WORKFLOWS = sorted(CHECKOUT.glob(".github/workflows/*.yml"))


def text_of(name):
    return (CHECKOUT / name).read_text(encoding="utf-8")


def test_the_first_page_is_short():
    assert len(text_of("README.md").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("name", WRITTEN)
def test_named_paths_of_the_repository_exist(name):
    folders = "actor_lens|tests|docs|notebooks|data|\\.github|\\.ci"
    paths = re.findall(rf"`((?:{folders})/[^`*\s]*)`", text_of(name))
    assert [path for path in paths if "NAME" not in path and not (CHECKOUT / path).exists()] == []


def test_hooks_have_the_versions_of_the_constraints():
    pins = dict(re.findall(r"^([\w-]+)==([\w.]+)$", text_of("constraints.txt"), flags=re.MULTILINE))
    hooks = yaml.safe_load(text_of(".pre-commit-config.yaml"))["repos"]
    versions = {Path(repo["repo"]).name: repo["rev"].lstrip("v") for repo in hooks}
    names = {"ruff-pre-commit": "ruff", "codespell": "codespell", "nbstripout": "nbstripout"}
    assert {hook: versions[hook] for hook in names} == {
        hook: pins[package] for hook, package in names.items()
    }


def test_the_citation_is_of_this_version():
    assert yaml.safe_load(text_of("CITATION.cff"))["version"] == __version__


@pytest.mark.parametrize(
    "path", sorted(CHECKOUT.glob(".github/workflows/*.yml")), ids=lambda path: path.stem
)
def test_workflows_are_readable_and_pin_actions_to_a_version(path):
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    actions = [step["uses"] for job in jobs.values() for step in job["steps"] if "uses" in step]
    assert [action for action in actions if not re.search(r"@(v\d+|release/v\d+)$", action)] == []
