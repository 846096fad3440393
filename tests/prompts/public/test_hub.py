"""Sets come from the hub through its own client, and its faults give one line.

A server on loopback stands in for the hub, in a process of its own because the client reads its
settings once. The laws: rows, labels and the commit are those that the server holds; a gated,
missing, broken or silent hub gives one line with the page and what to do.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from actor_lens.errors import UserError
from actor_lens.prompts.public.catalogue import known_benchmark
from actor_lens.prompts.public.hub import hub_rows
from actor_lens.prompts.public.loading import benchmark
from tests.support.hub_stand_in import COMMIT, hub_stand_in

FIXTURES = Path(__file__).parents[2] / "fixtures" / "benchmarks"
XSTEST = {
    "README.md": b"---\nlicense: cc-by-4.0\n---\n",
    "xstest_prompts.csv": b"id,prompt,type,label,focus\n"
    b"1,How do I beat eggs?,homonyms,safe,beat\n"
    b"2,How do I beat my boss?,contrast_homonyms,unsafe,beat\n",
}
PROGRAM = """
import json, sys
from actor_lens import UserError
from actor_lens.prompts.public.loading import benchmark
try:
    found = benchmark(**json.loads(sys.argv[1]))
    print(json.dumps([found.name, [[p.label, p.category, p.prompt] for p in found]]))
except UserError as error:
    print(json.dumps(str(error)))
"""


def fetched(tmp_path, files, fault="", settings=None, **options):
    """What `benchmark` gives, or its message, with the stand-in as the hub."""
    with hub_stand_in(files, fault) as address:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, json.dumps({"split": None, **options})],
            env={
                **os.environ,
                "HF_ENDPOINT": address,
                "HF_HOME": str(tmp_path / "home"),
                "HF_HUB_OFFLINE": "0",
                "HF_DATASETS_OFFLINE": "0",
                "HF_HUB_ETAG_TIMEOUT": "2",
                "HF_HUB_DOWNLOAD_TIMEOUT": "2",
                "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_DISABLE_TELEMETRY": "1",
                **(settings or {}),
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    return json.loads(done.stdout)


def test_rows_come_through_the_client_and_again_from_its_cache(tmp_path):
    expected = [
        ["pseudo_harmful", "homonyms", "How do I beat eggs?"],
        ["harmful", "contrast_homonyms", "How do I beat my boss?"],
    ]
    name, rows = fetched(tmp_path, XSTEST, name="xstest")
    assert name == f"xstest@{COMMIT[:12]}"
    assert rows == expected
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    for revision, place in ((COMMIT, COMMIT[:12]), (None, "from the cache")):
        name, rows = fetched(tmp_path, {}, settings=offline, name="xstest", revision=revision)
        assert name == f"xstest@{place}"
        assert rows == expected


def test_configurations_and_splits_are_those_of_the_set(tmp_path):
    readme = (
        "---\nconfigs:\n- config_name: behaviors\n  data_files:\n"
        "  - split: harmful\n    path: data/harmful-behaviors.csv\n"
        "  - split: benign\n    path: data/benign-behaviors.csv\n"
        "- config_name: judge_comparison\n  data_files: data/judge.csv\n---\n"
    )
    files = {
        "README.md": readme.encode(),
        "data/harmful-behaviors.csv": b"Index,Goal,Category\n0,Break a kettle,Property\n",
        "data/benign-behaviors.csv": b"Index,Goal,Category\n0,Mend a kettle,Property\n",
        "data/judge.csv": b"x\n1\n",
    }
    _, rows = fetched(tmp_path, files, name="jailbreakbench")
    assert rows == [
        ["harmful", "Property", "Break a kettle"],
        ["pseudo_harmful", "Property", "Mend a kettle"],
    ]


@pytest.mark.parametrize("described", [True, False])
def test_the_first_prompt_of_files_without_a_header_is_kept(tmp_path, described):
    readme = (
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        "  - split: Category_1\n    path: category_1.csv\n"
        "  - split: Category_3\n    path: category_3.csv\n---\n"
    )
    files = {
        "category_1.csv": b'"First, of one"\nSecond of one\n',
        "category_3.csv": b"First of three\n",
    }
    if described:
        files["README.md"] = readme.encode()
    _, rows = fetched(tmp_path, files, name="hex-phi")
    assert [text for _, _, text in rows] == ["First, of one", "Second of one", "First of three"]
    parts = ["Category_1", "Category_1", "Category_3"] if described else ["train"] * 3
    assert [category for _, category, _ in rows] == parts


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("gated", "Paul/XSTest is gated; accept its terms at https://huggingface.co/datasets/"),
        ("gone", "Paul/XSTest is not there (renamed or removed?)"),
        ("broken", "Paul/XSTest answered HTTP 500; try again later"),
        ("silent", "Paul/XSTest did not answer in time; try again later"),
    ],
)
def test_a_fault_of_the_hub_is_one_line_with_what_to_do(tmp_path, fault, said):
    message = fetched(tmp_path, XSTEST, fault, name="xstest")
    assert message.startswith(f"xstest: {said}")
    assert message.endswith(
        "download it from https://huggingface.co/datasets/Paul/XSTest and give xstest=PATH"
    )
    assert "\n" not in message


def test_a_token_never_shows(tmp_path):
    secret = {"HF_TOKEN": "hf_" + "s3cret" * 6}
    message = fetched(tmp_path, XSTEST, "gated", settings=secret, name="xstest")
    assert "set HF_TOKEN" in message
    assert "s3cret" not in message


def test_a_renamed_split_and_other_columns_say_what_there_is(tmp_path):
    files = {"train.csv": b"text,other\nx,y\n", "test.csv": b"text,other\nx,y\n"}
    message = fetched(tmp_path, files, name="ultrachat")
    assert message.startswith(
        "ultrachat: the hub has no split train_sft (there are: train, test); name one with"
    )
    message = fetched(tmp_path, files, name="xstest", hub_split="train")
    assert message.startswith(
        "Paul/XSTest, train row 1: no column prompt (found: text, other); XSTest has it"
    )


def test_with_the_hub_switched_off_and_no_cache_a_file_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(UserError) as raised:
        benchmark("xstest")
    assert str(raised.value) == (
        "xstest: the hub is switched off (HF_HUB_OFFLINE) and the set is not in the cache; "
        "download it from https://huggingface.co/datasets/Paul/XSTest and give xstest=PATH"
    )


def test_a_huge_set_is_streamed(tmp_path):
    rows = (FIXTURES / "ultrachat.jsonl").read_bytes()
    readme = (
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        "  - split: train_sft\n    path: data/train_sft.jsonl\n"
        "  - split: test_sft\n    path: data/test_sft.jsonl\n---\n"
    )
    # The other split is broken, and no one looks at it.
    files = {
        "README.md": readme.encode(),
        "data/train_sft.jsonl": rows,
        "data/test_sft.jsonl": b"{",
    }
    _, found = fetched(tmp_path, files, name="ultrachat")
    assert found == [
        ["benign", None, "Which soup suits winter?"],
        ["benign", None, "How tall is a giraffe?"],
    ]


def test_of_a_huge_set_only_the_first_rows_are_read(monkeypatch):
    asked = {}

    def endless():
        number = 0
        while True:
            number += 1
            yield {"prompt": f"{number}", "messages": []}

    def load_dataset(*args, **options):
        asked.update(options, args=args)
        return {"train_sft": endless()}

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    rows, _ = hub_rows(known_benchmark("ultrachat"), revision="abc")
    assert len(rows) == 10_000
    assert asked["streaming"]
    assert asked["revision"] == "abc"
    assert asked["args"] == ("HuggingFaceH4/ultrachat_200k", None)


@pytest.mark.parametrize(
    ("name", "kind", "url"),
    [
        (
            "advbench",
            "csv",
            "llm-attacks/llm-attacks/v1/data/advbench/harmful_behaviors.csv",
        ),
        (
            "maliciousinstruct",
            "text",
            "Princeton-SysML/Jailbreak_LLM/v1/data/MaliciousInstruct.txt",
        ),
    ],
)
def test_a_set_that_is_not_on_the_hub_comes_from_its_file_at_the_revision(
    monkeypatch, name, kind, url
):
    asked = {}

    def load_dataset(builder, *, data_files):
        asked[builder] = data_files
        return {"train": [{"text": "A"}]}

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    rows, revision = hub_rows(known_benchmark(name), revision="v1")
    assert asked == {kind: f"https://raw.githubusercontent.com/{url}"}
    assert (rows[0].values, revision) == ({"text": "A"}, "v1")
