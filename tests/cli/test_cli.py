"""Laws of the command line.

A wrong argument, file or model gives one line on the error stream, exit code 2 and no changed
file. What a command prints as JSON is what it writes. The numbers are those of the functions.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace

import pandas as pd
import pytest

import actor_lens as al
from actor_lens import cli
from actor_lens.activations.store import StoreWarning
from actor_lens.cli import layers_command
from actor_lens.models.batches import MemoryWarning
from actor_lens.prompts.rows import PromptWarning
from actor_lens.training.run import TrainingRun
from tests.support.tiny_models import tiny_chat_model, tiny_tokenizer

QUICK = ["--per-label", "12", "--epochs", "2", "--new-tokens", "8", "--quiet"]


def run_cli(*words):
    """Exit code of a command, whichever way it ends."""
    try:
        return cli.main([str(word) for word in words])
    except SystemExit as stop:
        return stop.code


@pytest.fixture(scope="module")
def few_prompts(tmp_path_factory):
    """A file with a dozen toy prompts of each label and split: quick to work on."""
    prompts = al.load_prompts("toy")
    few = [
        prompt
        for split in ("train", "validation", "test")
        for label in ("harmful", "pseudo_harmful", "benign")
        for prompt in prompts.where(label=label, split=split)[:12]
    ]
    path = tmp_path_factory.mktemp("prompts") / "few.jsonl"
    al.PromptSet(tuple(few)).save(path)
    return path


@pytest.fixture(scope="module")
def trained(few_prompts, tmp_path_factory):
    """The folder of a small finished run."""
    out = tmp_path_factory.mktemp("runs") / "trained"
    assert run_cli("train", "--prompts", few_prompts, "--layer", 3, "--out", out, *QUICK) == 0
    return out


def saved_model(folder, architecture="llama", tokenizer=None):
    model = tiny_chat_model(architecture)
    model.hf.save_pretrained(folder)
    (tokenizer or model.tokenizer).save_pretrained(folder)
    return folder


# ---- Quick to answer ----


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["train", "--help"], ["toy", "train", "--help"]]
)
def test_help_imports_nothing_heavy(words):
    program = (
        "import sys\n"
        "from actor_lens.cli import main\n"
        "try:\n"
        f"    main({words!r})\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code\n"
        "heavy = {'torch', 'pandas', 'plotly', 'transformers', 'transformer_lens', 'numpy'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_every_command_has_help(capsys):
    for words in (["demo"], ["layers"], ["train"], ["evaluate"], ["report"], ["toy", "train"]):
        assert run_cli(*words, "--help") == 0
        assert "--json" in capsys.readouterr().out


def options_of(parser):
    """Every option of a command line and of the commands below it."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from options_of(below)
        elif action.option_strings:
            yield action


def test_the_help_of_an_option_says_what_it_is_before_its_default():
    options = list(options_of(cli._parser()))
    assert {"--alpha", "--lr", "--store", "--device-map"} <= {
        name for option in options for name in option.option_strings
    }
    bare = [option.option_strings for option in options if option.help.startswith("default")]
    assert bare == []


# ---- What is handed on ----


def asked_of_load_model(words, monkeypatch):
    """What `load_model` is given, and which store it would find."""
    asked = []

    def record(_name, **options):
        asked.append({**options, "store": os.environ["ACTOR_LENS_STORE"]})
        raise al.UserError("enough")

    monkeypatch.setattr("actor_lens.models.chat_model.load_model", record)
    monkeypatch.setenv("ACTOR_LENS_STORE", "as it was")
    assert run_cli("layers", "--quiet", *words) == 2
    (options,) = asked
    return options


@pytest.mark.parametrize(
    ("words", "size"), [([], None), (["--batch-size", "auto"], None), (["--batch-size", "7"], 7)]
)
def test_an_automatic_batch_size_is_left_to_the_library(words, size, monkeypatch):
    assert asked_of_load_model(words, monkeypatch)["batch_size"] == size


def test_the_store_is_set_before_the_model_is_loaded(monkeypatch):
    assert asked_of_load_model(["--store", "off"], monkeypatch)["store"] == "off"
    assert asked_of_load_model(["--store", "some/where"], monkeypatch)["store"] == "some/where"
    assert asked_of_load_model([], monkeypatch)["store"] == "as it was"


def test_a_device_map_is_handed_on_only_when_given(monkeypatch):
    given = asked_of_load_model(["--device-map", "auto"], monkeypatch)
    assert given["device_map"] == "auto"
    assert "device_map" not in asked_of_load_model([], monkeypatch)


# ---- Bad input ----


def one_line_error(capsys):
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.strip().splitlines()
    assert len(lines) == 1, printed.err
    assert lines[0].startswith("actor-lens: error: ")
    return lines[0]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "COMMAND"),
        (["fly"], "fly"),
        (["train", "--layer", "x"], "--layer"),
        (["train", "--epochs", "many"], "--epochs"),
        (["train", "--batch-size", "0"], "--batch-size"),
        (["train", "--seed", "-1"], "--seed"),
        (["train", "--layer", "99"], "layers 0 to 7"),
        (["train", "--layer", "-1"], "layer is -1"),
        (["train", "--alpha", "0"], "alpha"),
        (["train", "--alpha", "nan"], "alpha"),
        (["train", "--lr", "inf"], "lr"),
        (["train", "--lr", "-0.1"], "lr"),
        (["train", "--epochs", "0"], "epochs"),
        (["train", "--origin", "north"], "benign_mean"),
        (["train", "--anchor", "north"], "initial"),
        (["train", "--shift", "north"], "projected"),
        (["train", "--refresh", "north"], "epoch"),
        (["train", "--safety-floor", "2"], "safety_floor"),
        (["train", "--per-label", "1"], "at least 2"),
        (
            ["layers", "--position", "-9", "--quiet"],
            "position is -9; give a whole number from -3 to -1",
        ),
        (
            ["layers", "--position", "end", "--quiet"],
            "'end' is not known; use last, instruction, refusal",
        ),
        (["layers", "--subspace", "3,99", "--quiet"], "layer 99 is out of range"),
        (  # before the model is loaded
            ["layers", "--position", "instruction", "--by", "causal", "--model", "no-such/model"],
            "--by causal and --alpha are of the causal score",
        ),
        (
            ["layers", "--position", "-2", "--alpha", "0.5", "--model", "no-such/model"],
            "leave them out, or --position -2",
        ),
        (["layers", "--per-label", "0"], "--per-label: 0 is not a whole number of at least 1"),
        (["train", "--per-label", "evil=3"], "evil"),
        (["train", "--layer", "foo"], "'foo' is not a whole number, or auto"),
        (["train", "--batch-size", "foo"], "'foo' is not a whole number, or auto"),
        (["train", "--by", "vibes"], "silhouette"),
        (["train", "--device", "abacus"], "abacus"),
        (["train", "--dtype", "int3"], "float32"),
        (["train", "--new-tokens", "0"], "--new-tokens"),
        (["train", "--model", "no-such/model"], "no-such/model"),
        (["train", "--model", "no/such/folder"], "no/such/folder"),
        (["train", "--prompts", "no-such.jsonl"], "no-such.jsonl"),
        (["train", "--chat-template", "no-such.jinja"], "no-such.jinja"),
        (["train", "--resume"], "--out"),
        (["train", "--no-evaluate", "--report"], "--no-evaluate"),
        (["evaluate", "--run", "no-such-run"], "no-such-run"),
        (["report"], "--run"),
        (["enough", "--layer", "99", "--quiet"], "layers 0 to 7"),
        (["enough", "--gammas", "0.5,0.2", "--quiet"], "from small to large"),
        (["enough", "--gammas", ""], "--gammas"),
        (["enough", "--layer", "4", "--split", "north", "--quiet"], "unknown split"),
        (["toy"], "COMMAND"),
        (["toy", "train"], "--out"),
    ],
)
def test_a_wrong_argument_is_one_line_and_writes_nothing(
    words, named, few_prompts, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    if "--prompts" not in words and words[:1] in (["train"], ["evaluate"]):
        words = [*words, "--prompts", str(few_prompts)]
    if words[:1] == ["train"]:
        words = [*words, "--quiet"]
        words = [*words, "--out", "out"] if "--resume" not in words else words
    assert run_cli(*words) == 2
    assert named in one_line_error(capsys)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "empty"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b'{"prompt": "a", "label": "benign"}\n{"prompt": ', "2"),
        (b'{"prompt": "a", "label": "bad"}\n', "pseudo_harmful"),
        (b'{"prompt": " ", "label": "benign"}\n', "1"),
        (b'{"prompt": "a", "label": "benign"}\n', "at least 3"),
    ],
)
def test_a_broken_prompt_file_is_one_line_that_names_it(content, named, tmp_path, capsys):
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(content)
    assert run_cli("layers", "--prompts", path, "--quiet") == 2
    line = one_line_error(capsys)
    assert "prompts.jsonl" in line
    assert named in line


def test_an_overlong_prompt_names_the_limit(few_prompts, tmp_path, capsys):
    path = tmp_path / "long.jsonl"
    long = {"prompt": "kill " * 5000, "label": "harmful", "split": "train"}
    path.write_text(json.dumps(long) + "\n" + few_prompts.read_text())
    assert run_cli("layers", "--prompts", path, "--per-label", "all", "--quiet") == 2
    assert str(al.load_model("toy").max_tokens) in one_line_error(capsys)


def test_broken_model_folders_are_one_line(tmp_path, capsys):
    def fails(folder, named):
        assert run_cli("layers", "--model", folder, "--prompts", "toy", "--quiet") == 2
        assert named in one_line_error(capsys)

    empty = tmp_path / "empty"
    empty.mkdir()
    fails(empty, "config.json")
    weightless = saved_model(tmp_path / "weightless")
    (weightless / "model.safetensors").unlink()
    fails(weightless, "safetensors")
    no_tokenizer = saved_model(tmp_path / "no-tokenizer")
    for path in no_tokenizer.glob("tokenizer*"):
        path.unlink()
    fails(no_tokenizer, "tokenizer")
    fails(saved_model(tmp_path / "plain", tokenizer=tiny_tokenizer(None)), "chat template")
    encoder = saved_model(tmp_path / "encoder")
    config = json.loads((encoder / "config.json").read_text())
    config.update(architectures=["BertForMaskedLM"], model_type="bert")
    (encoder / "config.json").write_text(json.dumps(config))
    fails(encoder, "causal")


def test_a_model_that_refuses_nothing_is_told_so(tmp_path, few_prompts, capsys):
    folder = saved_model(tmp_path / "random")
    assert run_cli("layers", "--model", folder, "--prompts", few_prompts, "--quiet") == 2
    assert "refused none" in one_line_error(capsys)


def test_a_run_of_another_model_is_refused(trained, tmp_path, capsys):
    folder = saved_model(tmp_path / "other")
    words = ["evaluate", "--run", trained, "--model", folder, "--prompts", "toy", "--quiet"]
    assert run_cli(*words) == 2
    assert "does not fit" in one_line_error(capsys)


def test_a_folder_with_files_is_not_written_over(trained, few_prompts, capsys):
    before = {path.name: path.read_bytes() for path in trained.iterdir()}
    assert run_cli("train", "--prompts", few_prompts, "--out", trained, *QUICK) == 2
    assert "--overwrite" in one_line_error(capsys)
    assert {path.name: path.read_bytes() for path in trained.iterdir()} == before


def test_out_that_is_a_file_is_refused(tmp_path, capsys):
    path = tmp_path / "taken"
    path.write_text("mine")
    assert run_cli("train", "--out", path, "--quiet") == 2
    assert "is a file" in one_line_error(capsys)
    assert path.read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_out_that_cannot_be_written_is_refused(tmp_path, capsys):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert run_cli("train", "--out", locked / "out", "--quiet") == 2
    assert "cannot be written" in one_line_error(capsys)


def test_out_below_a_file_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run_cli("train", "--out", tmp_path / "file" / "out", "--quiet") == 2
    assert "cannot be written" in one_line_error(capsys)


# ---- Results ----


def test_train_writes_a_run_and_a_summary(trained):
    names = {path.name for path in trained.iterdir()}
    assert {"block.safetensors", "run.json", "history.csv", "summary.json"} <= names
    summary = json.loads((trained / "summary.json").read_text())
    run = TrainingRun.load(trained)
    assert summary["layer"] == run.layer == 3
    assert summary["parameters_changed_outside_layer"] == 0
    assert summary["trained_parameters"] == run.trained_parameters
    assert summary["before"]["harmful"]["n"] == 12
    assert summary["train_prompts"] == {"harmful": 12, "pseudo_harmful": 12, "benign": 12}
    assert all(name.startswith("model.layers.3.") for name in run.state)
    assert set(summary["seconds"]) >= {"load", "collect", "train", "evaluate"}


def test_train_asks_as_few_test_prompts_as_wanted(few_prompts, trained, tmp_path):
    words = ["train", "--prompts", few_prompts, "--layer", 3, "--out", tmp_path / "few", *QUICK]
    assert run_cli(*words, "--test-per-label", "3") == 0
    summary = json.loads((tmp_path / "few" / "summary.json").read_text())
    assert [summary["before"][label]["n"] for label in ("harmful", "benign")] == [3, 3]
    # What is trained does not depend on it.
    assert TrainingRun.load(tmp_path / "few").fingerprint == TrainingRun.load(trained).fingerprint


def test_evaluate_prints_the_rates_that_train_wrote(trained, few_prompts, capsys):
    words = ["evaluate", "--run", trained, "--prompts", few_prompts, "--new-tokens", "8"]
    assert run_cli(*words, "--json", "--quiet") == 0
    printed = json.loads(capsys.readouterr().out)
    written = json.loads((trained / "summary.json").read_text())
    for key in ("before", "after", "compliance_rate", "safety_score", "tradeoff_score", "judge"):
        assert printed[key] == written[key]


def test_evaluate_without_a_run_has_no_after(few_prompts, capsys):
    words = ["evaluate", "--prompts", few_prompts, "--new-tokens", "8", "--json", "--quiet"]
    assert run_cli(*words) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["after"] == {}
    assert printed["safety_score"]["after"] is None
    assert printed["score_agreement"]["n"] > 0
    assert 0 <= printed["score_agreement"]["accuracy"] <= 1
    assert run_cli(*words[:-2]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Refusal scores above 0 agree with the judge on" in text


def test_layers_writes_what_it_prints(few_prompts, tmp_path, capsys):
    out = tmp_path / "layers"
    words = ["layers", "--prompts", few_prompts, "--out", out, "--json", "--quiet"]
    assert run_cli(*words) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((out / "summary.json").read_text())
    n_layers = al.load_model("toy").n_layers
    assert {score["layer"] for score in printed["scores"]} == set(range(n_layers))
    assert printed["layer"] in printed["layer_ties"]
    assert {path.name for path in out.iterdir()} == {"summary.json", "layers.csv", "layers.html"}


def test_layers_reads_another_token_and_counts_directions(few_prompts, tmp_path, capsys):
    """The causal score is of the last token: another position is scored without it."""
    out = tmp_path / "layers"
    words = ["layers", "--position", "instruction", "--subspace", "3,3"]
    assert run_cli(*words, "--prompts", few_prompts, "--quiet") == 2
    assert "are of one kind each" in capsys.readouterr().err  # before the look
    prompts = [
        replace(prompt, category=f"kind {place % 2}") if prompt.split == "train" else prompt
        for place, prompt in enumerate(al.load_prompts(few_prompts))
    ]
    path = tmp_path / "kinds.jsonl"
    al.PromptSet(tuple(prompts)).save(path)
    assert run_cli(*words, "--prompts", path, "--out", out, "--quiet") == 0
    printed = capsys.readouterr().out
    assert "Layer scores at the end of the instruction" in " ".join(printed.split())
    assert "AUROC on so many directions" in printed
    record = json.loads((out / "summary.json").read_text())
    assert record["position"] == "instruction"
    assert "causal" not in {score["score"] for score in record["scores"]}
    pairs = [one["pair"] for one in record["subspaces"]]
    assert len(pairs) == len(set(pairs)) == 3
    table = pd.read_csv(out / "subspaces.csv")
    assert table["pair"].unique().tolist() == pairs
    page = (out / "layers.html").read_text()
    assert "Is one direction enough?" in page
    assert "Read at the end of the instruction" in page
    assert "causal score" not in page
    assert "that is trained" not in page


def test_lens_writes_one_page_with_the_run_and_every_layer(trained, few_prompts, tmp_path, capsys):
    words = ["lens", "--run", trained, "--prompts", few_prompts, "--new-tokens", "8", "--quiet"]
    assert run_cli(*words, "--per-label", "12", "--sweep", "--json", "--out", tmp_path) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["page"] == str(tmp_path / "lens.html")
    assert [run["layer"] for run in printed["runs"]] == [3]
    page = (tmp_path / "lens.html").read_text()
    for panel in ("layers", "prompts", "scores", "outcomes", "moved", "rates", "tokens"):
        assert f'id="plot-{panel}"' in page
    assert "Training of layer 3" in page
    assert "each was trained, and layer" in page
    # Pages and evaluations make a gallery, and no model is asked.
    rates = {"harmful": {"refused": 1.0, "low": 0.8, "high": 1.0, "n": 16}}
    record = {"model": "another", "layer": None, "before": rates, "after": {}}
    (tmp_path / "summary.json").write_text(json.dumps(record))
    words = ["lens", "--json", "--quiet", "--out", str(tmp_path / "gallery.html"), "--run"]
    assert run_cli(*words, tmp_path / "lens.html", tmp_path) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [(run["model"], run["layer"]) for run in runs] == [("toy", 3), ("another", None)]
    assert "2 runs side by side" in (tmp_path / "gallery.html").read_text()
    assert run_cli(*words, tmp_path) == 2  # one evaluation alone
    (line,) = capsys.readouterr().err.splitlines()
    assert "rates without panels" in line
    (tmp_path / "summary.json").unlink()
    assert run_cli(*words, tmp_path / "lens.html", tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no run.json there" in line


def test_enough_writes_what_it_prints(few_prompts, tmp_path, capsys):
    out = tmp_path / "enough"
    words = ["enough", "--prompts", few_prompts, "--layer", "4", "--new-tokens", "12", "--quiet"]
    assert run_cli(*words, "--out", out, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((out / "summary.json").read_text())
    rows = pd.read_csv(out / "enough.csv")
    assert len(rows) == printed["n_refused"] <= printed["n_harmless"] == 24
    assert rows["gamma"].isna().sum() == printed["n_not_enough"]
    assert set(rows["gamma"].dropna()) <= set(printed["tried"])
    assert "How much is enough" in (out / "enough.html").read_text()
    assert run_cli(*words) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"{printed['n_refused']} of 24 harmless validation prompts are refused" in text
    assert f"alpha {printed['alpha']:.2g}" in text


def test_train_with_a_fitted_origin_records_where_it_lies(few_prompts, tmp_path):
    out = tmp_path / "fitted"
    words = ["train", "--prompts", few_prompts, "--layer", "4", "--origin", "fitted"]
    assert run_cli(*words, "--no-evaluate", "--epochs", "1", "--out", out, "--quiet") == 0
    run = al.TrainingRun.load(out)
    assert run.config.origin == "fitted"
    train = al.load_prompts(str(few_prompts)).where(split="train")
    model = al.load_model("toy")
    directions = al.refusal_directions(al.collect_residuals(model, train))
    shift = al.just_enough_shift(model, train, directions, 4)
    assert run.origin_place == pytest.approx(shift.origin_place, rel=1e-6)
    assert run_cli("report", "--run", out, "--prompts", few_prompts, "--out", tmp_path / "r") == 0
    assert "fitted origin" in (tmp_path / "r" / "report.html").read_text()


def test_report_of_a_run_is_one_file(trained, few_prompts, tmp_path):
    out = tmp_path / "report"
    words = ["report", "--run", trained, "--prompts", few_prompts, "--out", out]
    assert run_cli(*words, "--new-tokens", "8", "--quiet") == 0
    assert [path.name for path in out.iterdir()] == ["report.html"]


def test_report_does_not_write_over_another_folder(trained, few_prompts, tmp_path, capsys):
    (tmp_path / "report.html").write_text("mine")
    words = ["report", "--run", trained, "--prompts", few_prompts, "--out", tmp_path, "--quiet"]
    assert run_cli(*words) == 2
    assert "--overwrite" in one_line_error(capsys)
    assert (tmp_path / "report.html").read_text() == "mine"


def test_a_report_on_other_prompts_than_those_trained_on_is_refused(trained, tmp_path, capsys):
    words = ["report", "--run", trained, "--prompts", "toy", "--out", tmp_path / "r", "--quiet"]
    assert run_cli(*words) == 2
    assert "other prompts" in one_line_error(capsys)


def test_a_run_on_a_file_asks_for_that_file(trained, capsys):
    assert run_cli("evaluate", "--run", trained, "--quiet") == 2
    assert "few.jsonl" in one_line_error(capsys)


def test_older_results_do_not_stay_beside_new_weights(trained, few_prompts, tmp_path):
    out = tmp_path / "again"
    shutil.copytree(trained, out)
    (out / "report.html").write_text("old")
    words = ["train", "--prompts", few_prompts, "--layer", 2, "--out", out, "--overwrite"]
    assert run_cli(*words, "--no-evaluate", *QUICK) == 0
    names = {path.name for path in out.iterdir()}
    assert not names & {"report.html", "evaluation.csv", "layers.csv"}


def test_no_evaluate_trains_and_saves_only(few_prompts, tmp_path, capsys):
    out = tmp_path / "a bare run"
    words = ["train", "--prompts", few_prompts, "--layer", 2, "--out", out, "--no-evaluate"]
    assert run_cli(*words, *QUICK) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert "before" not in summary
    assert TrainingRun.load(out).status == "completed"
    printed = capsys.readouterr().out
    assert "Trained" in printed
    # The command at the end works as it is printed, and asks as this one would.
    program, *hinted = shlex.split(printed.splitlines()[-1].removeprefix("As a page: "))
    assert program == "actor-lens"
    assert hinted[hinted.index("--new-tokens") + 1] == QUICK[QUICK.index("--new-tokens") + 1]
    assert run_cli(*hinted, "--quiet") == 0
    assert (out / "report.html").is_file()


def test_the_same_seed_gives_the_same_run(trained, few_prompts, tmp_path):
    again = tmp_path / "again"
    assert run_cli("train", "--prompts", few_prompts, "--layer", 3, "--out", again, *QUICK) == 0
    assert (again / "block.safetensors").read_bytes() == (
        trained / "block.safetensors"
    ).read_bytes()


def test_an_interrupted_run_is_saved_and_continues(trained, few_prompts, tmp_path, monkeypatch):
    """Ctrl-C after step 3; then --resume ends where an uninterrupted run ends."""
    out = tmp_path / "stopped"
    words = ["train", "--prompts", few_prompts, "--layer", 3, "--out", out, *QUICK]
    from actor_lens.cli.progress import ProgressBars

    def interrupt(_self, step):
        if step.step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ProgressBars, "step", interrupt)
        assert run_cli(*words) == 130
    assert TrainingRun.load(out).status == "stopped"
    assert not (out / "summary.json").exists()
    assert run_cli(*words, "--resume") == 0
    assert (out / "block.safetensors").read_bytes() == (trained / "block.safetensors").read_bytes()


def interrupt_at(stage, monkeypatch):
    """Ctrl-C as soon as progress of a stage is told."""
    from actor_lens.cli.progress import ProgressBars

    def interrupt(_self, name, _done, _total):
        if name == stage:
            raise KeyboardInterrupt

    monkeypatch.setattr(ProgressBars, "stage", interrupt)


@pytest.mark.parametrize(
    ("command", "stage"),
    [
        ("demo", "replies (raw formula)"),
        ("demo", "replies (before)"),
        ("train", "replies (before)"),
    ],
)
def test_ctrl_c_after_training_names_the_folder_with_the_run(
    command, stage, few_prompts, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "main run"
    interrupt_at(stage, monkeypatch)
    words = [command, "--prompts", few_prompts, "--layer", 3, "--out", out, *QUICK]
    assert run_cli(*words) == 130
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("actor-lens: interrupted; ")
    assert f"saved in {out}" in line
    assert TrainingRun.load(out).status == "completed"
    assert not (out / "summary.json").exists()


@pytest.mark.parametrize(
    ("stage", "out"), [("residuals (train)", ["--out", "run"]), ("replies (before)", [])]
)
def test_ctrl_c_with_no_run_saved_promises_none(
    stage, out, few_prompts, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    interrupt_at(stage, monkeypatch)
    assert run_cli("train", "--prompts", few_prompts, "--layer", 3, *out, *QUICK) == 130
    assert capsys.readouterr().err == "actor-lens: interrupted\n"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_full_disk_leaves_the_old_results(trained, few_prompts, tmp_path, monkeypatch, capsys):
    out = tmp_path / "full"
    shutil.copytree(trained, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def no_room(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no_room)
    words = ["train", "--prompts", few_prompts, "--layer", 2, "--out", out, "--overwrite", *QUICK]
    assert run_cli(*words) == 2
    assert "No space left" in one_line_error(capsys)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_warnings_come_before_the_first_step(few_prompts, tmp_path, monkeypatch):
    """The raw formula is warned of while there is still time to stop."""
    from actor_lens.cli.progress import ProgressBars

    told = []
    monkeypatch.setattr(ProgressBars, "warn", lambda _self, text: told.append(text))
    monkeypatch.setattr(ProgressBars, "step", lambda _self, step: told.append(step.step))
    words = ["train", "--prompts", few_prompts, "--layer", 4, "--shift", "uniform", *QUICK]
    assert run_cli(*words, "--no-evaluate", "--alpha", "3", "--out", tmp_path / "out") == 0
    assert "layer 4" in told[0]
    assert 1 in told


def test_ctrl_c_outside_training_is_quiet(monkeypatch, capsys):
    def interrupted(_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(layers_command, "layers", interrupted)
    assert run_cli("layers", "--quiet") == 130
    assert capsys.readouterr().err == "actor-lens: interrupted\n"


@pytest.mark.filterwarnings("always")
@pytest.mark.parametrize("category", [StoreWarning, MemoryWarning, PromptWarning])
def test_a_warning_of_the_library_is_one_line(category, monkeypatch, capsys):
    monkeypatch.setattr(
        layers_command, "layers", lambda _: warnings.warn("no\nroom", category, stacklevel=1)
    )
    assert run_cli("layers") == 0
    printed = capsys.readouterr()
    assert printed.err == "actor-lens: warning: no room\n"
    assert printed.out == ""


@pytest.mark.parametrize("category", [UserWarning, DeprecationWarning])
def test_other_warnings_are_left_as_they_are(category, monkeypatch, capsys):
    monkeypatch.setattr(
        layers_command, "layers", lambda _: warnings.warn("theirs", category, stacklevel=1)
    )
    with pytest.warns(category, match="theirs"):
        assert run_cli("layers") == 0
    assert "actor-lens" not in capsys.readouterr().err


def test_quiet_tells_the_libraries_to_draw_no_bars(monkeypatch):
    for name in cli._NO_BARS:
        monkeypatch.setenv(name, "0")
    seen = []
    monkeypatch.setattr(
        layers_command, "layers", lambda _: seen.append([os.environ[n] for n in cli._NO_BARS])
    )
    assert run_cli("layers") == 0
    assert run_cli("layers", "--quiet") == 0
    assert seen == [["0"] * 3, ["1"] * 3]


@pytest.mark.filterwarnings("always")
def test_the_warnings_of_whoever_called_main_are_as_before(monkeypatch, capsys):
    monkeypatch.setattr(layers_command, "layers", lambda _: None)
    before = warnings.showwarning
    assert run_cli("layers") == 0
    assert warnings.showwarning is before
    with pytest.warns(StoreWarning, match="later"):
        warnings.warn("later", StoreWarning, stacklevel=1)
    assert capsys.readouterr().err == ""


def test_a_reader_that_goes_away_is_no_error():
    process = subprocess.Popen(
        [sys.executable, "-m", "actor_lens", "--help"], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(timeout=60) in (0, 120)  # 120: Python could not flush the closed pipe


def examples() -> list[str]:
    lines = [line.strip() for one in cli.COMMAND_MODULES for line in one.__doc__.splitlines()]
    return [line for line in lines if line.startswith("actor-lens ")]


def command_functions(parser: argparse.ArgumentParser) -> set[object]:
    """The functions of all commands below a parser."""
    groups = [one for one in parser._actions if isinstance(one, argparse._SubParsersAction)]
    below = [child for group in groups for child in group.choices.values()]
    if not below:
        return {parser.get_default("run_command")}
    return set().union(*(command_functions(child) for child in below))


def test_every_command_has_examples_that_the_parser_takes():
    parser = cli._parser()
    shown = {parser.parse_args(shlex.split(line)[1:]).run_command for line in examples()}
    assert shown == command_functions(parser)


@pytest.mark.parametrize("words", ["export", "prompts check", "train"])
def test_help_ends_with_the_examples_of_the_command_alone(words, capsys):
    assert run_cli(*words.split(), "--help") == 0
    printed = capsys.readouterr().out.partition("examples:")[2].splitlines()
    lines = [line.strip() for line in printed if line.strip()]
    assert lines == [line for line in examples() if line.startswith(f"actor-lens {words} ")]
