"""Prompts in memory are those of a file with the same rows, and what is none is one line."""

import json

import numpy as np
import pandas as pd
import pytest

import actor_lens as al
from actor_lens.prompts.rows import Prompt
from actor_lens.prompts.splits import split_prompts
from tests.support.labelled import labelled

ROWS = [
    {"prompt": "How do I bake bread?", "label": "benign", "split": "test", "id": 7},
    {"prompt": "Kill it", "label": "Pseudo-harmful", "split": "train", "category": "software"},
    {"prompt": "x", "label": "harmful", "split": "ood", "category": None, "reply": "No."},
]


def in_file(folder, rows):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return al.load_prompts(path)


def refusal(source):
    with pytest.raises(al.UserError) as error:
        al.load_prompts(source)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


class Table:
    """Stands in for a table of polars or Arrow."""

    def to_pylist(self):
        return ROWS


@pytest.mark.parametrize(
    "make",
    [
        list,
        tuple,
        iter,
        pd.DataFrame,  # where a value is missing it has NaN
        lambda rows: pd.DataFrame(rows, index=[9, 9, 3]).astype({"label": "category"}),
        lambda rows: pd.DataFrame(rows).convert_dtypes(),  # where one is missing it has NA
        lambda _: Table(),
    ],
    ids=["list", "tuple", "iterator", "frame", "categories", "nullable", "table"],
)
def test_rows_in_memory_are_those_of_a_file(make, tmp_path):
    found = al.load_prompts(make(ROWS))
    assert found == in_file(tmp_path, ROWS)
    assert found.name == "own prompts"


def test_prompts_and_sets_are_taken_as_they_are():
    whole = labelled((10, 10, 10))
    assert al.load_prompts(whole, seed=3) == split_prompts(whole, seed=3)
    done = split_prompts(whole, seed=3)
    assert al.load_prompts(done) == al.load_prompts(list(done)) == done
    assert al.load_prompts(done).name == done.name
    assert al.load_prompts(done.frame()) == done


@pytest.mark.parametrize("key", ["prompt", "messages"])
@pytest.mark.parametrize("make", [list, tuple, lambda turns: np.array(turns, dtype=object)])
def test_one_message_of_the_user_is_the_prompt(key, make):
    turns = [{"role": "user", "content": "Hi"}]
    row = {"label": "benign", "split": "test"}
    assert list(al.load_prompts([{**row, key: make(turns)}])) == [Prompt("Hi", "benign", "test")]
    turns.append({"role": "assistant", "content": [{"type": "text", "text": "Hello."}]})
    expected = [Prompt("Hi", "benign", "test", reply="Hello.")]
    assert list(al.load_prompts([{**row, key: make(turns)}])) == expected
    (own,) = al.load_prompts([{**row, key: make(turns), "reply": "Mine."}])
    assert own.reply == "Mine."


def test_messages_in_a_file_are_read_too(tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": "Hi"}], "label": "benign", "split": "test"},
    ]
    assert in_file(tmp_path, rows) == al.load_prompts(rows)


USER, REPLY = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([{"role": "system", "content": "Be kind"}, USER], "--system-prompt"),
        ([USER, REPLY, USER], "conversation of 3 messages"),
        ([REPLY], "conversation of 1 messages"),
        ([{"role": "user", "content": [{"type": "image"}]}], "more than text"),
        ([{"role": "user"}], '"prompt" is null'),
        ([], "a string in quotes is expected"),
    ],
)
def test_other_conversations_are_one_line(messages, words):
    assert words in refusal([{"prompt": messages, "label": "benign"}])


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ([], "no prompts"),
        (pd.DataFrame(), "no prompts"),
        (pd.DataFrame([["a", "benign", "x"]], columns=["prompt", "label", "label"]), "two columns"),
        (pd.DataFrame([["a", "benign"]]), 'no "prompt" (keys found: "0", "1")'),
        (pd.DataFrame({"prompt": ["a", None], "label": "benign"}), 'row 1: "prompt" is null'),
        (pd.Series(["a"]), "row 0 of the prompts is a str"),
        (["a", "b"], "row 0 of the prompts is a str"),
        ([("a", "benign")], "row 0 of the prompts is a tuple"),
        ([[USER]], "row 0 of the prompts is a list"),
        ({"prompt": ["a"], "label": ["benign"]}, "prompts are a dict"),
        (None, "prompts are a NoneType"),
        (7, "prompts are a int"),
        (b"toy", "prompts are a bytes"),
        ([{"prompt": "a", "label": "bad"}], 'row 0: unknown label "bad"'),
        ([{"prompt": "a", "label": float("nan")}], "row 0: unknown label null"),
        ([ROWS[0], {"prompt": "y", "label": "benign"}], 'row 1: no "split", though row 0 has one'),
        ([ROWS[0], {**ROWS[0], "label": "harmful"}], "row 1: the same prompt as row 0"),
    ],
    ids=str,
)
def test_what_is_no_prompts_is_one_line(source, words):
    assert words in refusal(source)
