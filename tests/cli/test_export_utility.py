"""The export and utility commands write what the functions of the library write."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from actor_lens import cli
from actor_lens.cli.export_command import FORMS
from actor_lens.evaluation import mt_bench
from actor_lens.models.chat_model import load_model
from actor_lens.prompts.public.rows import Row
from actor_lens.training.run import TrainingRun
from tests.support.judge_server import judge_server, reach_loopback, said
from tests.support.tiny_models import CHAT_TEMPLATE, tiny_chat_model, tiny_tokenizer
from tests.support.tiny_runs import copied_tensors, quick_run, same_bits


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch):
    """Loading a model is an error: what is wrong with the arguments must show before it."""
    monkeypatch.delattr("actor_lens.models.chat_model.load_model")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = quick_run(load_model("toy"), layer=3, lr=1e-3)
    folder = tmp_path_factory.mktemp("runs") / "run"
    run.save(folder)
    return folder


def command(*words: object) -> int:
    return cli.main([*map(str, words), "--quiet"])


def test_each_form_is_written_with_a_card(run_folder: Path, tmp_path: Path, capsys):
    run = TrainingRun.load(run_folder)
    for form in FORMS:
        words = ("--as", form, "--out", tmp_path / form, "--json", "--prompts", "toy")
        assert command("export", "--run", run_folder, "--model", "toy", *words) == 0
        assert json.loads(capsys.readouterr().out)["form"] == form
        assert "| layer | 3 |" in (tmp_path / form / "README.md").read_text()
    written = load_file(tmp_path / "delta" / "delta.safetensors")
    assert same_bits(written, dict(run.state))
    model = load_model("toy")
    with run.applied_to(model):
        assert same_bits(copied_tensors(load_model(tmp_path / "model")), copied_tensors(model))
    assert (tmp_path / "lora" / "adapter_config.json").exists()


PUSH = ("--push-to-hub", "me/it")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--as", "delta"), "--out is missing"),
        (("--as", "delta", "--out", "new", *PUSH), "--base-model owner/name"),
        (("--as", "delta", "--out", "new", "--push-to-hub", "it"), "'it' is no name on the hub"),
        (("--as", "delta", "--out", "new", *PUSH, "--base-model", "org/b"), "HF_TOKEN"),
        (("--as", "model", "--out", "new", "--public"), "add --push-to-hub OWNER/NAME"),
        (("--as", "lora", "--out", "new", "--rank", "0"), "rank is 0; give"),
        (("--as", "lora", "--out", "new", "--error", "2"), "error is 2; give"),
        (("--as", "lora", "--out", "full"), "full: is not empty; give another folder, or"),
        (("--as", "lora", "--out", "full", "--overwrite"), "holds no adapter (no adapter_config"),
    ],
)
@pytest.mark.usefixtures("no_model")
def test_what_is_wrong_is_told_before_a_model_is_loaded(
    run_folder: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch, words, message: str
):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    assert command("export", "--run", run_folder, "--model", "toy", *words) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_the_token_is_not_shown(run_folder: Path, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    words = ("--as", "delta", "--out", tmp_path / "out", "--push-to-hub", "me/it")
    assert command("export", "--run", run_folder, *words) == 2
    assert "hf_secret" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--text", "none.txt"), "none.txt: cannot be read"),
        (("--window", "8"), "--window is about the perplexity of a text; add --text FILE"),
        (("--stride", "8"), "--stride is about"),
        (("--limit", "3"), "--limit is about benchmarks; add --tasks NAME"),
        (("--num-fewshot", "0"), "--num-fewshot is about benchmarks"),
        (("--include-path", "."), "--include-path is about benchmarks"),
        (("--chat",), "--chat is about benchmarks"),
        (("--judge", "keywords"), "--judge is about MT-Bench; add --mt-bench FILE"),
        (("--mt-bench-tokens", "9"), "--mt-bench-tokens is about MT-Bench"),
        (("--mt-bench", "there.jsonl"), "'keywords' gives no ratings, and MT-Bench is rated by a"),
        (("--mt-bench", "q.jsonl"), "q.jsonl: no such file or folder"),
        (("--mt-bench", "q.jsonl", "--judge", "llm:m"), "q.jsonl: no such file or folder"),
    ],
)
@pytest.mark.usefixtures("no_model")
def test_utility_tells_what_would_be_passed_over_before_a_model_is_loaded(
    run_folder: Path, tmp_path: Path, capsys, monkeypatch, words, message: str
):
    monkeypatch.chdir(tmp_path)
    row = {"category": "writing", "turns": ["How do I bake bread?", "And a cake?"]}
    (tmp_path / "there.jsonl").write_text(json.dumps(row))
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    monkeypatch.setenv("ACTOR_LENS_VERDICTS", str(tmp_path / "verdicts.sqlite"))
    assert command("utility", "--run", run_folder, *words, "--out", "out") == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--new-tokens", "0"), "--new-tokens: 0 is not a whole number of at least 1"),
        (("--limit", "0"), "--limit: 0 is not a whole number of at least 1"),
        (("--window", "x"), "--window: 'x' is not a whole number"),
    ],
)
def test_numbers_out_of_range_are_told_at_once(capsys, words, message: str):
    with pytest.raises(SystemExit) as ended:
        command("utility", "--run", "nowhere", *words)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_window_that_cannot_be_is_told_before_anything_is_measured(
    run_folder: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delattr("actor_lens.evaluation.utility.next_token_divergence")
    (tmp_path / "text.txt").write_text("Mix flour and water.")
    words = ("--prompts", "toy", "--text", tmp_path / "text.txt", "--window", "1")
    assert command("utility", "--run", run_folder, "--model", "toy", *words) == 2
    assert "window is 1; give a whole number from 2 to " in capsys.readouterr().err


def test_a_run_is_taken_up_with_the_system_prompt_that_it_was_trained_with(tmp_path: Path, capsys):
    out = tmp_path / "run"
    base = ("--prompts", "toy", "--new-tokens", 2)
    quick_run(load_model("toy", system_prompt="Be kind."), layer=3, epochs=1).save(out)
    assert command("utility", *base, "--run", out, "--json") == 0
    assert json.loads(capsys.readouterr().out)["utility"]
    assert command("utility", *base, "--run", out, "--system-prompt", "Be rude.") == 2
    assert "with another system prompt" in capsys.readouterr().err
    words = ("--as", "delta", "--out", tmp_path / "delta")
    assert command("export", "--run", out, *words) == 0
    assert "| system prompt | Be kind. |" in (tmp_path / "delta" / "README.md").read_text()


def test_a_run_is_taken_up_with_the_chat_template_that_it_was_trained_with(tmp_path: Path, capsys):
    folder, out, template = tmp_path / "model", tmp_path / "run", tmp_path / "own.jinja"
    tiny_chat_model().hf.save_pretrained(folder)
    tiny_tokenizer(chat_template=None).save_pretrained(folder)
    template.write_text(CHAT_TEMPLATE)
    quick_run(load_model(folder, chat_template=template), epochs=1).save(out)
    template.write_text(CHAT_TEMPLATE.replace("<end>", "<stop>"))  # the run has its own copy
    base = ("--prompts", "toy", "--run", out)
    assert command("utility", *base, "--new-tokens", 2, "--json") == 0
    assert json.loads(capsys.readouterr().out)["utility"]
    assert command("utility", *base, "--chat-template", template) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "with another chat template" in line
    assert "without --chat-template it is that of the run" in line
    assert command("export", "--run", out, "--as", "model", "--out", tmp_path / "whole") == 0
    assert load_model(tmp_path / "whole").tokenizer.chat_template == CHAT_TEMPLATE


def test_a_run_is_never_put_into_quantised_weights(run_folder: Path, capsys):
    words = ("--prompts", "toy", "--quantization", "8bit", "--quiet")
    assert command("evaluate", "--run", run_folder, "--model", "toy", *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "load the model without --quantization" in line


def test_utility_is_printed_and_written(run_folder: Path, tmp_path: Path, capsys):
    text = tmp_path / "[red]text.txt"  # which rich would take for markup
    text.write_text("How do I bake bread? Mix flour and water.\n")
    words = ("--prompts", "toy", "--text", text, "--new-tokens", 2, "--out", tmp_path / "out")
    assert command("utility", "--run", run_folder, "--model", "toy", *words, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record == json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [row["unit"] for row in record["utility"]] == ["nats", "nats", "perplexity"]
    assert (tmp_path / "out" / "utility.csv").exists()
    assert record["claim"].startswith("MT-Bench, which the paper says stays within 1.5 %, was not")
    words = ("--prompts", "toy", "--text", text, "--new-tokens", 2)
    assert command("utility", "--run", run_folder, "--model", "toy", *words) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "perplexity of [red]text.txt" in printed
    assert record["claim"] in printed


def test_mt_bench_is_fetched_once_and_stands_beside_the_papers_figures(
    run_folder: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    row = {"category": "writing", "prompt": ["How do I bake bread?", "And a cake?"]}
    fetched = []

    def hub_rows(benchmark):
        fetched.append(benchmark.hub)
        return [Row(row, "train", "row 0")], benchmark.hub

    monkeypatch.setattr(mt_bench, "hub_rows", hub_rows)
    reach_loopback(monkeypatch)
    monkeypatch.setenv("ACTOR_LENS_VERDICTS", str(tmp_path / "verdicts.sqlite"))
    words = ("--prompts", "toy", "--new-tokens", 1, "--mt-bench", "hub")
    words = (*words, "--judge", "llm:m", "--mt-bench-tokens", 4, "--out", tmp_path / "out")
    with judge_server(lambda *_: said('{"verdict": 7}')) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        assert command("utility", "--run", run_folder, "--model", "toy", *words) == 0
    assert len(fetched) == 1
    printed = " ".join(capsys.readouterr().out.split())
    record = json.loads((tmp_path / "out" / "summary.json").read_text())
    rated = {one["measure"]: one for one in record["utility"] if one["unit"] == "rating of 10"}
    names = ("MT-Bench", "MT-Bench, turn 1", "MT-Bench, turn 2", "MT-Bench, writing")
    assert tuple(rated) == names
    assert [(one["before"], one["after"]) for one in rated.values()] == [(7.0, 7.0)] * 4
    assert record["judge"].startswith("llm:m:rubric-v")
    assert "The paper on Llama-2-7b-chat" in printed
    assert "6.23" in printed
    assert "46.81" not in printed  # MMLU was not measured
    assert record["claim"] in printed
