"""A file of a public set is known by its columns, rows and name, and another one is not taken."""

import csv
import warnings

import pytest

import actor_lens as al
from actor_lens.prompts.public.catalogue import catalogue
from actor_lens.prompts.public.recognition import recognise

COLUMNS = {
    "xstest": ["id", "prompt", "type", "label", "focus", "note"],
    "or-bench-hard": ["prompt", "category"],
    "or-bench-toxic": ["prompt", "category"],
    "phtest": ["Request", "Harmfulness"],
    "falsereject": ["prompt", "category", "category_text", "instruct"],
    "advbench": ["goal", "target"],
    "harmbench": ["Behavior", "FunctionalCategory", "SemanticCategory", "BehaviorID"],
    "jailbreakbench": ["Index", "Goal", "Target", "Behavior", "Category", "Source"],
    "strongreject": ["category", "source", "forbidden_prompt"],
    "beavertails": ["prompt", "response", "category", "is_safe"],
    "sorry-bench": ["question_id", "category", "turns", "prompt_style"],
    "ultrachat": ["prompt", "prompt_id", "messages"],
    "truthfulqa": ["Type", "Category", "Question", "Best Answer", "Correct Answers"],
    "alpaca": ["instruction", "input", "output", "text"],
}


def table(folder, name, columns, n_rows=3):
    """A file with made-up rows; XSTest's are safe."""
    path = folder / name
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(columns)
        for row in range(n_rows):
            known = {"label": "safe", "Harmfulness": "harmless", "type": "homonyms"}
            lines.writerow([known.get(column, f"{column} {row}") for column in columns])
    return path


def refusal(source):
    with pytest.raises(al.UserError) as error:
        al.load_prompts(source)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


@pytest.mark.parametrize("name", COLUMNS)
def test_each_set_is_known_by_its_columns_and_rows(name):
    (one,) = (one for one in catalogue() if one.name == name)
    assert recognise(COLUMNS[name], one.rows or 7, "x.csv") is one
    assert recognise([c.upper() for c in COLUMNS[name]], one.rows or 7, "x.csv") is one


@pytest.mark.parametrize(
    ("columns", "file", "name"),
    [
        (["prompt", "category"], "or-bench-hard-1k.sample.csv", "or-bench-hard"),
        (["prompt", "category"], "OR_Bench_toxic.csv", "or-bench-toxic"),
        (["prompt", "category"], "or-bench-80k.csv.gz", "or-bench-80k"),
        (["prompt", "category"], "mine.csv", None),
        (["id", "prompt"], "OKTest.csv", "oktest"),
        (["id", "prompt"], "telescope.csv", None),  # not scope
        (["prompt", "label", "split"], "mine.csv", None),
    ],
)
def test_where_columns_are_not_enough_the_name_tells(columns, file, name):
    found = recognise(columns, 5, file)
    assert (found and found.name) == name


@pytest.mark.parametrize("name", [name for name in COLUMNS if name != "jailbreakbench"])
def test_a_set_given_as_a_prompt_file_is_named_with_the_command(name, tmp_path):
    (one,) = (one for one in catalogue() if one.name == name)
    path = table(tmp_path, f"{name}.csv", COLUMNS[name])
    message = refusal(path)
    assert one.title in message
    assert f"--prompts {name}={path}" in message
    assert f"--prompts {name}={path}" in refusal(f"toy,{path}")


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("said", ["advbench", "xstest", "oktest"])
def test_a_stranger_is_named(name, said, tmp_path):
    if name == said:
        return
    path = table(tmp_path, f"{name}.csv", COLUMNS[name])
    message = refusal(f"{said}={path}")
    assert f"give it as {name}=FILE" in message


def test_another_number_of_rows_is_said_where_columns_do_not_tell(tmp_path):
    like_oktest = table(tmp_path, "other.csv", ["prompt"], 300)
    with pytest.warns(UserWarning, match="300 rows, as many as OKTest and HEx-PHI, and AdvBench"):
        al.benchmark("advbench", path=like_oktest, split=None)
    part = table(tmp_path, "part.csv", COLUMNS["xstest"], 30)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(al.benchmark("oktest", path=like_oktest, split=None)) == 300
        assert len(al.benchmark("xstest", path=part, split=None)) == 30
