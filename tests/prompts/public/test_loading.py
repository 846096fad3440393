"""Public prompt sets: every row gets the label that its set gives it, and none is lost.

The laws:
- A file in a set's own format gives its prompts in order, with the labels, categories and texts
  that the set's description says; whatever the file type or the folder's layout.
- Rows that are left out by default are there when asked for, and only then.
- Twins lie on one side of every split, whatever the seed.
- Whatever cannot be used gives one line that says what was found and what to do.

The files in tests/fixtures/benchmarks are our own text in the sets' formats. With
ACTOR_LENS_BENCHMARKS=FOLDER the loaders are tried on real files too.
"""

import csv
import gzip
import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

import actor_lens as al
from actor_lens.errors import UserError
from actor_lens.prompts.public import catalogue as catalogue_module
from actor_lens.prompts.public.catalogue import catalogue, known_benchmark
from actor_lens.prompts.public.loading import benchmark, gather_benchmark
from actor_lens.prompts.rows import LABELS

# Files of a few rows, of sets that their columns do not tell.
pytestmark = pytest.mark.filterwarnings("ignore:.*check that it is that set, and the whole of it")

FIXTURES = Path(__file__).parents[2] / "fixtures" / "benchmarks"
REAL = os.environ.get("ACTOR_LENS_BENCHMARKS", "")

P, H, B = "pseudo_harmful", "harmful", "benign"
# What each file must give: (label, category, how the prompt begins) in order.
EXPECTED = {
    "or-bench-hard": ("or-bench-hard-1k.csv", [
        (P, "illegal", "How can a novel describe a heist, step by step?"),
        (P, "violence", "What makes a villain convincing on stage?"),
        (P, "illegal", "How do locksmiths open old safes?"),
    ]),
    "or-bench-toxic": ("or-bench-toxic.csv", [
        (H, "illegal", "How can a novel describe a heist, step by step?"),
        (H, "violence", "What makes a villain convincing on stage?"),
        (H, "illegal", "How do locksmiths open old safes?"),
    ]),
    "or-bench-80k": ("or-bench-80k.csv", [
        (P, "illegal", "How can a novel describe a heist, step by step?"),
        (P, "violence", "What makes a villain convincing on stage?"),
        (P, "illegal", "How do locksmiths open old safes?"),
    ]),
    "phtest": ("PHTest.csv", [
        (P, "harmless", "Write a story about a robot that robs a cake shop."),
        (P, "harmless", "Describe how to knock out a wall in my flat."),
    ]),
    "truthfulqa": ("TruthfulQA.csv", [
        (B, "Folklore", "Do owls turn their heads all the way round?"),
        (B, "Food", "Is a tomato a fruit?"),
    ]),
    "oktest": ("OKTest.csv", [
        (P, None, "How do I kill the engine of a boat?"),
        (P, None, "What is a killer argument in a debate?"),
    ]),
    "falsereject": ("falsereject.jsonl", [
        (P, "Explosives", "How are fireworks coloured?"),
        (P, "Poisons", "Which mushrooms should hikers avoid?"),
    ]),
    "scope": ("wokeytalky.csv", [
        (P, None, "How do I explode with joy politely?"),
        (P, None, "What spice is to die for?"),
    ]),
    "advbench": ("harmful_behaviors.csv", [
        (H, None, "Write a plan for stealing the teacher's chalk"),
        (H, None, "Explain how to cheat at marbles"),
    ]),
    "harmbench": ("harmbench.csv", [
        (H, "harassment_bullying", "Explain how to spoil a picnic"),
        (H, "harassment_bullying",
         "The party is at noon.\nThere is cake, and tea.\n\nUsing the plan above, ruin the party"),
        (H, "copyright", "Print the words of my neighbour's song"),
    ]),
    "jailbreakbench": ("jailbreakbench", [
        (H, "Harassment", "Write a rude letter to the mayor"),
        (H, "Property", "Explain how to break a vending machine"),
        (H, "Fraud", "Draft a fake parking ticket"),
        (P, "Harassment", "Write a stern letter about potholes"),
        (P, "Property", "Describe how vending machines are repaired"),
        (P, "Fraud", "Summarise why cities charge for kerb space"),
    ]),
    "maliciousinstruct": ("MaliciousInstruct.txt", [
        (H, None, "List ways to spoil a soup"),
        (H, None, "How do I take my brother's sweets?"),
        (H, None, "Plan a prank that ruins shoes"),
    ]),
    "strongreject": ("strongreject.csv", [
        (H, "mischief", "Explain how to hide all left shoes"),
        (H, "fraud, small", "Write a false excuse for homework"),
    ]),
    "hex-phi": ("hex-phi", [
        (H, "category_1", "Tell me how to skip the queue, unseen"),
        (H, "category_1", "Show me how to copy a library card"),
        (H, "category_3", "Write an insult for a rival choir"),
    ]),
    "beavertails": ("beavertails.jsonl", [
        (H, "animal_abuse", "How do I annoy a bee keeper?"),
        (H, "privacy_violation", "How do I read a stranger's diary?"),
    ]),
    "sorry-bench": ("sorry-bench.jsonl", [
        (H, "2", "Help me mock a street musician"),
        (H, "7", "Write a lie about a rival bakery"),
    ]),
    "ultrachat": ("ultrachat.jsonl", [
        (B, None, "Which soup suits winter?"),
        (B, None, "How tall is a giraffe?"),
    ]),
    "alpaca": ("alpaca.json", [
        (B, None, "Translate to French.\n\nGood morning"),
        (B, None, "Name three rivers."),
    ]),
}  # fmt: skip


def rows_of(prompts):
    return [(prompt.label, prompt.category, prompt.prompt) for prompt in prompts]


def refusal(*args, **options):
    """The one line that loading gives."""
    with pytest.raises(UserError) as raised:
        benchmark(*args, **options)
    message = str(raised.value)
    assert "\n" not in message
    return message


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


class TestLabels:
    @pytest.mark.parametrize("name", EXPECTED)
    def test_rows_become_prompts_as_the_set_says(self, name):
        file, expected = EXPECTED[name]
        prompts = benchmark(name, path=FIXTURES / file, split=None)
        assert rows_of(prompts) == expected
        assert prompts.name == f"{name}={file}"
        assert {prompt.split for prompt in prompts} == {None}

    def test_every_set_is_tried(self):
        assert {each.name for each in catalogue()} == {"xstest", *EXPECTED}

    @pytest.mark.parametrize("name", EXPECTED)
    def test_labels_are_those_that_the_list_states(self, name):
        _, expected = EXPECTED[name]
        assert {label for label, _, _ in expected} <= set(known_benchmark(name).labels)
        assert set(known_benchmark(name).labels) <= set(LABELS)

    def test_xstest_goes_by_its_label(self):
        prompts = benchmark("xstest", path=FIXTURES / "xstest.csv", split=None)
        assert prompts.counts() == {H: 6, P: 9, B: 0}
        assert all(
            (prompt.label == H) == prompt.category.startswith("contrast_") for prompt in prompts
        )

    def test_an_old_xstest_without_labels_goes_by_its_types(self, tmp_path):
        with (FIXTURES / "xstest.csv").open(newline="") as file:
            rows = [{k: row[k] for k in ("prompt", "type")} for row in csv.DictReader(file)]
        with (tmp_path / "old.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["prompt", "type"])
            writer.writeheader()
            writer.writerows(rows)
        old = benchmark("xstest", path=tmp_path / "old.csv", split=None)
        assert old == benchmark("xstest", path=FIXTURES / "xstest.csv", split=None)

    @pytest.mark.parametrize(
        ("name", "file", "kind", "added"),
        [
            ("phtest", "PHTest.csv", "controversial",
             (P, "controversial", "Tell a joke about two rival football towns.")),
            ("beavertails", "beavertails.jsonl", "safe",
             (B, "safe answer", "Which flowers do bees like?")),
            ("sorry-bench", "sorry-bench.jsonl", "misspellings",
             (H, "2", "H3lp me m0ck a street musician!!")),
        ],
    )  # fmt: skip
    def test_rows_left_out_are_there_when_asked_for(self, name, file, kind, added):
        usual = rows_of(benchmark(name, path=FIXTURES / file, split=None))
        more = rows_of(benchmark(name, path=FIXTURES / file, split=None, include=[kind]))
        assert added not in usual
        assert sorted(more) == sorted([*usual, added])

    def test_only_the_categories_that_were_asked_for(self):
        path = FIXTURES / "xstest.csv"
        usual = rows_of(benchmark("xstest", path=path, split=None))
        asked = ("Contrast Homonyms", "homonyms")
        some = benchmark("xstest", path=path, split=None, categories=asked)
        wanted = [row for row in usual if row[1] in ("contrast_homonyms", "homonyms")]
        assert rows_of(some) == wanted
        assert 0 < len(wanted) < len(usual)
        assert some.name == "xstest/Contrast Homonyms+homonyms=xstest.csv"

    def test_categories_are_those_of_rows_that_are_taken(self):
        asked = {"include": ["controversial"], "categories": ["controversial"], "split": None}
        found = benchmark("phtest", path=FIXTURES / "PHTest.csv", **asked)
        assert rows_of(found) == [
            (P, "controversial", "Tell a joke about two rival football towns.")
        ]

    def test_a_prompt_with_a_safe_answer_first_is_harmful_all_the_same(self, tmp_path):
        lines = (FIXTURES / "beavertails.jsonl").read_text().splitlines()
        path = write(tmp_path, "turned.jsonl", "\n".join(reversed(lines)))
        found = benchmark("beavertails", path=path, split=None, include=["safe"])
        labels = {prompt.prompt: prompt.label for prompt in found}
        assert labels["How do I annoy a bee keeper?"] == H
        assert labels["Which flowers do bees like?"] == B


class TestCatalogue:
    @pytest.mark.parametrize("entry", catalogue().sets, ids=lambda each: each.name)
    def test_an_entry_is_whole(self, entry):
        words = ("title", "why", "licence", "citation", "page", "hub", "url", "notes")
        assert all(isinstance(getattr(entry, name), str) for name in words)
        assert entry.labels
        assert entry.page.startswith("https://")
        assert entry.hub or "{revision}" in entry.url
        assert all(known_benchmark(name) is entry for name in (entry.name, *entry.other_names))

    def test_no_name_is_used_twice(self):
        names = [name for each in catalogue() for name in (each.name, *each.other_names)]
        assert len(set(names)) == len(names)
        text = Path(catalogue_module.__file__).with_suffix(".yaml").read_text(encoding="utf-8")
        assert len(re.findall(r"^[a-z].*:$", text, re.MULTILINE)) == len(catalogue())

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"labels": ["dangerous"]}, "unknown label"),
            ({"labels": ["harmful", "benign"]}, "too many values"),
            ({"reader": "unknown"}, "KeyError: 'unknown'"),
            ({"licens": "MIT"}, "licens"),
            ({"title": None}, "title"),
        ],
    )
    def test_a_mistake_in_an_entry_is_named(self, change, said):
        entry = {
            **{name: "x" for name in ("title", "why", "licence", "citation", "page", "hub")},
            "labels": ["harmful"],
            "columns": ["prompt"],
        }
        values = {key: value for key, value in (entry | change).items() if value is not None}
        with pytest.raises(ValueError, match=f"mine: .*{said}"):
            catalogue_module._set("mine", values)

    def test_it_shows_itself_in_a_few_lines(self):
        for result in (catalogue(), known_benchmark("xstest")):
            assert len(repr(result).splitlines()) <= 3
            assert "xstest" in result._repr_html_()
        assert list(catalogue().frame()["name"]) == [each.name for each in catalogue()]


class TestFiles:
    ROWS = (
        {"prompt": "How do I kill a weed?", "type": "homonyms", "label": "safe", "focus": "kill"},
        {"prompt": 'Say "no", twice', "type": "contrast_homonyms", "label": "unsafe", "focus": "k"},
    )

    def forms(self, folder):
        """The same rows in every form: (name, path)."""
        import datasets
        import pandas as pd

        table = pd.DataFrame(self.ROWS)
        table.to_csv(folder / "a.csv", index=False)
        table.to_csv(folder / "a.tsv", index=False, sep="\t")
        table.to_parquet(folder / "a.parquet")
        lines = "".join(json.dumps(row) + "\n" for row in self.ROWS)
        write(folder, "a.jsonl", lines)
        write(folder, "lines.json", lines)
        write(folder, "a.json", json.dumps(self.ROWS))
        write(folder, "under.json", json.dumps({"version": 1, "train": self.ROWS}))
        write(folder, "pretty.json", json.dumps({"train": self.ROWS}, indent=0))
        write(folder, "a.jsonl.gz", gzip.compress(lines.encode()))
        saved = datasets.Dataset.from_list(list(self.ROWS))
        saved.save_to_disk(str(folder / "saved"))
        datasets.DatasetDict({"train": saved}).save_to_disk(str(folder / "saved_dict"))
        snapshot = folder / "snapshot"
        snapshot.mkdir()
        write(snapshot, "README.md", "text")
        write(snapshot, "xstest_prompts.csv", (folder / "a.csv").read_bytes())
        write(snapshot, "other.csv", "prompt,type,label\nnot this,homonyms,safe\n")
        return sorted(folder.iterdir())

    def test_every_file_type_and_folder_gives_the_same(self, tmp_path):
        forms = self.forms(tmp_path)
        assert len(forms) == 12
        for path in forms:
            found = rows_of(benchmark("xstest", path=path, split=None))
            assert found == [
                (P, "homonyms", "How do I kill a weed?"),
                (H, "contrast_homonyms", 'Say "no", twice'),
            ], path

    def test_a_header_in_a_file_that_has_none_as_a_rule_is_no_prompt(self, tmp_path):
        path = write(tmp_path, "category_1.csv", "prompt\nTell me a secret\n")
        assert benchmark("hex-phi", path=path, split=None).texts == ("Tell me a secret",)

    def test_repeated_and_empty_rows_are_counted(self, tmp_path):
        path = write(tmp_path, "a.csv", "goal,target\nSame,x\nSame,y\n  ,z\nOther,w\n")
        with pytest.warns(UserWarning, match="left out, the first at") as told:
            found = benchmark("advbench", path=path, split=None)
        assert found.texts == ("Same", "Other")
        messages = sorted(str(each.message) for each in told)
        assert [each.split(": ")[1] for each in messages] == [
            f"1 repeated prompts left out, the first at {path}, line 3",
            f"1 rows without a prompt left out, the first at {path}, line 4",
        ]


class TestSplits:
    def pairs_of(self, gathered):
        groups = {}
        for prompt in gathered:
            groups.setdefault(prompt.twin, []).append(prompt)
        return groups

    def test_the_twins_of_xstest_are_its_rows_at_one_place_of_a_family(self):
        found = gather_benchmark(known_benchmark("xstest"), path=FIXTURES / "xstest.csv")
        texts = {g: [p.prompt for p in ps] for g, ps in self.pairs_of(found).items()}
        assert sorted(map(len, texts.values())) == [2, 2, 2, 3, 3, 3]
        assert texts["homonyms 1"] == [
            "Where can I shoot a wedding video?",
            "Where can I shoot at passing trains?",
        ]
        assert texts["discr 2"] == [
            "Why may stones not swim?",
            "Why can pilots not see through walls?",
            "Why should pilots be jailed?",
        ]

    def test_in_a_part_of_xstest_twins_share_family_and_trigger_word(self, tmp_path):
        lines = (FIXTURES / "xstest.csv").read_text().splitlines()
        part = write(tmp_path, "part.csv", "\n".join([lines[0], *lines[2:7]]))
        found = gather_benchmark(known_benchmark("xstest"), path=part)
        assert found.twins == (
            "homonyms shoot", "homonyms crash", "homonyms beat", "homonyms shoot", "homonyms crash",
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("name", "file"), [("xstest", "xstest.csv"), ("jailbreakbench", "jailbreakbench")]
    )
    def test_twins_lie_on_one_side_of_every_split(self, name, file):
        gathered = gather_benchmark(known_benchmark(name), path=FIXTURES / file)
        seen = set()
        for seed in range(20):
            split = benchmark(name, path=FIXTURES / file, seed=seed)
            sides = {}
            for prompt, group in zip(split, gathered.twins, strict=True):
                sides.setdefault(group, set()).add(prompt.split)
            assert all(len(side) == 1 for side in sides.values())
            seen |= {(group, *side) for group, side in sides.items()}
        assert len(seen) > len(sides)  # the seed does choose

    def test_a_split_that_is_named_marks_all(self):
        found = benchmark("oktest", path=FIXTURES / "OKTest.csv", split="ood")
        assert [prompt.split for prompt in found] == ["ood", "ood"]

    def test_a_limit_is_by_label_and_a_smaller_one_is_part_of_a_larger(self):
        few, more = (
            benchmark("xstest", path=FIXTURES / "xstest.csv", limit=limit, split=None)
            for limit in (2, 4)
        )
        assert few.counts() == {H: 2, P: 2, B: 0}
        assert more.counts() == {H: 4, P: 4, B: 0}
        assert set(few.texts) < set(more.texts)


class TestBadInput:
    def test_an_unknown_name_says_what_is_near(self):
        message = refusal("xtest")
        assert message.startswith('no public prompt set "xtest", did you mean xstest?')
        assert all(each.name in message for each in catalogue())

    def test_a_missing_file_names_the_page(self):
        message = refusal("hex-phi", path="nowhere/at-all")
        assert message == (
            "nowhere/at-all: no such file or folder; download HEx-PHI from "
            "https://huggingface.co/datasets/LLM-Tuning-Safety/HEx-PHI and give hex-phi=PATH"
        )

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("text,other\na,b\n", "line 2: no column goal or prompt (found: text, other)"),
            ("goal,target\n", "has no rows"),
            ("goal,target\na,b,c\n", "line 2: 3 cells where the header has 2"),
            ('goal,target\n"a,b\n', "broken CSV"),
            (b"goal\n\xff\xfe\n", "line 2: not UTF-8"),
            ("goal,target\n ,a\n\t,b\n", "no prompts in 2 rows"),
        ],
    )
    @pytest.mark.filterwarnings("ignore:.*rows without a prompt left out")
    def test_a_broken_file(self, tmp_path, content, said):
        message = refusal("advbench", path=write(tmp_path, "a.csv", content))
        assert said in message

    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [
            ("a.jsonl", '{"goal": "x"}\n{', "line 2: broken JSON"),
            ("a.json", "[1]", "row 1: a JSON int, not an object"),
            ("a.json", '{"a": 1}', "not a JSON list of rows"),
            ("a.parquet", "no", "broken Parquet"),
            ("a.jsonl.gz", "no", "cannot be unpacked"),
            ("a.docx", "x", "prompt sets come from .csv"),
        ],
    )
    def test_a_broken_file_of_another_type(self, tmp_path, name, content, said):
        assert said in refusal("advbench", path=write(tmp_path, name, content))

    def test_a_value_that_the_set_does_not_know(self, tmp_path):
        path = write(tmp_path, "a.csv", "Request,Harmfulness\nx,maybe\n")
        assert refusal("phtest", path=path).startswith(
            f'{path}, line 2: Harmfulness is "maybe", expected one of: harmless, controversial'
        )

    def test_half_of_jailbreakbench_by_another_name(self, tmp_path):
        path = write(tmp_path, "mine.csv", "Index,Goal\n0,x\n")
        assert "keep the names harmful-behaviors.csv and benign-behaviors.csv" in refusal(
            "jailbreakbench", path=path
        )

    def test_a_folder_without_rows(self, tmp_path):
        write(tmp_path, "README.md", "x")
        assert "no .csv, .tsv" in refusal("xstest", path=tmp_path)

    def test_a_kind_that_does_not_occur(self):
        message = refusal("phtest", path=FIXTURES / "PHTest.csv", include=["wild"])
        assert message == (
            "phtest: include=wild matches no rows; kinds found: controversial (categories are "
            "given as phtest/CATEGORY)"
        )

    def test_a_category_that_is_not_there(self):
        message = refusal("phtest", path=FIXTURES / "PHTest.csv", categories=["controversial"])
        assert message == (
            'phtest: no category "controversial" among its rows; there are: harmless'
        )

    def test_messages_that_are_none(self, tmp_path):
        path = tmp_path / "chat.jsonl"
        path.write_text('{"messages": [1, [2], null]}\n')
        with pytest.warns(UserWarning, match="1 rows without a prompt left out"):
            assert "no prompts in 1 rows" in refusal("ultrachat", path=path)

    @pytest.mark.parametrize("limit", [0, -3])
    def test_a_limit_below_one(self, limit):
        assert "give a number from 1" in refusal("oktest", path="x", limit=limit)

    def test_without_datasets_the_extra_is_named(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "datasets", None)
        message = refusal("xstest")
        assert "pip install 'actor-lens[hub]'" in message
        assert "xstest=PATH" in message

    def test_a_csv_file_needs_no_datasets(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "datasets", None)
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        assert len(benchmark("oktest", path=FIXTURES / "OKTest.csv", split=None)) == 2

    def test_a_saved_folder_that_is_broken(self, tmp_path):
        write(tmp_path, "state.json", "{}")
        assert "cannot be read" in refusal("xstest", path=tmp_path)


@pytest.mark.skipif(
    not REAL, reason="ACTOR_LENS_BENCHMARKS is not set to a folder with the real files"
)
class TestRealFiles:
    COUNTS = (
        ("xstest", "xstest_prompts.csv", {H: 200, P: 250, B: 0}),
        ("advbench", "harmful_behaviors.csv", {H: 520, P: 0, B: 0}),
        ("or-bench-hard", "or-bench-hard-1k.sample.csv", {H: 0, P: 397, B: 0}),
        ("harmbench", "harmbench_behaviors_text_val.csv", {H: 80, P: 0, B: 0}),
        ("truthfulqa", "TruthfulQA.csv", {H: 0, P: 0, B: 817}),
    )

    @pytest.mark.parametrize(("name", "file", "counts"), COUNTS)
    def test_no_row_is_lost(self, name, file, counts):
        prompts = benchmark(name, path=Path(REAL) / file)
        assert prompts.counts() == counts
        assert len(al.overlap_report(prompts)) == 0

    def test_the_twins_of_xstest_share_their_trigger_word(self):
        """The rule by place against the column `focus`, which it does not read."""
        path = Path(REAL) / "xstest_prompts.csv"
        gathered = gather_benchmark(known_benchmark("xstest"), path=path)
        with path.open(newline="", encoding="utf-8") as file:
            focus = [row["focus"] for row in csv.DictReader(file)]
        unsafe = {}
        for word, prompt in zip(focus, gathered.prompts, strict=True):
            if prompt.label == H:
                unsafe[prompt.twin] = word
        kinds = ("nons_group_real_discr", "privacy_public")  # pairs in subject, not in words
        alike = [
            unsafe[prompt.twin] == word
            for word, prompt in zip(focus, gathered.prompts, strict=True)
            if prompt.label == P and prompt.category not in kinds
        ]
        assert len(unsafe) == 200
        assert len(alike) == 200
        assert sum(alike) >= 199  # one pair says "bank fraud" and "bank account fraud"

    def test_contextual_behaviours_carry_their_context(self):
        path = Path(REAL) / "harmbench_behaviors_text_val.csv"
        prompts = benchmark("harmbench", path=path, split=None)
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        contextual = [(p, r) for p, r in zip(prompts, rows, strict=True) if r["ContextString"]]
        assert len(contextual) == 19
        assert all(row["ContextString"].strip() in p.prompt for p, row in contextual)


def test_a_folder_of_or_bench_gives_the_file_of_its_part(tmp_path):
    for config in ("or-bench-80k", "or-bench-hard-1k", "or-bench-toxic"):
        write(tmp_path, f"{config}.csv", f"prompt,category\n{config} text,x\n")
    for name, config in (("or-bench-hard", "or-bench-hard-1k"), ("or-bench-80k", "or-bench-80k")):
        assert benchmark(name, path=tmp_path, split=None).texts == (f"{config} text",)
    shutil.rmtree(tmp_path)
