"""An outcome is found again by what it depends on, whatever version of the package kept it."""

import json
from pathlib import Path

import pytest

from actor_lens.errors import UserError
from actor_lens.experiments.comparison.compare import OUTCOMES_FILE, compare
from actor_lens.experiments.comparison.trial import same_settings, settings_of
from actor_lens.experiments.older_files import OUTCOMES_FOLDER, comparison_outcomes
from actor_lens.methods import METHODS, make_method
from actor_lens.methods.sft import LayerSFT
from tests.support.planted_methods import ALWAYS, JUDGE, NEVER
from tests.support.studies import planted_prompts
from tests.support.tiny_models import tiny_chat_model

FORMAT_1 = Path(__file__).parents[1] / "fixtures" / "outcomes_format_1"
STORED = json.loads((FORMAT_1 / "sft-layer-seed-0.json").read_text())
SETTINGS = json.loads((FORMAT_1 / "method_settings.json").read_text())


def write(folder, record):
    """A record where a comparison looked for the outcome of its method and seed."""
    about = record["about"]
    path = folder / OUTCOMES_FOLDER / f"{about['method']}-seed-{about['seed']}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record))
    return path


@pytest.fixture
def older(tmp_path):
    """A comparison of two methods as an older version kept it, with verdicts of its own."""
    model, prompts = tiny_chat_model(), planted_prompts(2)

    def compared(*methods, **options):
        return compare(
            model, prompts, methods, **{"judge": JUDGE, "new_tokens": 1, "out": tmp_path, **options}
        )

    compared(NEVER)
    header, kept = map(json.loads, (tmp_path / OUTCOMES_FILE).read_text().splitlines())
    (tmp_path / OUTCOMES_FILE).unlink()
    verdicts = ["refused"] * len(kept["outcome"]["verdicts"])
    for name, settings, outcome in (
        ("never", kept["method_settings"], kept["outcome"]),
        ("sft-layer", STORED["about"]["method_settings"], STORED["outcome"]),
    ):
        about = {**header["about"], "method": name, "method_settings": settings, "seed": 0}
        write(
            tmp_path,
            {"about": about, "outcome": {**outcome, "verdicts": verdicts, "replies": verdicts}},
        )
    return compared


@pytest.mark.parametrize("name", SETTINGS)
def test_every_method_with_its_default_settings_is_told_by_them(name, tmp_path):
    assert SETTINGS[name]["class"].startswith("actor_lens.methods.")
    about = {**STORED["about"], "method": name, "method_settings": SETTINGS[name]}
    write(tmp_path, {**STORED, "about": about})
    ((shared, record),) = comparison_outcomes(tmp_path)
    assert same_settings(record["method_settings"], make_method(name))
    assert record["outcome"] == STORED["outcome"]
    assert set(shared) == set(about) - {"method", "method_settings", "seed"}


@pytest.mark.usefixtures("quick_collections")
class TestComparison:
    def test_goes_on_from_older_outcomes_and_keeps_new_ones(self, older, tmp_path, monkeypatch):
        monkeypatch.setattr(LayerSFT, "fit", lambda *_: pytest.fail("was fitted again"))
        board = older(NEVER, "sft-layer", ALWAYS)
        assert [outcome.status for outcome in board.outcomes] == ["completed"] * 3
        assert {*board.outcomes[0].verdicts, *board.outcomes[1].verdicts} == {"refused"}
        lines = (tmp_path / OUTCOMES_FILE).read_text().splitlines()
        assert len(lines) == 1 + 3
        assert repr(older(NEVER, "sft-layer", ALWAYS).outcomes) == repr(board.outcomes)

    @pytest.mark.usefixtures("older")
    def test_other_settings_of_a_method_are_told_apart(self, older):
        with pytest.raises(UserError, match="method settings"):
            older(make_method("sft-layer", epochs=9))

    def test_another_comparison_is_refused(self, older):
        with pytest.raises(UserError, match=r"another comparison .*new tokens"):
            older(NEVER, new_tokens=2)

    def test_a_damaged_file_is_named(self, older, tmp_path):
        path = tmp_path / OUTCOMES_FOLDER / "never-seed-0.json"
        path.write_text(path.read_text()[:100])
        with pytest.raises(UserError, match=f"{path.name}: cannot be read"):
            older(NEVER)


@pytest.mark.parametrize("name", METHODS)
def test_what_an_outcome_depends_on_names_no_module_of_the_package(name):
    assert "actor_lens" not in json.dumps(settings_of(make_method(name)))


def test_two_classes_of_the_users_own_with_one_name_are_told_apart():
    assert settings_of(NEVER)["class"] == "tests.support.planted_methods.Fixed"
