"""Prompts keep their text on the way to a file and back, and a bad file is one clear line.

The laws:
- Any set that is saved and loaded is equal to itself, whatever its characters.
- A file that cannot be used gives one line that names the file, the line and the remedy.
- A write that fails leaves the old file as it was.
"""

import csv
import io
import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actor_lens.errors import UserError
from actor_lens.prompts.loading import load_prompts
from actor_lens.prompts.rows import LABELS, SPLITS, Prompt
from actor_lens.prompts.sets import PromptSet
from actor_lens.prompts.splits import split_prompts
from tests.support.labelled import labelled, texts

# A folder per test is enough: every example overwrites the file of the one before.
one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

optional = st.none() | texts
rows_with_split = st.lists(
    st.tuples(texts, st.sampled_from(LABELS), st.sampled_from(SPLITS), optional, optional),
    min_size=1,
    unique_by=lambda values: values[0],
)


def prompt_file(folder, content, name="mine.jsonl"):
    path = folder / name
    if isinstance(content, list):
        content = "".join(json.dumps(row) + "\n" for row in content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def row(prompt="How do I bake bread?", label="benign", **rest):
    return {"prompt": prompt, "label": label, **rest}


def message_for(path):
    """The error that loading gives; it is one line and starts with the file."""
    with pytest.raises(UserError) as raised:
        load_prompts(path)
    message = str(raised.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


TABLE = (
    ("prompt", "label", "split", "note"),
    ("Bake, «bread»; now", "benign", "test", "x"),
    ('Töten\nSie "es"', "Pseudo-harmful", "train", ""),
)
READ = (
    Prompt("Bake, «bread»; now", "benign", "test"),
    Prompt('Töten\nSie "es"', "pseudo_harmful", "train"),
)


class TestRoundTrip:
    @one_folder
    @given(rows_with_split)
    def test_a_saved_set_loads_equal(self, tmp_path, rows):
        saved = PromptSet(tuple(Prompt(*values) for values in rows))
        saved.save(tmp_path / "any.jsonl")
        loaded = load_prompts(tmp_path / "any.jsonl")
        assert loaded == saved
        assert loaded.fingerprint == saved.fingerprint

    @pytest.mark.parametrize(
        "text",
        [
            "two\nlines\r\nand\ttabs",
            "\x00\x07\x1b[31m control",
            "👩‍👩‍👧 🇨🇭 emoji",
            "كيف أصنع الخبز؟ \u202eabc\u202c",
            "\u2028 \u2029 \x85 \x0b separators",
            '"quotes", commas, \\ and {braces}',
            "  spaces kept  ",
            "\ufeffbyte-order mark",
        ],
    )
    def test_awkward_characters_survive(self, tmp_path, text):
        saved = PromptSet((Prompt(text, "benign", "test", reply=text),))
        saved.save(tmp_path / "awkward.jsonl")
        assert load_prompts(tmp_path / "awkward.jsonl") == saved

    def test_csv_keeps_quoted_newlines_commas_and_skips_the_byte_order_mark(self, tmp_path):
        content = (
            "\ufefflabel,prompt,split,category,id\r\n"
            'benign,"Two lines,\r\none ""quoted"" prompt",test,,7\r\n'
            "\r\n"
            "harmful,Other,train,x,8\r\n"
        )
        assert list(load_prompts(prompt_file(tmp_path, content, "mine.csv"))) == [
            Prompt('Two lines,\r\none "quoted" prompt', "benign", "test"),
            Prompt("Other", "harmful", "train", "x"),
        ]

    def test_labels_and_splits_are_read_in_any_spelling(self, tmp_path):
        path = prompt_file(tmp_path, [row(label=" Pseudo-Harmful ", split="Test")])
        assert load_prompts(path)[0] == Prompt(row()["prompt"], "pseudo_harmful", "test")

    def test_bom_blank_lines_and_unknown_keys_are_skipped_in_json(self, tmp_path):
        path = prompt_file(
            tmp_path, "\ufeff\n" + json.dumps(row(split="ood", id=3, note=None)) + "\r\n\n"
        )
        assert list(load_prompts(path)) == [Prompt(row()["prompt"], "benign", "ood")]

    def test_a_repeated_prompt_is_kept_once_with_a_warning(self, tmp_path):
        path = prompt_file(tmp_path, [row(split="test"), row("x", split="test"), row(split="test")])
        with pytest.warns(UserWarning, match="1 repeated prompts left out, the first at line 3"):
            assert load_prompts(path).texts == (row()["prompt"], "x")

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
    @pytest.mark.parametrize("separator", [",", ";", "\t"])
    @pytest.mark.parametrize("end", ["\r\n", "\n", "\r"])
    def test_a_table_as_a_spreadsheet_exports_it(self, tmp_path, encoding, separator, end):
        lines = io.StringIO(newline="")
        csv.writer(lines, delimiter=separator, lineterminator=end).writerows(TABLE)
        path = prompt_file(tmp_path, lines.getvalue().encode(encoding), "mine.csv")
        assert load_prompts(path).prompts == READ

    def test_a_line_that_names_the_separator_is_none_of_the_table(self, tmp_path):
        path = prompt_file(tmp_path, "sep=|\r\nprompt|label|split\r\na|benign|test", "mine.csv")
        assert list(load_prompts(path)) == [Prompt("a", "benign", "test")]

    def test_a_quote_separates_no_cells(self, tmp_path):
        path = prompt_file(tmp_path, 'sep="\nprompt,label,split\na,benign,test', "mine.csv")
        with pytest.raises(UserError, match=r"line 1: no column .*found: \"sep="):
            load_prompts(path)

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("prompt,label,split,,,\na,benign,test,,,\n,,,,,\n,,,,,\n",
             r"3 columns without a name \(empty\) and 2 empty rows left out"),
            (",prompt,label,split\n0,a,benign,test\n",
             r"1 column without a name \(with text in 1 row\) left out"),
            (",,\nprompt,label,split\na,benign,test\n", "1 empty row left out"),
        ],
    )  # fmt: skip
    def test_what_is_left_out_of_a_table_is_said(self, tmp_path, content, said):
        with pytest.warns(UserWarning, match=said):
            found = load_prompts(prompt_file(tmp_path, content, "mine.csv"))
        assert list(found) == [Prompt("a", "benign", "test")]

    def test_empty_cells_behind_a_row_are_no_cells(self, tmp_path):
        path = prompt_file(tmp_path, "prompt,label,split\na,benign,test,,\n", "mine.csv")
        assert list(load_prompts(path)) == [Prompt("a", "benign", "test")]

    def test_a_file_without_splits_is_split_by_the_seed(self, tmp_path):
        whole = labelled((10, 10, 10))
        whole.save(tmp_path / "whole.jsonl")
        assert load_prompts(tmp_path / "whole.jsonl", seed=3) == split_prompts(whole, seed=3)
        assert load_prompts(tmp_path / "whole.jsonl").name == "whole.jsonl"


JSON_ERRORS = {
    "empty": (b"", r": is empty"),
    "only blank lines": ("\n \n", r": is empty"),
    "half of utf-16": ("{}".encode("utf-16")[:-1], r", line 1: not UTF-16 at byte 4; save"),
    "pointer": ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
                r": is a Git LFS pointer, not the file itself; fetch it: git lfs install, "),
    "latin-1": (b'{"prompt": "a"}\n{"prompt": "caf\xe9"}', r", line 2: not UTF-8 at byte 31"),
    "latin-1 behind a mark": (b"\xef\xbb\xbfab\xe9", r", line 1: not UTF-8 at byte 5;"),
    "broken": ('{"prompt": "a"\n', r", line 1: broken JSON \(.+\); each line is one object"),
    "array over lines": ('[\n{"prompt": "a"}\n]', r", line 1: broken JSON"),
    "too deep": ("[" * 100_000, r", line 1: broken JSON"),
    "raw newline": ('{"prompt": "a\nb", "label": "benign"}', r", line 1: broken JSON"),
    "list": ('["a", "benign"]', r", line 1: a JSON list, not an object"),
    "string": ('"How?"', r", line 1: a JSON str, not an object"),
    "key twice": ('{"prompt": "a", "prompt": "b"}', r", line 1: broken JSON \(a key appears twice"),
    "no prompt": ([row(), {"text": "a", "label": "benign"}],
                  r', line 2: no "prompt" \(keys found: "text", "label"\)'),
    "no label": ([{"prompt": "a"}], r', line 1: no "label" \(keys found: "prompt"\)'),
    "slip of the pen": ([row(catagory="x")], r', line 1: unknown key "catagory"; rename it to "ca'),
    "unknown label": ([row(label="unsafe")],
                      r', line 1: unknown label "unsafe"; use one of: harmful, pseudo_harmful, be'),
    "label null": ([row(label=None)], r", line 1: unknown label null"),
    "label number": ([row(label=1)], r", line 1: unknown label 1;"),
    "unknown split": ([row(split="dev")],
                      r', line 1: unknown split "dev"; use one of: train, validation, test, ood'),
    "split number": ([row(split=0)], r', line 1: "split" is 0; a string in quotes'),
    "empty prompt": ([row(split="test"), row(" \n")], r', line 2: "prompt" is empty'),
    "number": ([row(prompt=5)], r', line 1: "prompt" is 5; a string in quotes is expected'),
    "null": ([row(prompt=None)], r', line 1: "prompt" is null; a string'),
    "nested": ([row(prompt={"a": "b" * 99})], r', line 1: "prompt" is \{"a": "b+\.\.\.; a string'),
    "category list": ([row(category=["a"])], r', line 1: "category" is \["a"\]; a string'),
    "half a pair": ('{"prompt": "a \\ud83d", "label": "benign"}',
                    r', line 1: "prompt" holds half a surrogate pair at character 2'),
    "two labels": ([row(split="test"), row("x"), row(label="harmful", split="test")],
                   r', line 3: the same prompt as line 1 but "label" "harmful" instead of "be'),
    "two splits": ([row(split="test"), row(split="train")],
                   r', line 2: the same prompt as line 1 but "split" "train" instead of "test"'),
    "some splits": ([row(split="test"), row("x"), row("y")],
                    r', line 2: no "split", though line 1 has one'),
    "too few": ([row("bread"), row("cheese")],
                r": 2 benign prompts, at least 3 needed to have one in each split; add prompts"),
    "too much alike": ([row("Bake bread"), row("bake bread!"), row("Bake the bread?"), row("x")],
                       r": 4 benign prompts that make up only 2 after near-duplicates"),
}  # fmt: skip

CSV_ERRORS = {
    "no header": ("How do I bake bread?,benign", r', line 1: no column "prompt" or "label"'),
    "pipes": ("prompt|label\na|benign", r', line 1: no column .+ \(found: "prompt\|label"\)'),
    "column twice": ("prompt,label,label\n", r", line 1: a column name appears twice"),
    "header alone": ("prompt,label\n", r": is empty"),
    "comma": ('prompt,label\n"a\nb",benign\nc, d,benign', r", line 4: 3 cells where the header ha"),
    "short row": ("prompt,label\nbread\n", r", line 2: 1 cells where the header has 2"),
    "open quote": ('prompt,label\nx,benign\n"a,benign\nb', r", line 3: broken CSV"),
    "text after a quote": ('prompt,label\n"a" b,benign', r", line 2: broken CSV"),
    "empty prompt": ("prompt,label\n,benign", r', line 2: "prompt" is empty'),
    "unknown label": ('prompt,label\n"a\nb",benign\nc,safe', r', line 4: unknown label "safe"'),
    "unknown column": ("prompt,label,spilt\na,benign,test", r', line 2: unknown key "spilt"'),
}


class TestBadFiles:
    @pytest.mark.parametrize(("content", "said"), JSON_ERRORS.values(), ids=JSON_ERRORS)
    def test_json_lines(self, tmp_path, content, said):
        assert re.match(said, message_for(prompt_file(tmp_path, content)))

    @pytest.mark.parametrize(("content", "said"), CSV_ERRORS.values(), ids=CSV_ERRORS)
    def test_csv(self, tmp_path, content, said):
        assert re.match(said, message_for(prompt_file(tmp_path, content, "mine.csv")))

    def test_a_folder(self, tmp_path):
        assert message_for(tmp_path) == ": is a folder; give one .jsonl or .csv file"

    def test_a_workbook(self, tmp_path):
        assert message_for(prompt_file(tmp_path, "PK", "mine.xlsx")).endswith("as CSV UTF-8")

    def test_another_type(self, tmp_path):
        path = prompt_file(tmp_path, "[]", "mine.json")
        assert message_for(path) == ': prompts come from .jsonl or .csv files, not ".json"'

    def test_no_ending(self, tmp_path):
        path = prompt_file(tmp_path, "[]", "mine")
        assert message_for(path).endswith(".csv files, and this name has no ending")

    @pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads everything")
    def test_a_file_that_may_not_be_read(self, tmp_path):
        path = prompt_file(tmp_path, [row()])
        path.chmod(0)
        assert message_for(path).startswith(": cannot be read (Permission denied)")

    @pytest.mark.parametrize("source", ["starter:20", "starter:20,twins", "toy/food", "twins=a"])
    def test_bundled_prompts_are_taken_whole(self, source):
        with pytest.raises(UserError, match="bundled prompts are taken whole"):
            load_prompts(source)

    @pytest.mark.parametrize("source", ["toyy", "no/such/file.jsonl", "How?\n" * 500, "a\0b"])
    def test_an_unknown_name_lists_what_there_is(self, source):
        with pytest.raises(UserError) as raised:
            load_prompts(source)
        message = str(raised.value)
        assert message.startswith(json.dumps(source)[:20])
        assert message.endswith(
            "give a .jsonl or .csv file, or one of: toy, starter, twins, cautious"
        )
        assert "\n" not in message

    @one_folder
    @given(st.binary() | st.text().map(str.encode), st.sampled_from(["f.jsonl", "f.csv"]))
    def test_no_bytes_make_it_fail_in_another_way(self, tmp_path, content, name):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError):
            load_prompts(tmp_path / name)


class TestSaving:
    prompts = PromptSet((Prompt("new", "benign", "test"),))

    @pytest.mark.parametrize("function", ["replace", "fsync"])
    def test_a_failing_write_leaves_the_old_file(self, tmp_path, monkeypatch, function):
        def disk_full(*_arguments):
            raise OSError(28, "No space left on device")

        path = prompt_file(tmp_path, "old")
        monkeypatch.setattr(os, function, disk_full)
        with pytest.raises(UserError, match=r"cannot be written \(No space left on device\)"):
            self.prompts.save(path)
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]

    def test_an_interrupted_write_leaves_the_old_file(self, tmp_path, monkeypatch):
        def interrupted(*_arguments):
            raise KeyboardInterrupt

        path = prompt_file(tmp_path, "old")
        monkeypatch.setattr(Path, "write_bytes", interrupted)
        with pytest.raises(KeyboardInterrupt):
            self.prompts.save(path)
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]

    def test_a_link_keeps_pointing_to_the_file(self, tmp_path):
        path = prompt_file(tmp_path, "old")
        link = tmp_path / "link.jsonl"
        link.symlink_to(path)
        self.prompts.save(link)
        assert link.is_symlink()
        assert load_prompts(path) == self.prompts

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("mine.csv", "prompts are saved as JSON lines"),
            ("no/folder.jsonl", "cannot be written"),
        ],
    )
    def test_a_path_that_will_not_do(self, tmp_path, name, said):
        with pytest.raises(UserError, match=said):
            self.prompts.save(tmp_path / name)
        assert list(tmp_path.iterdir()) == []

    def test_nothing_to_save(self, tmp_path):
        with pytest.raises(UserError, match="no prompts to save"):
            PromptSet(()).save(tmp_path / "empty.jsonl")
