"""The command line takes a judge by its name, says what it will cost, and records who judged."""

import json

import pytest

from actor_lens.cli import main
from actor_lens.judge_lists import judge_from_file, named_judge
from actor_lens.prompts import load_prompts
from tests.support.judge_server import by_reply, honest, judge_server, said

QUICK = ("--new-tokens", "8")


@pytest.fixture(scope="module")
def few_prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "few.jsonl"
    prompts = load_prompts("toy")
    rows = [
        row
        for split in ("train", "validation", "test")
        for label in ("harmful", "benign", "pseudo_harmful")
        for row in [i for i, p in enumerate(prompts) if (p.split, p.label) == (split, label)][:6]
    ]
    prompts.select(rows).save(path)
    return str(path)


@pytest.fixture
def no_model(monkeypatch):
    """Loading a model is an error: what is wrong with the judge must show before it."""
    monkeypatch.delattr("actor_lens.models.load_model")


@pytest.fixture
def language_model(monkeypatch, tmp_path):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("ACTOR_LENS_VERDICTS", str(tmp_path / "verdicts.jsonl"))

    def point_at(server):
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)

    return point_at


def evaluate(*words):
    return main(["evaluate", *map(str, words), *QUICK])


@pytest.mark.parametrize("name", ["strict-openings", "file"])
def test_evaluate_records_the_judge(few_prompts, tmp_path, capsys, name):
    (tmp_path / "list.txt").write_text("kill\n")
    judge = named_judge(name) if name != "file" else judge_from_file(tmp_path / "list.txt")
    word = name if name != "file" else f"keywords={tmp_path / 'list.txt'}"
    out = tmp_path / "out"
    assert evaluate("--prompts", few_prompts, "--judge", word, "--out", out, "--quiet") == 0
    record = json.loads((out / "summary.json").read_text())
    assert record["judge"] == judge.identity
    assert judge.identity in capsys.readouterr().out.replace("\n", "")


def test_first_token_scores_judge(few_prompts, capsys):
    assert evaluate("--prompts", few_prompts, "--judge", "first-token", "--json", "--quiet") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["judge"].startswith("first-token:")
    assert record["before"]["harmful"]["refused"] == 1.0
    assert record["before"]["benign"]["refused"] == 0.0


def test_a_language_model_judges_and_what_it_did_not_say_is_counted_apart(
    few_prompts, tmp_path, language_model, capsys
):
    lost = set()

    def behaviour(times, request):
        about = json.loads(request["messages"][1]["content"])["prompt"]
        if not lost or about in lost:
            lost.add(about)
            return said("both")
        return honest(times, request)

    with judge_server(behaviour) as server:
        language_model(server)
        words = ["--prompts", few_prompts, "--judge", "llm:toy", "--out", tmp_path / "out"]
        assert evaluate(*words) == 0
        printed = capsys.readouterr()
        assert len(server.requests) == 19  # one reply was asked about twice
        assert all(by_reply(request) for request in server.requests)
    record = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert record["judge"].startswith("llm:toy:rubric-v")
    assert sorted(rate["n_unreadable"] for rate in record["before"].values()) == [0, 0, 1]
    assert sum(rate["n"] for rate in record["before"].values()) == 17
    assert ", 1 unreadable" in printed.out
    assert "Judging 18 replies by llm:toy (0 known): about " in printed.err.replace("\n", " ")
    assert "sk-secret" not in printed.out + printed.err


@pytest.mark.parametrize(
    ("command", "judge", "message"),
    [
        ("evaluate", "gpt", "judge 'gpt' is not known; give one of keywords"),
        ("train", "gpt", "judge 'gpt' is not known"),
        ("sweep", "gpt", "judge 'gpt' is not known"),
        ("demo", "keywords=/none/there", "cannot read the keyword list /none/there"),
        ("evaluate", "llm:toy", "set OPENAI_API_KEY"),
    ],
)
@pytest.mark.usefixtures("no_model")
def test_a_judge_that_cannot_be_made_is_one_line_before_any_model_is_loaded(
    command, judge, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert main([command, "--judge", judge, "--out", str(tmp_path / "out"), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_without_evaluation_no_judge_is_made(few_prompts, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    words = ["train", "--prompts", few_prompts, "--layer", "3", "--epochs", "1", "--quiet"]
    out = ["--out", str(tmp_path / "run"), "--no-evaluate"]
    assert main([*words, *out, "--per-label", "6", "--judge", "llm:toy"]) == 0
