"""The commands `sweep`, `store` and `bench` print and write what the library's functions give."""

import json

import pytest

import actor_lens as al
from actor_lens import cli
from actor_lens.activations.store import Store, default_store
from actor_lens.training.config import FinetuneConfig
from actor_lens.training.run import TrainingRun

QUICK = ["--per-label", "8", "--epochs", "1", "--quiet"]


def run_cli(*words):
    try:
        return cli.main([str(word) for word in words])
    except SystemExit as stop:
        return stop.code


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
    monkeypatch.setenv("ACTOR_LENS_STORE", str(tmp_path / "store"))


class TestSweep:
    WORDS = ("sweep", "--layers", "2,4-5", "--alphas", "0.5,1", "--judge-best", "0", *QUICK)

    def test_json_is_what_the_function_gives_and_what_is_written(self, tmp_path, capsys):
        assert run_cli(*self.WORDS, "--json", "--out", tmp_path / "out") == 0
        record = json.loads(capsys.readouterr().out)
        assert record == json.loads((tmp_path / "out" / "summary.json").read_text())
        train, validation, _ = al.load_prompts("toy").by_split()
        sweep = al.sweep_layers(
            al.load_model("toy"),
            train.sample(8),
            validation,
            layers=[2, 4, 5],
            alphas=[0.5, 1.0],
            settings=FinetuneConfig(layer=0, epochs=1),
        )
        assert record["layer"] == sweep.best.layer
        assert record["layer_reason"] == sweep.reason
        assert record["model_settings"]["fingerprint"] == al.load_model("toy").fingerprint
        assert record["refused_before"] == pytest.approx(dict(sweep.refused_before))
        assert [row["tradeoff_score"] for row in record["outcomes"]] == pytest.approx(
            sweep.frame()["tradeoff_score"].tolist()
        )
        assert TrainingRun.load(tmp_path / "out" / "best").layer == sweep.best.layer
        page = (tmp_path / "out" / "sweep.html").read_text()
        assert f"layer {sweep.best.layer}" in page
        best = sweep.best_outcome.cell
        row = f'<tr class="chosen"><th scope="row">{best.layer} (best)</th><td>{best.alpha:g}</td>'
        assert page.count(" (best)</th>") == page.count(row) == 1
        assert "http://" not in page.split("plotly.js", 1)[0]

    def test_a_folder_goes_on_with_the_same_settings_or_is_overwritten(self, tmp_path, capsys):
        out = tmp_path / "out"
        assert run_cli(*self.WORDS, "--out", out) == 0
        first = (out / "sweep.jsonl").read_text()
        assert run_cli(*self.WORDS, "--out", out) == 0
        assert (out / "sweep.jsonl").read_text().split() == first.split()
        capsys.readouterr()
        assert run_cli(*self.WORDS, "--lr", "0.01", "--out", out) == 2
        assert "another sweep (differs in: settings)" in capsys.readouterr().err
        (out / "best" / "stray.txt").write_text("left by an older run")
        assert run_cli(*self.WORDS, "--lr", "0.01", "--out", out, "--overwrite") == 0
        assert not (out / "best" / "stray.txt").exists()
        assert TrainingRun.load(out / "best").config.lr == 0.01

    def test_the_table_has_a_row_a_cell_and_one_for_before(self, capsys):
        assert run_cli(*self.WORDS) == 0
        printed = capsys.readouterr().out
        assert "…" not in printed  # nothing is cut off in a terminal of 80 columns
        cells = [line.split("│") for line in printed.splitlines()]
        rows = [[cell.strip() for cell in row[1:4]] for row in cells if len(row) > 4]
        assert rows[0] == ["before", "", ""]
        assert sorted(float(alpha) for _, alpha, _ in rows[1:]) == [0.5] * 3 + [1.0] * 3
        assert {layer.strip(" *") for layer, *_ in rows[1:]} == {"2", "4", "5"}
        assert sum(layer.endswith(" *") for layer, *_ in rows) == 1

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--layers", "5-3"], "'5-3' is an empty range"),
            (["--layers", "x"], "'x' is not a whole number"),
            (["--layers", "11"], "layer 11 is out of range"),
            (["--alphas", "1,,2"], "'' is not a number"),
            (["--seeds", "-1"], "negative"),
            (["--engine", "cloud"], "engine 'cloud' is not known"),
            (["--model", "toy", "--models", "toy"], "not both"),
        ],
    )
    def test_wrong_words_give_one_line(self, words, message, capsys):
        assert run_cli("sweep", *words, *QUICK) == 2
        error = capsys.readouterr().err.strip().splitlines()
        assert len(error) == 1
        assert message in error[0]


class TestStore:
    @pytest.fixture
    def filled(self):
        model, prompts = al.load_model("toy"), al.load_prompts("toy").where(split="test")
        al.collect_block_inputs(model, prompts, 0)
        al.collect_block_inputs(model, prompts, 1)
        return default_store()

    def test_list_names_every_entry_with_its_size(self, filled, capsys):
        assert run_cli("store", "list", "--json") == 0
        record = json.loads(capsys.readouterr().out)
        assert record["folder"] == str(filled.folder)
        assert [entry["identity"]["layer"] for entry in record["entries"]] == [1, 0]
        assert record["bytes"] == sum(entry["bytes"] for entry in record["entries"])
        assert record["bytes"] > 10**6
        assert run_cli("store", "list") == 0
        out = capsys.readouterr().out
        assert "layer 0, toy" in " ".join(out.replace("│", " ").split())
        assert "2 entries" in out

    def test_verify_names_what_is_damaged_and_removes_nothing(self, filled, capsys):
        assert run_cli("store", "verify") == 0
        (path,) = filled.folder.glob(f"{filled.entries()[0].key}/array.bin")
        with path.open("r+b") as file:
            file.seek(1000)
            file.write(b"damage!")
        capsys.readouterr()
        assert run_cli("store", "verify") == 2
        error = capsys.readouterr().err
        assert "1 of 2 entries are damaged" in error
        assert filled.entries()[0].key in error
        assert len(filled.entries()) == 2

    def test_prune_keeps_what_was_used_last(self, filled, capsys):
        newest = filled.entries()[0]
        assert run_cli("store", "prune", "--limit", newest.nbytes, "--json") == 0
        removed = json.loads(capsys.readouterr().out)["removed"]
        assert [entry["identity"]["layer"] for entry in removed] == [0]
        assert [entry.key for entry in filled.entries()] == [newest.key]
        assert run_cli("store", "prune", "--limit", 0) == 0
        assert filled.entries() == []

    def test_another_folder_can_be_named(self, tmp_path, capsys):
        assert run_cli("store", "list", "--store", tmp_path / "other", "--json") == 0
        assert json.loads(capsys.readouterr().out)["folder"] == str(tmp_path / "other")
        assert isinstance(default_store(), Store)

    def test_a_wrong_size_and_no_store_give_one_line(self, capsys):
        assert run_cli("store", "prune", "--limit", "much") == 2
        assert "'much' is not a size" in capsys.readouterr().err
        assert run_cli("store", "list", "--store", "off") == 2
        assert "name a folder with --store" in capsys.readouterr().err


class TestBench:
    WORDS = ("bench", "--per-label", "4", "--rounds", "1", "--epochs", "1", "--quiet")

    def test_what_was_asked_for_is_measured_printed_and_written(self, tmp_path, capsys):
        words = [*self.WORDS, "--only", "collection,actor", "--out", tmp_path, "--predict", "50"]
        assert run_cli(*words) == 0
        text = capsys.readouterr().out
        record = json.loads((tmp_path / "summary.json").read_text())
        assert list(record["training"]) == ["actor"]
        assert record["predicted"]["prompts"] == 50
        assert record["setting"]["prompts"] == 12
        assert record["collection"]["tokens_per_second"] > 0
        assert record["machine"]["date"] in text
        assert "ACTOR, one layer" in text
        assert len((tmp_path / "bench.csv").read_text().splitlines()) == 2

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--only", "speed"], "part 'speed' is not known"),
            (["--rounds", "0"], "rounds is 0; give a whole number"),
            (["--layer", "40"], "layer 40 is out of range"),
        ],
    )
    def test_wrong_words_give_one_line(self, words, message, capsys):
        assert run_cli(*self.WORDS, *words) == 2
        assert message in capsys.readouterr().err
