"""An installed wheel does the whole job by itself: no checkout beside it, from any folder.

The wheel goes into a fresh environment that borrows the installed libraries but not the checkout.
"""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]


def run(*command: str | Path, cwd: Path) -> str:
    """Run a program outside the checkout and return what it printed; show all of it if it fails."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # The build backend comes with the test extra, so that no network is needed here.
    options = ("--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet")
    pip = (sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", folder)
    run(*pip, CHECKOUT, cwd=folder)
    (built,) = folder.glob("actor_lens-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The `bin` folder of an environment with the wheel in it."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=True)
    scripts = home / ("Scripts" if os.name == "nt" else "bin")
    options = ("--no-deps", "--no-index", "--disable-pip-version-check", "--quiet")
    run(scripts / "python", "-m", "pip", "install", *options, wheel, cwd=home)
    # A path in a .pth file is searched, but .pth files found there are not read: the libraries are
    # seen, the checkout that is installed beside them (through a .pth file of its own) is not.
    purelib = run(
        scripts / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home
    )
    libraries = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    Path(purelib.strip(), "libraries.pth").write_text("\n".join(sorted(libraries)) + "\n")
    return scripts


def test_the_wheel_carries_the_data_and_the_type_marker_but_no_tests(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    wanted = (
        "py.typed",
        "_data/README.md",
        "_data/prompts/toy.jsonl",
        "_data/toy-chat/config.json",
        "prompts/public/catalogue.yaml",
    )
    assert {f"actor_lens/{name}" for name in wanted} <= set(names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"actor_lens"}


def test_the_installed_package_and_its_data_are_its_own(installed, tmp_path):
    code = (
        "import actor_lens; from actor_lens.files.bundled import bundled; "
        "print(actor_lens.__file__); print(bundled('.'))"
    )
    printed = run(installed / "python", "-c", code, cwd=tmp_path).splitlines()
    home = installed.parent.resolve()
    assert [home in Path(line).resolve().parents for line in printed] == [True, True]


def test_the_demo_runs_from_an_empty_folder(installed, tmp_path):
    run(installed / "actor-lens", "demo", "--out", "demo", cwd=tmp_path)
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text(encoding="utf-8"))
    assert summary["parameters_changed_outside_layer"] == 0
    for moment in ("before", "after"):
        assert set(summary[moment]) == {"harmful", "pseudo_harmful", "benign"}
    before, after = (summary[moment]["pseudo_harmful"]["refused"] for moment in ("before", "after"))
    assert after < before
