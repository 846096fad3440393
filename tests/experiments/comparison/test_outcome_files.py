"""An outcome is found again by what it depends on, whatever version of the package wrote it."""

import json
from pathlib import Path

import pytest

from actor_lens.errors import UserError
from actor_lens.experiments.comparison.compare import compare
from actor_lens.experiments.comparison.outcome_files import FOLDER, FORMAT, OutcomeFolder
from actor_lens.experiments.comparison.trial import settings_of
from actor_lens.methods import METHODS, make_method
from actor_lens.methods.sft import LayerSFT
from tests.support.planted_methods import JUDGE, NEVER
from tests.support.studies import planted_prompts
from tests.support.tiny_models import tiny_chat_model

FORMAT_1 = Path(__file__).parents[2] / "fixtures" / "outcomes_format_1"
STORED = json.loads((FORMAT_1 / "sft-layer-seed-0.json").read_text())
SETTINGS = json.loads((FORMAT_1 / "method_settings.json").read_text())


def write(folder, record):
    """A record where `OutcomeFolder(folder)` looks for the outcome of its method and seed."""
    about = record["about"]
    path = folder / FOLDER / f"{about['method']}-seed-{about['seed']}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record))
    return path


@pytest.mark.parametrize("name", SETTINGS)
def test_an_outcome_of_format_1_is_found_for_every_method_with_its_default_settings(name, tmp_path):
    written = {**STORED["about"], "method": name, "method_settings": SETTINGS[name]}
    assert written["method_settings"]["class"].startswith("actor_lens.methods.")
    write(tmp_path, {**STORED, "about": written})
    now = {**written, "method_settings": settings_of(make_method(name))}
    outcome = OutcomeFolder(tmp_path).find(now)
    assert list(outcome.verdicts) == STORED["outcome"]["verdicts"]
    assert dict(outcome.settings) == STORED["outcome"]["settings"]


def test_format_1_still_tells_other_settings_apart(tmp_path):
    write(tmp_path, STORED)
    now = {**STORED["about"], "method_settings": settings_of(make_method("sft-layer", epochs=9))}
    with pytest.raises(UserError, match="differs in: method settings"):
        OutcomeFolder(tmp_path).find(now)


@pytest.mark.usefixtures("quick_collections")
def test_a_comparison_goes_on_from_an_outcome_of_format_1(tmp_path, monkeypatch):
    model, prompts = tiny_chat_model(), planted_prompts(2)

    def compared(*methods):
        return compare(model, prompts, methods, judge=JUDGE, new_tokens=1, out=tmp_path)

    compared(NEVER)
    (path,) = (tmp_path / FOLDER).iterdir()
    about = json.loads(path.read_text())["about"]
    verdicts = ["refused"] * len(json.loads(path.read_text())["outcome"]["verdicts"])
    settings = STORED["about"]["method_settings"]
    write(
        tmp_path,
        {
            "about": {**about, "method": "sft-layer", "method_settings": settings},
            "outcome": {**STORED["outcome"], "verdicts": verdicts, "replies": verdicts},
        },
    )
    monkeypatch.setattr(LayerSFT, "fit", lambda *_: pytest.fail("was fitted again"))
    board = compared(NEVER, "sft-layer")
    assert [outcome.status for outcome in board.outcomes] == ["completed", "completed"]
    assert list(board.outcomes[1].verdicts) == verdicts


@pytest.mark.parametrize("name", METHODS)
def test_what_an_outcome_depends_on_names_no_module_of_the_package(name):
    assert "actor_lens" not in json.dumps(settings_of(make_method(name)))


def test_two_classes_of_the_users_own_with_one_name_are_told_apart():
    assert settings_of(NEVER)["class"] == "tests.support.planted_methods.Fixed"


def test_a_file_of_a_later_format_is_refused(tmp_path):
    path = write(tmp_path, {**STORED, "format": FORMAT + 1})
    with pytest.raises(UserError, match=f"{path.name}: cannot be read.*later version"):
        OutcomeFolder(tmp_path).find(STORED["about"])
