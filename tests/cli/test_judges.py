"""The command line takes a judge by its name, says what it will cost, and records who judged."""

import json
import math
from contextlib import suppress
from dataclasses import replace

import pandas as pd
import pytest

from actor_lens.cli import main
from actor_lens.cli.printing import print_rates
from actor_lens.evaluation.summary import before_after
from actor_lens.judges.keywords import judge_from_file, named_judge
from actor_lens.judges.replies import Replies
from actor_lens.models.chat_model import load_model
from actor_lens.prompts.loading import load_prompts
from tests.support.judge_server import by_reply, honest, judge_server, reach_loopback, said
from tests.support.panels import evaluation
from tests.support.tiny_runs import quick_run

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
    monkeypatch.delattr("actor_lens.models.chat_model.load_model")


@pytest.fixture
def language_model(monkeypatch, tmp_path):
    reach_loopback(monkeypatch, "sk-secret")
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
    ("judge", "names"),
    [
        ("own:1", ("Refused (95 %", "S.S. (refused) 50.0 % -> 0.0 %")),
        (
            "llm-binary:m:not-harmful-v1:ab",
            ("Refused; of harmful prompts not harmful (95 %", "S.S. (not harmful) 50.0 % -> 0.0 %"),
        ),
    ],
)
def test_a_printed_safety_score_says_what_it_counts(judge, names, capsys):
    labels = ["harmful", "harmful", "pseudo_harmful"]
    one, other = (replace(evaluation(letters, labels), judge=judge) for letters in ("rar", "aaa"))
    tested = [replace(each, prompts=_all_in_test(each.prompts)) for each in (one, other)]
    print_rates(before_after(*tested))
    printed = " ".join(capsys.readouterr().out.split())
    for name in names:
        assert name in printed


def _all_in_test(prompts):
    return replace(prompts, prompts=tuple(replace(each, split="test") for each in prompts))


SECRET = "mix the two powders"
FIXED = "I can't help with that: no, no, no."


def test_several_judges_are_compared_and_harmful_replies_shown_only_where_all_refuse(
    few_prompts, tmp_path, capsys, monkeypatch
):
    def answer(_model, prompts, **_settings):
        # Keywords take every other one for a refusal; the list of ours none but the first.
        places = range(len(prompts))
        replies = (f"{FIXED} {SECRET} {i}" if i % 2 == 0 else f"yes {i}" for i in places)
        return Replies(tuple(replies), (math.nan,) * len(prompts))

    monkeypatch.setattr("actor_lens.evaluation.evaluate.write_replies", answer)
    (tmp_path / "first.txt").write_text("powders 0\n")
    out = tmp_path / "out"
    judges = f"keywords,keywords={tmp_path / 'first.txt'}"
    words = ["--prompts", few_prompts, "--judges", judges, "--out", out, "--quiet"]
    assert evaluate(*words) == 0
    printed = capsys.readouterr()
    record = json.loads((out / "summary.json").read_text())
    assert list(record["judges"]) == ["keywords", "first"]
    assert record["judges"]["keywords"]["before"] == record["before"]
    assert record["judge"] == record["judges"]["keywords"]["judge"]
    refused = {
        name: sum(rate["refused"] * rate["n"] for rate in one["before"].values())
        for name, one in record["judges"].items()
    }
    assert refused == pytest.approx({"keywords": 9, "first": 1})
    (whole,) = [row for row in record["agreement"] if row["label"] == "all"]
    assert (whole["when"], whole["n"], whole["differ"]) == ("before", 18, 8)
    # Chance agrees where both say yes or both no: 9/18 * 1/18 + 9/18 * 17/18 = 1/2.
    assert whole["agree"] == pytest.approx(10 / 18)
    assert whole["kappa"] == pytest.approx((10 / 18 - 0.5) / 0.5)
    assert "keywords / first" in printed.out
    assert "0.11" in printed.out
    table = pd.read_csv(out / "evaluation.csv")
    harmful = table[table["label"] == "harmful"]["reply"].tolist()
    assert len(harmful) == 6
    assert [row for row, reply in enumerate(harmful) if SECRET in reply] == [0]
    judged = pd.read_csv(out / "judges.csv")
    assert judged["reply"].tolist() == table["reply"].tolist()
    assert judged["judge: first"].tolist() == ["refused"] + ["answered"] * 17
    assert SECRET not in printed.out + printed.err + json.dumps(record)
    assert evaluate("--prompts", few_prompts, "--out", out, "--overwrite", "--quiet") == 0
    assert not (out / "judges.csv").exists()


def test_names_of_judges_are_printed_as_they_are(few_prompts, tmp_path, capsys):
    names = ["[bold]x", ":smile:"]  # what rich would take for markup and for a picture
    for name in names:
        (tmp_path / f"{name}.txt").write_text("sorry\nI can't")
    judges = ",".join(f"keywords={tmp_path / name}.txt" for name in names)
    assert evaluate("--prompts", few_prompts, "--judges", judges, "--quiet") == 0
    printed = capsys.readouterr().out
    assert "Judge [bold]x:2:" in printed
    assert "[bold]x / :smile:" in printed


def test_a_panel_judges_replies_before_and_after_a_run(tmp_path, few_prompts, capsys):
    run, out = tmp_path / "run", tmp_path / "out"
    quick_run(load_model("toy"), layer=3, lr=1e-3).save(run)
    words = ["--prompts", few_prompts, "--run", run, "--judges", "keywords, first-token"]
    assert evaluate(*words, "--json", "--quiet", "--out", out) == 0
    record = json.loads(capsys.readouterr().out)
    assert record == json.loads((out / "summary.json").read_text())
    assert set(record["judges"]) == {"keywords", "first-token"}
    by_tokens = record["judges"]["first-token"]
    assert by_tokens["judge"].startswith("first-token:")
    assert not by_tokens["judge"].startswith("first-token:0:")  # it knows the model's tokens
    assert by_tokens["after"].keys() == {"harmful", "benign", "pseudo_harmful"}
    assert {row["when"] for row in record["agreement"]} == {"before", "after"}
    assert pd.read_csv(out / "judges.csv")["when"].value_counts().to_dict() == {
        "before": 18,
        "after": 18,
    }


@pytest.mark.parametrize(
    ("judges", "message"),
    [
        ("keywords", "'keywords' does not name several judges; give at least two"),
        ("keywords,", "does not name several judges"),
        ("keywords,keywords", "the judge 'keywords' is given twice"),
        ("keywords,gpt", "judge 'gpt' is not known; give one of keywords"),
        ("keywords,llm:toy", "set OPENAI_API_KEY"),
    ],
)
@pytest.mark.usefixtures("no_model")
def test_judges_that_cannot_be_compared_are_one_line_before_a_model_is_loaded(
    judges, message, monkeypatch, capsys
):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with suppress(SystemExit):  # as argparse ends
        assert evaluate("--judges", judges, "--quiet") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_one_judge_and_several_exclude_each_other(capsys):
    with pytest.raises(SystemExit, match="2"):
        evaluate("--judge", "keywords", "--judges", "keywords,openings")
    assert "--judges: not allowed with argument --judge" in capsys.readouterr().err


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
