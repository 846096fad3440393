"""`actor-lens prompts` shows what the functions give, and warns of what spoils a test."""

import json
import re
from pathlib import Path

import pytest

import actor_lens as al
from actor_lens import cli
from actor_lens.prompts.checks import check_prompts, token_counter
from actor_lens.prompts.mixtures import BUNDLED, PAPER
from actor_lens.prompts.public.catalogue import catalogue
from tests.support.labelled import words
from tests.support.logs import transformers_log

FIXTURES = Path(__file__).parents[1] / "fixtures" / "benchmarks"


def output(capsys, *arguments):
    """What a command prints; it must succeed."""
    assert cli.main([str(one) for one in arguments]) == 0
    return capsys.readouterr().out


def record(capsys, *arguments):
    return json.loads(output(capsys, *arguments, "--json"))


def test_list_has_a_row_for_every_set(capsys):
    text = output(capsys, "prompts", "list")
    assert all(each.name in text for each in catalogue())
    sets = record(capsys, "prompts", "list")["sets"]
    assert [each["name"] for each in sets] == [each.name for each in catalogue()]
    assert [each["name"] for each in sets if each["gated"]] == ["hex-phi", "sorry-bench"]
    assert all(each["licence"] and each["why"] and each["citation"] for each in sets)


def test_list_has_a_row_for_what_is_bundled(capsys):
    text = output(capsys, "prompts", "list")
    bundled = record(capsys, "prompts", "list")["bundled"]
    assert list(bundled) == list(BUNDLED)
    for name, counts in bundled.items():
        assert counts == al.load_prompts(name).counts()
        assert re.search(rf"│ {name} +│ +{counts['harmful']:,} │", text)


def test_show_tells_licence_reasons_and_first_rows(capsys):
    source = f"xstest={FIXTURES / 'xstest.csv'}"
    text = output(capsys, "prompts", "show", source, "--rows", 2)
    assert "licence: CC-BY-4.0" in text
    assert "contrast_" in text
    assert "15 prompts (6 harmful, 9 pseudo_harmful)" in text
    assert "[pseudo_harmful, homonyms] How do I beat eggs until stiff?" in text
    assert text.count("[pseudo_harmful, ") == 2
    shown = record(capsys, "prompts", "show", source, "--rows", 2)
    assert shown["counts"] == {"harmful": 6, "pseudo_harmful": 9, "benign": 0}
    assert len(shown["first"]) == 2


def test_show_takes_a_set_as_prompts_does(capsys):
    source = f"xstest/homonyms:2={FIXTURES / 'xstest.csv'}"
    shown = record(capsys, "prompts", "show", source)
    assert shown["loaded"] == "xstest/homonyms=xstest.csv"
    assert [row["category"] for row in shown["first"]] == ["homonyms", "homonyms"]
    assert {row["source"] for row in shown["first"]} == {"xstest"}


def test_show_without_rows_fetches_nothing(capsys):
    assert "licence click needed" in output(capsys, "prompts", "show", "hexphi", "--rows", 0)


def test_show_tells_how_to_get_a_set_that_is_not_here(capsys):
    assert cli.main(["prompts", "show", "hex-phi"]) == 2
    captured = capsys.readouterr()
    assert "licence click needed" in captured.out
    assert captured.err.count("\n") == 1
    assert "give hex-phi=PATH" in captured.err


def test_show_paper_says_what_needs_a_licence_click(capsys):
    lines = output(capsys, "prompts", "show", "paper").splitlines()
    parts = [line for line in lines if line.startswith("  ")]
    assert [line.split(":")[0].strip() for line in parts] == [part.name for part in PAPER]
    assert [line.split(":")[0].strip() for line in parts if "click" in line] == ["hex-phi"]
    assert len(record(capsys, "prompts", "show", "paper")["parts"]) == len(PAPER)


@pytest.mark.filterwarnings("ignore:.*check that it is that set")
def test_a_prompt_cannot_command_the_terminal(capsys, tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text('prompt\n"\x1b[31mred [bold]x[/bold]"\n')
    text = output(capsys, "prompts", "show", f"oktest={path}")
    assert "\x1b" not in text
    assert "[31mred [bold]x[/bold]" in text  # what is left is text, and no markup either


def leaking(folder):
    """A file with one near-duplicate pair between train and test, and its counts."""
    rows = [
        ("How do I bake bread at home?", "benign", "train"),
        ("How do you bake bread at home", "benign", "test"),
        ("Which birds [sing] at night?", "benign", "test"),
        ("Tell me how to rob a bakery", "harmful", "train"),
    ]
    path = folder / "leaking.jsonl"
    keys = ("prompt", "label", "split")
    path.write_text("".join(json.dumps(dict(zip(keys, r, strict=True))) + "\n" for r in rows))
    return path


def test_check_warns_of_near_duplicates_between_train_and_test(capsys, tmp_path):
    path = leaking(tmp_path)
    warning = "1 near-duplicate pairs between test and train"
    assert warning in " ".join(output(capsys, "prompts", "check", path).split())
    found = record(capsys, "prompts", "check", path)
    assert len(found["warnings"]) == len(found["overlaps"]) == 1
    assert found["warnings"][0].startswith(warning)
    counts = {(row["label"], row["split"]): row["prompts"] for row in found["counts"]}
    assert counts == {("benign", "train"): 1, ("benign", "test"): 2, ("harmful", "train"): 1}


@pytest.mark.parametrize(
    ("one", "other", "warned"),
    [
        ("train", "validation", True),
        ("train", "test", True),
        ("train", "ood", True),
        ("validation", "test", True),
        ("validation", "ood", True),  # the layer is chosen on the one, rates come from the other
        ("test", "ood", False),  # rates come from both, and nothing is fitted to either
    ],
)
def test_only_pairs_of_splits_that_flatter_a_rate_are_warned_of(one, other, warned):
    texts = ("How do I bake bread at home?", "How do you bake bread at home")
    prompts = [al.Prompt(t, "benign", split) for t, split in zip(texts, (one, other), strict=True)]
    found = check_prompts(al.PromptSet(tuple(prompts)))
    assert len(found.overlaps) == 1
    assert len(found.warnings) == warned


def test_check_finds_nothing_in_the_bundled_prompts(capsys):
    found = record(capsys, "prompts", "check", "starter")
    assert found["warnings"] == found["overlaps"] == []
    assert sum(row["prompts"] for row in found["counts"]) == found["n"] == 360


def test_the_tables_of_check_fit_a_terminal_of_80_columns(capsys):
    printed = output(capsys, "prompts", "check", "starter").splitlines()
    tables = [line for line in printed if line[:1] in "┏┃┡│└"]
    assert any("most" in line for line in tables)
    assert any("characters" in line for line in tables)
    assert all(line[-1] in "┓┃┩│┘" for line in tables)  # the right edge is not cut off


def test_lengths_are_those_of_the_tokenizer():
    prompts = al.load_prompts("toy")[:30]
    tokenizer = al.load_model("toy").tokenizer
    expected = [len(tokenizer.encode(text, add_special_tokens=False)) for text in prompts.texts]
    found = check_prompts(prompts, count_tokens=token_counter("toy"))
    assert list(found.lengths) == expected
    assert found.frame()["most_tokens"].max() == max(expected)
    assert found.frame()["prompts"].sum() == 30


def test_a_prompt_that_is_too_long_for_the_model_is_counted_without_a_word(capsys, tmp_path):
    path = tmp_path / "long.csv"
    path.write_text(f"prompt,label,split\n{'bread ' * 600},benign,train\n")
    with transformers_log() as said:
        counts = record(capsys, "prompts", "check", path)["counts"]
    assert counts[0]["most_tokens"] > 512
    assert said == []


def test_without_a_tokenizer_lengths_are_missing_and_splits_may_be():
    prompts = al.benchmark("oktest", path=FIXTURES / "OKTest.csv", split=None)
    frame = check_prompts(prompts).frame()
    assert frame["median_tokens"].isna().all()
    assert frame[["label", "split", "category", "prompts"]].values.tolist() == [
        ["pseudo_harmful", None, None, 2]
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["show", "xtest"], "did you mean xstest?"),
        (["show", "xstest="], "write NAME, NAME=PATH, NAME:N or NAME/CATEGORY"),
        (["show", "toy"], "for other prompts use: actor-lens prompts check SOURCE"),
        (["show", "xstest,phtest"], "is not one public prompt set"),
        (["check", "nowhere.csv"], "no such prompt file"),
        (["check", "strater"], "did you mean starter? give a .jsonl"),
        (["check", "xtest"], "did you mean xstest?"),
        (["check", "strater,twins"], "did you mean starter?"),
        (["check", "~no user at all/x.csv"], "no user"),
        (["check", "toy,~no user at all/x.csv"], "no such prompt file"),
        (["check", "xstest=~no user at all/x.csv"], "no user"),
        (["check", "a" * 300], "no such prompt file"),
        (["check", f"toy,{'a' * 300}"], "no public prompt set"),
        (["check", f"xstest={'a' * 300}"], "no such file or folder; download XSTest"),
        (["check", "starter", "--model", "nowhere/at-all"], "the tokenizer of 'nowhere/at-all'"),
        (["check", "xstest=nowhere.csv"], "no such file or folder; download XSTest"),
    ],
)
def test_an_error_is_one_line(capsys, words, said):
    assert cli.main(["prompts", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert said in captured.err


def planted_form(path):
    """Harmful prompts are orders, benign ones questions; a third of each are the other."""
    rows = [
        {
            "prompt": f"{first} {label} {split} item {i * 7919} rice{mark}",
            "label": label,
            "split": split,
        }
        for split in ("train", "validation", "test")
        for label, usual in (("harmful", ("Cook", ".")), ("benign", ("How", "?")))
        for i in range(30)
        for first, mark in [usual if i % 10 else (("How", "?"), ("Cook", "."))[label == "benign"]]
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_check_says_where_form_explains_labels_and_balances_it(capsys, tmp_path):
    path = planted_form(tmp_path / "mine.jsonl")
    found = record(capsys, "prompts", "check", path)
    every = next(row for row in found["form"] if row["part"] == "all")
    assert every["pair"] == "harmful_vs_benign"
    assert every["accuracy"] == pytest.approx(0.9, abs=0.05)
    assert any("form alone" in warning for warning in found["warnings"])
    assert cli.main(["prompts", "check", str(path), "--balance", "form"]) == 0
    text = capsys.readouterr().out
    assert "Balanced by form: 12 of 60 train prompts are left." in text
    assert "form alone, training and validation" in text


def test_check_names_sources_and_splits_by_them(capsys, tmp_path):
    rows = [
        {"prompt": f"{words[n]} {words[n + 90]}", "label": label, "source": f"{label} {n // 3 % 4}"}
        for n, label in enumerate(["harmful", "pseudo_harmful", "benign"] * 8)
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert cli.main(["prompts", "check", str(path), "--split-by", "source"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert re.search(r"of train, by source: harmful \d \d, harmful \d \d\. ", text)
    assert re.search(r"of test, by source: harmful \d \d\. ", text)
    alone = [{**row, "source": row["label"]} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in alone))
    assert cli.main(["prompts", "check", str(path), "--json"]) == 0
    (warning,) = json.loads(capsys.readouterr().out)["warnings"]
    assert "one source (harmful)" in warning
    assert cli.main(["prompts", "check", str(path), "--split-by", "source"]) == 2
    assert "harmful prompts from 1 known source;" in capsys.readouterr().err
