"""The commands `compare` and `ablate` print and write what the library's functions give."""

import csv
import json
from argparse import Namespace

import pytest

from actor_lens import cli, methods
from actor_lens.experiments.presets import PRESETS

pytestmark = pytest.mark.usefixtures("quick_collections")


def run_cli(*words):
    try:
        return cli.main([str(word) for word in words])
    except SystemExit as stop:
        return stop.code


@pytest.fixture(autouse=True)
def planted(tmp_path, monkeypatch):
    """Two methods under names of the command line, and a store of one's own."""
    from tests.support.planted_methods import Fixed

    monkeypatch.setenv("ACTOR_LENS_STORE", str(tmp_path / "store"))
    known = {"never": Fixed("never"), "harmful": Fixed("harmful", ("harmful",))}
    monkeypatch.setitem(methods.METHODS, "never", "")
    monkeypatch.setitem(methods.METHODS, "harmful", "")
    monkeypatch.setattr("actor_lens.experiments.comparison.compare.make_method", known.__getitem__)
    monkeypatch.setattr("tests.support.planted_methods.label_of", lambda _prompt: "harmful")


QUICK = ("--per-label", "2", "--test-per-label", "2", "--new-tokens", "2", "--quiet")


class TestCompare:
    WORDS = ("compare", "--methods", "never,harmful", *QUICK)

    def test_json_is_what_is_written_and_the_folder_goes_on(self, tmp_path, capsys):
        out = tmp_path / "out"
        assert run_cli(*self.WORDS, "--out", out, "--report", "--json") == 0
        record = json.loads(capsys.readouterr().out)
        assert record == json.loads((out / "summary.json").read_text())
        assert {row["method"] for row in record["methods"]} == {"never", "harmful"}
        assert record["findings"]
        for name in ("leaderboard.csv", "leaderboard-sets.csv", "pairs.csv", "replies.csv"):
            assert (out / name).stat().st_size > 0
        with (out / "replies.csv").open() as file:
            harmful = [row for row in csv.DictReader(file) if row["label"] == "harmful"]
        assert {row["reply"] for row in harmful if row["refused"] == "False"} == {
            "(answered; not shown)"
        }
        assert "Methods side by side on" in (out / "report.html").read_text()
        kept = {path.name: path.read_text() for path in out.glob("*.jsonl")}
        assert run_cli(*self.WORDS, "--out", out) == 0
        printed = capsys.readouterr().out
        assert "T.S." in printed
        assert "│ harmful " in printed  # names are whole in a terminal of 80 columns
        assert "…" not in printed
        assert kept == {path.name: path.read_text() for path in out.glob("*.jsonl")}
        changed = [*self.WORDS[:-2], "3", "--quiet"]
        assert run_cli(*changed, "--out", out) == 2
        assert "belongs to another comparison" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--methods", "nothing"], "unknown method 'nothing'; use one of: default, "),
            (["--methods", "defualt"], "'defualt', did you mean default? use one of: default, "),
            (["--report"], "--report needs a folder"),
            (["--judge", "oracle"], "judge 'oracle' is not known"),
            (["--dry-run"], "add --preset paper"),
            (["--preset", "other"], "preset 'other' is not known"),
            (["--preset", "paper"], "needs a model"),
            (["--seeds", "x"], "'x' is not a whole number"),
            (["--anchors", "advbench"], "the hub is switched off"),
        ],
    )
    def test_wrong_words_give_one_line(self, words, message, capsys):
        assert run_cli("compare", *words, *QUICK) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert message in line

    def test_a_dry_run_prints_the_plan_and_loads_nothing(self, capsys, monkeypatch):
        monkeypatch.setattr("actor_lens.cli.compare_command.load_model_and_prompts", None)
        words = ("compare", "--preset", "paper", "--dry-run")
        assert run_cli(*words, "--json") == 0
        plan = json.loads(capsys.readouterr().out)["plan"]
        models = PRESETS["paper"].models
        assert plan == {name: PRESETS["paper"].plan(name).to_dict("records") for name in models}
        assert run_cli(*words, "--model", "gemma-7b") == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert "our own choice" in shown
        assert "llama-2" not in shown

    def test_anchors_come_from_files_whatever_their_splits(self, tmp_path, capsys):
        from actor_lens.cli.inputs import load_anchors
        from tests.support.studies import planted_prompts

        path = tmp_path / "anchors.jsonl"
        planted_prompts(3).save(path)
        arguments = Namespace(anchors=str(path), seed=0)
        assert load_anchors(arguments).fingerprint == planted_prompts(3).fingerprint
        planted_prompts(3).where(label="harmful").save(path)
        assert run_cli("compare", *QUICK, "--methods", "never", "--anchors", path) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert "0 benign prompts, at least 1 needed" in line

    def test_methods_of_a_preset_have_its_settings(self):
        sft, lora, actor = self._applied(methods="sft-full,lora,actor").methods
        assert sft.lrs == (1e-3,)
        assert lora == methods.make_method("lora")
        assert (actor.layer, actor.alpha, actor.refresh) == (17, 0.003, 50)
        assert len(self._applied().methods) == len(PRESETS["paper"].methods)

    def test_the_preset_sets_the_length_of_replies_that_its_plan_names(self):
        plan = PRESETS["paper"].plan("gemma-7b").set_index("setting")
        filled = self._applied()
        assert str(filled.new_tokens) == plan.loc["longest reply, tokens", "value"]
        assert filled.per_label == 60
        assert filled.anchors == "hex-phi:64,truthfulqa:64"
        assert self._applied(new_tokens=7).new_tokens == 7

    @staticmethod
    def _applied(methods="all", new_tokens=None):
        from actor_lens.cli.preset_plan import apply_preset

        arguments = Namespace(
            preset="paper",
            model="gemma-7b",
            dry_run=False,
            prompts=None,
            judge=None,
            methods=methods,
            new_tokens=new_tokens,
            per_label=60,
            anchors=None,
        )
        assert apply_preset(arguments) is False
        return arguments


class TestAblate:
    WORDS = ("ablate", "--factors", "shift", "--seeds", "0", "--layer", "4", "--epochs", "1")

    def test_json_is_what_is_written_and_the_folder_goes_on(self, tmp_path, capsys):
        out = tmp_path / "out"
        assert run_cli(*self.WORDS, *QUICK, "--out", out, "--json") == 0
        record = json.loads(capsys.readouterr().out)
        assert record == json.loads((out / "summary.json").read_text())
        assert {row["value"] for row in record["means"]} == {"projected", "uniform"}
        notes = (out / "ablations.jsonl").read_text()
        assert run_cli(*self.WORDS, *QUICK, "--out", out) == 0
        assert "Target layer 4: it was named." in capsys.readouterr().out
        assert (out / "ablations.jsonl").read_text().split() == notes.split()
        assert "What each part of the fine-tune does" in (out / "ablations.html").read_text()

    def test_kinds_are_crossed_from_the_command_line(self, tmp_path, capsys):
        out = tmp_path / "out"
        words = (*self.WORDS[:2], "transfer", *self.WORDS[3:], *QUICK)
        assert run_cli(*words, "--out", out, "--json") == 0
        record = json.loads(capsys.readouterr().out)
        assert record == json.loads((out / "summary.json").read_text())
        trained_on = {row["trained_on"] for row in record["matrix"]}
        assert {row["value"] for row in record["means"]} == trained_on
        assert "all kinds" in trained_on
        with (out / "matrix.csv").open() as file:
            assert len(list(csv.DictReader(file))) == len(record["matrix"]) > 0
        assert 'id="plot-matrix"' in (out / "ablations.html").read_text()

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--factors", "colour"], "factor 'colour' is not known"),
            (["--factors", ","], "no ablations to run"),
            (["--factors", "shift", "--layer", "99"], "out of range"),
            (["--factors", "shift", "--layer", "4", "--jobs", "0"], "at least one job"),
            (["--factors", "shift", "--layer", "4", "--epochs", "0"], "epochs is 0"),
            (["--studies", "anchors", "--layer", "99"], "out of range"),
        ],
    )
    def test_wrong_words_give_one_line(self, words, message, capsys):
        assert run_cli("ablate", *words, *QUICK) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert message in line

    @pytest.mark.parametrize("command", ["ablate", "compare"])
    def test_a_folder_of_something_else_and_a_file_are_refused(self, command, tmp_path, capsys):
        own = tmp_path / "own"
        own.mkdir()
        (own / "notes.txt").write_text("mine")
        for out, message in ((own, "is not empty"), (own / "notes.txt", "is a file")):
            assert run_cli(command, *QUICK, "--out", out) == 2
            (line,) = capsys.readouterr().err.strip().splitlines()
            assert message in line
        assert (own / "notes.txt").read_text() == "mine"

    def test_overwriting_begins_anew_and_leaves_other_files_alone(self, tmp_path, capsys):
        out = tmp_path / "out"
        assert run_cli(*self.WORDS, *QUICK, "--out", out) == 0
        (out / "notes.txt").write_text("mine")
        words = (*self.WORDS[:-1], "2", *QUICK, "--out", out)
        assert run_cli(*words) == 2
        assert "another ablation" in capsys.readouterr().err
        assert run_cli(*words, "--overwrite") == 0
        assert (out / "notes.txt").read_text() == "mine"
