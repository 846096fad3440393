"""A path of the user's means the same at every door that reads or writes: ``~`` is the home."""

from pathlib import Path

import pytest

from actor_lens.activations.store import Store
from actor_lens.errors import UserError
from actor_lens.experiments.sweep.layer_sweep import sweep_layers
from actor_lens.export.folders import check_folder, export_delta
from actor_lens.files.paths import user_path
from actor_lens.files.saving import replacing
from actor_lens.judges.keywords import judge_from_file
from actor_lens.judges.verdict_cache import VerdictCache
from actor_lens.models.chat_model import load_model
from actor_lens.prompts.loading import load_prompts
from actor_lens.prompts.mixtures import read_own
from actor_lens.report.pages import write_page
from actor_lens.training.config import FinetuneConfig
from actor_lens.training.run import TrainingRun
from tests.support.tiny_models import shared_tiny_model
from tests.support.tiny_runs import quick_run, tiny_prompts

NOBODY = "~no-such-user-here"


def tiny_run():
    return quick_run(shared_tiny_model(), epochs=1)


def write_replacing(path):
    with replacing(path) as temporary:
        temporary.write_text("x")


WRITERS = {
    "run": lambda path: tiny_run().save(path),
    "export": lambda path: export_delta(shared_tiny_model(), tiny_run(), path),
    "page": lambda path: write_page("x", path),
    "file": write_replacing,
    "prompts": lambda path: tiny_prompts().save(path),
    "sweep": lambda path: sweep_layers(
        shared_tiny_model(),
        tiny_prompts(),
        layers=[1],
        settings=FinetuneConfig(layer=1, epochs=1),
        folder=path,
    ),
}
READERS = {
    "run": TrainingRun.load,
    "prompts": load_prompts,
    "own prompts": read_own,
    "model": load_model,
    "template": lambda path: load_model("toy", chat_template=path),
    "keywords": judge_from_file,
    "verdicts": VerdictCache,
    "store": Store,
    "folder to export to": lambda path: check_folder(path, "delta"),
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_what_is_written_below_the_home_is_there(write, home):
    write("~/out.jsonl")
    assert (home / "out.jsonl").exists()
    assert not list(Path().iterdir())


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    "use", [*WRITERS.values(), *READERS.values()], ids=[*WRITERS, *(f"{n} read" for n in READERS)]
)
def test_a_home_of_nobody_is_one_line(use):
    with pytest.raises(UserError, match=f"{NOBODY}.*no user") as error:
        use(f"{NOBODY}/out.jsonl")
    assert len(str(error.value).splitlines()) == 1
    assert not list(Path().iterdir())


def test_a_file_whose_name_begins_so_is_taken(home):
    Path("~$list.csv").write_text("x")
    assert user_path("~$list.csv") == Path("~$list.csv")
    assert user_path(Path("~/a")) == home / "a"
