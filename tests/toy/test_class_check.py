"""What a class handed in is read from what its notebooks printed, and nothing of it is run."""

import json

import nbformat
import pytest
from nbclient import NotebookClient

from actor_lens.errors import UserError
from actor_lens.toy.class_check import check_class

HEAD = "from actor_lens.toy.exercises import verdict"
CHECKS = 'print(verdict(a, 3, hint="Count."))\nprint(verdict(b, "x", hint="Read."))'
SOLUTION = 'a = 3\nprint(verdict(a, 3, hint=""))'


@pytest.fixture(scope="module")
def handed_in(tmp_path_factory):
    """A folder of notebooks that were run for real, each by a learner of its own."""
    folder = tmp_path_factory.mktemp("class")
    learners = {
        "ada": ("a = 3", "b = 'X '"),
        "bob": ("a = 4", "b = None"),
        "cy": ("a = 3", "b = ]"),
    }
    for name, answers in learners.items():
        cells = [HEAD, *answers, CHECKS, SOLUTION]
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(cell) for cell in cells]
        )
        NotebookClient(notebook, allow_errors=True).execute()
        (folder / name).mkdir()
        nbformat.write(notebook, folder / name / "01.ipynb")
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".ipynb_checkpoints" / "old.ipynb").write_text("{")
    return folder


def test_each_answer_is_what_the_notebook_said(handed_in):
    checked = check_class(handed_in)
    results = {(file, answer): result for file, answer, result in checked.rows}
    assert results == {
        ("ada/01.ipynb", "a"): "right",
        ("ada/01.ipynb", "b"): "right",
        ("bob/01.ipynb", "a"): "wrong",
        ("bob/01.ipynb", "b"): "no answer",
        ("cy/01.ipynb", "a"): "not run",  # b is not there, so the cell broke off
        ("cy/01.ipynb", "b"): "not run",
    }
    assert not checked.unread
    assert checked.table()["right"].tolist() == [2, 0, 0]
    counts = checked.by_exercise().set_index("answer").loc["a"].to_dict()
    assert counts == {"right": 1, "wrong": 1, "no answer": 0, "not run": 1}


def test_what_was_handed_in_is_not_run(tmp_path):
    ran = tmp_path / "ran"
    cell = f"open({str(ran)!r}, 'w')\n" + CHECKS
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    nbformat.write(notebook, tmp_path / "evil.ipynb")
    assert {result for *_, result in check_class(tmp_path).rows} == {"not run"}
    assert not ran.exists()


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"cells": 3}', '{"cells": [{}]}', "\x00", "[" * 100_000]
)
def test_a_broken_file_is_named_and_the_others_are_read(tmp_path, content):
    (tmp_path / "broken.ipynb").write_text(content)
    good = {"cells": [{"cell_type": "code", "source": CHECKS, "outputs": []}]}
    (tmp_path / "good.ipynb").write_text(json.dumps(good))
    checked = check_class(tmp_path)
    assert [name for name, _ in checked.unread] == ["broken.ipynb"]
    assert len(checked.rows) == 2


def test_odd_escapes_of_a_learner_warn_of_nothing(tmp_path):
    cell = {"cell_type": "code", "source": f"x = '\\d'\n{CHECKS}", "outputs": []}
    (tmp_path / "odd.ipynb").write_text(json.dumps({"cells": [cell]}))
    assert len(check_class(tmp_path).rows) == 2  # warnings are errors here


def test_a_notebook_without_exercises_is_said_to_have_none(tmp_path):
    (tmp_path / "other.ipynb").write_text('{"cells": []}')
    assert check_class(tmp_path).unread == (("other.ipynb", "no exercise in it"),)
    assert check_class(tmp_path).table().empty


def test_a_folder_without_notebooks_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError):
            check_class(folder)
