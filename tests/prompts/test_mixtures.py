"""Several sources in one line are split as one: nothing that resembles a test prompt is trained on.

The laws: each part of a line is a source with its path and number; prompts of two parts that are
equal or near-duplicates lie in one split; splits that are given stay; `paper` takes any part from
a file and puts OKTest out of distribution and AdvBench into the test.
"""

import json
from collections import Counter
from pathlib import Path

import pytest

import actor_lens as al
from actor_lens.errors import UserError
from actor_lens.prompts.mixtures import PAPER, Part, load_mixture, parse_mixture

# Files of a few rows, of sets that their columns do not tell.
pytestmark = pytest.mark.filterwarnings("ignore:.*check that it is that set, and the whole of it")

FIXTURES = Path(__file__).parents[1] / "fixtures" / "benchmarks"
P, H, B = "pseudo_harmful", "harmful", "benign"
TESTS = (("xstest", 150), ("scope", 593), ("or-bench-hard", 1219), ("phtest", 1977))
GIVEN = {"hex-phi": "train", "oktest": "ood", "advbench": "test", "harmbench": "validation"}
SYLLABLES = "ba ce di fo gu ha je ki lo mu na pe ri so tu va we xi yo zu".split()


def word(number):
    """Words that have little in common, one for each number."""
    made = ""
    for step in range(5):
        made += SYLLABLES[(number * 7 + step * 3 + number // 20 * (step + 5)) % 20]
    return f"{made}{number}"


def sentences(start, count):
    return [f"{word(n)} {word(n + 5000)} {word(n + 9000)}" for n in range(start, start + count)]


@pytest.fixture
def files(tmp_path):
    """A file of 20 rows for each part of the paper."""
    made = {}
    for number, part in enumerate(PAPER):
        texts = sentences(100 * number, 20)
        path = tmp_path / f"{part.name}.jsonl"
        extra = {"type": "homonyms", "label": "safe", "Harmfulness": "harmless"}
        columns = ("prompt", "Request", "goal", "Behavior")
        rows = [{**dict.fromkeys(columns, text), **extra} for text in texts]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        made[part.name] = path
    return made


def refusal(line):
    with pytest.raises(UserError) as raised:
        al.load_prompts(line)
    assert "\n" not in str(raised.value)
    return str(raised.value)


class TestParsing:
    def test_names_paths_and_numbers(self):
        assert parse_mixture("XSTest=a b/c.csv, advbench ,ultrachat:200,starter,scope:5=x") == (
            Part("xstest", path="a b/c.csv"),
            Part("advbench"),
            Part("ultrachat", limit=200),
            Part("starter"),
            Part("scope", path="x", limit=5),
        )

    def test_categories_and_kinds(self):
        assert parse_mixture("xstest/homonyms+safe targets:9=x, PHTest+controversial") == (
            Part("xstest", path="x", limit=9, categories=("homonyms", "safe targets")),
            Part("phtest", include=("controversial",)),
        )
        by_name = {p.name: p for p in parse_mixture("paper,phtest+controversial,xstest/homonyms")}
        counts = {name: {"train": 25, "test": test, "validation": 75} for name, test in TESTS}
        assert by_name["phtest"] == Part(
            "phtest", counts=counts["phtest"], include=("controversial",)
        )
        assert by_name["xstest"] == Part(
            "xstest", label=P, counts=counts["xstest"], categories=("homonyms",)
        )

    def test_paper_is_its_parts_with_what_was_given_instead(self):
        parts = parse_mixture("paper,hexphi=here,phtest:7,alpaca")
        assert [part.name for part in parts] == [*(part.name for part in PAPER), "alpaca"]
        by_name = {part.name: part for part in parts}
        assert by_name["hex-phi"].path == "here"
        assert (by_name["phtest"].limit, by_name["phtest"].counts) == (7, {})
        assert {p.name: p.split for p in parts if p.split} == GIVEN

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("xstest,", "an empty part"),
            ("xstest=", "an empty part"),
            ("xstest/", "an empty part"),
            ("xstest/homonyms+", "an empty part"),
            ("phtest+", "an empty part"),
            ("starter,/nowhere/at all.csv", "no such prompt file"),
            ("xstest/nowhere.csv", "no such prompt file"),
            ("xstest,xstest=a.csv", "xstest is named twice"),
            ("ultrachat:many", "a number of prompts from 1 is expected"),
            ("ultrachat:0", "a number of prompts from 1 is expected"),
            ("xtest=a.csv", "did you mean xstest?"),
            ("starter,nowhere.jsonl", "no such prompt file"),
        ],
    )
    def test_what_cannot_be_read(self, line, said):
        assert said in refusal(line)


class TestLoading:
    def test_one_set_from_a_file_is_what_benchmark_gives(self):
        path = FIXTURES / "xstest.csv"
        loaded = al.load_prompts(f"xstest={path}", seed=3)
        assert loaded == al.benchmark("xstest", path=path, seed=3)
        assert loaded.name == "xstest=xstest.csv"

    def test_several_sources_are_told_apart_by_category(self, files):
        mixed = al.load_prompts(f"xstest={files['xstest']},ultrachat:10={files['ultrachat']}")
        assert Counter(prompt.category for prompt in mixed) == {
            "xstest/homonyms": 20,
            "ultrachat": 10,
        }
        assert mixed.name == "xstest=xstest.jsonl,ultrachat=ultrachat.jsonl"
        assert all(len(part) for part in mixed.by_split())

    def test_a_set_by_category_and_by_kind(self):
        one = FIXTURES / "xstest.csv"
        mixed = al.load_prompts(f"xstest/homonyms+contrast-homonyms={one}")
        wanted = {"homonyms", "contrast_homonyms"}
        assert {prompt.category for prompt in mixed} == wanted
        whole = al.benchmark("xstest", path=one)
        assert set(mixed.texts) == {p.prompt for p in whole if p.category in wanted}
        both = f"phtest+controversial={FIXTURES / 'PHTest.csv'},starter"
        with_kind = {prompt.category for prompt in al.load_prompts(both)}
        assert {"phtest/harmless", "phtest/controversial"} < with_kind

    def test_bundled_prompts_keep_their_splits(self, files):
        mixed = al.load_prompts(f"starter,oktest={files['oktest']}")
        starter = al.load_prompts("starter")
        own = [p for p in mixed if p.category.startswith("starter/")]
        assert [(p.prompt, p.split) for p in own] == [(p.prompt, p.split) for p in starter]

    def test_the_paper_from_files(self, files):
        line = "paper," + ",".join(f"{name}={path}" for name, path in files.items())
        mixed = al.load_prompts(line, seed=1)
        assert mixed.counts() == {H: 60, P: 100, B: 20}
        for name, split in GIVEN.items():
            assert {p.split for p in mixed if p.category.startswith(name)} == {split}
        scope = Counter(p.split for p in mixed if p.category.startswith("scope"))
        assert scope == {"train": 10, "validation": 4, "test": 6}  # too few for the paper's numbers
        for part in mixed.by_split():
            assert all(part.counts().values())
        assert mixed.name.startswith("paper(hex-phi=")
        assert al.load_prompts(line, seed=1) == mixed

    def test_twins_and_near_duplicates_across_parts_share_a_split(self, tmp_path):
        texts = sentences(0, 30)
        adv = tmp_path / "adv.csv"
        adv.write_text("goal\n" + "\n".join(texts))
        strong = tmp_path / "strong.csv"
        strong.write_text("forbidden_prompt\n" + "\n".join(f"Please {text}!" for text in texts))
        for seed in range(5):
            mixed = load_mixture(f"advbench={adv},strongreject={strong}", seed=seed)
            assert len(mixed) == 60
            first, second = mixed[:30], mixed[30:]
            assert [p.split for p in first] == [p.split for p in second]

    def test_the_paper_counts_prompts_and_draws_evenly_from_topics(self, files):
        """XSTest 25, 150 and 75; UltraChat 30 of each of seven topics; twins on one side."""
        safe = sentences(5000, 245)
        twins = [f"Please, {text}?" for text in safe[:30]]
        rows = [{"prompt": text, "type": "homonyms", "label": "safe"} for text in safe + twins]
        files["xstest"].write_text("".join(json.dumps(row) + "\n" for row in rows))
        rows = [
            {"prompt": text, "topic": f"topic {number % 7}"}
            for number, text in enumerate(sentences(7000, 420))
        ]
        files["ultrachat"].write_text("".join(json.dumps(row) + "\n" for row in rows))
        line = "paper," + ",".join(f"{name}={path}" for name, path in files.items())
        mixed = al.load_prompts(line)
        splits = Counter(p.split for p in mixed if p.category.startswith("xstest"))
        assert (splits["train"], splits["test"]) == (25, 150)
        assert 40 <= splits["validation"] <= 75
        benign = mixed.where(label="benign")
        assert Counter(p.split for p in benign) == {"train": 210, "test": 70, "validation": 70}
        assert set(Counter(p.category for p in benign.where(split="train")).values()) == {30}
        assert len(al.overlap_report(mixed)) == 0

    def test_given_splits_stay_and_what_leaks_is_told(self, files):
        texts = sentences(0, 20)  # those of hex-phi, all of which the paper trains on
        files["advbench"].write_text(
            "".join(json.dumps({"goal": f"Please, {text}?"}) + "\n" for text in texts[:8])
        )
        line = ",".join(f"{name}={files[name]}" for name in GIVEN)
        with pytest.warns(UserWarning, match="8 training prompts resemble test prompts and stay"):
            mixed = al.load_prompts(
                f"paper,{line},ultrachat:9={files['ultrachat']},"
                + ",".join(f"{name}:9={files[name]}" for name, _ in TESTS)
            )
        assert {p.split for p in mixed if p.prompt in texts} == {"train"}

    def test_what_resembles_a_test_prompt_is_not_trained_on(self, files):
        texts = sentences(300, 20)  # those of scope
        files["advbench"].write_text(
            "".join(json.dumps({"goal": f"Please, {text}?"}) + "\n" for text in texts[:8])
        )
        files["oktest"].write_text(
            "".join(json.dumps({"prompt": f"How do I {text}"}) + "\n" for text in texts[8:11])
        )
        line = "paper," + ",".join(f"{name}={path}" for name, path in files.items())
        with pytest.warns(UserWarning, match="resemble") as told:
            mixed = al.load_prompts(line)
        said = [str(each.message).rpartition("): ")[2] for each in told]
        said = [text for text in said if "resemble" in text]
        assert said == [
            "3 prompts left out, as they resemble ood prompts",
            "8 prompts went where the prompts are that they resemble",
        ]
        assert {p.split for p in mixed if p.prompt in texts[:8]} == {"test"}
        assert not {p.prompt for p in mixed} & set(texts[8:11])
        assert len(al.overlap_report(mixed)) == 0

    def test_a_prompt_with_two_labels_is_in_neither(self, files):
        same = sentences(0, 3)
        for name, column in (("advbench", "goal"), ("oktest", "prompt")):
            rows = [{column: text} for text in [*same, *sentences(700 + 50 * len(name), 9)]]
            files[name].write_text("".join(json.dumps(row) + "\n" for row in rows))
        with pytest.warns(UserWarning, match="3 prompts left out, as two parts give them diff"):
            with pytest.warns(UserWarning, match="3 prompts occur in two parts"):
                mixed = al.load_prompts(f"advbench={files['advbench']},oktest={files['oktest']}")
        assert not set(mixed.texts) & set(same)

    def test_a_folder_of_a_sets_name_does_not_hide_the_set(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "xstest").mkdir()
        assert "the hub is switched off" in refusal("xstest")

    def test_a_part_that_cannot_be_loaded_is_named(self, files):
        message = refusal(f"xstest={files['xstest']},hex-phi=nowhere")
        assert message.startswith("nowhere: no such file or folder; download HEx-PHI from https://")


def test_a_part_that_is_kept_for_the_end_is_whole_and_nothing_like_it_is_trained_on(tmp_path):
    """Marked @ood, a file loses its own splits, and what it shares with another part."""
    texts = sentences(0, 40)
    rows = [
        {"prompt": text, "label": label, "source": "mine"}
        for label, chosen in ((H, texts[:20]), (B, texts[20:]))
        for text in chosen
    ]
    kept = [{**row, "split": "train"} for row in rows[18:22]]  # two of each label, equal to ours
    kept += [
        {"prompt": f"{texts[0]} again", "label": H, "split": "train"},  # resembles one of ours
        *({"prompt": text, "label": B, "split": "test"} for text in sentences(300, 5)),
    ]
    for name, content in (("own.jsonl", rows), ("kept.jsonl", kept)):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in content))
    own, end = tmp_path / "own.jsonl", tmp_path / "kept.jsonl"

    with pytest.warns(al.prompts.PromptWarning):
        prompts = al.load_prompts(f"{own},{end}@ood")

    asked = {prompt.prompt for prompt in prompts["ood"]}
    assert asked >= {f"{texts[0]} again", *sentences(300, 5)}
    others = {prompt.prompt for prompt in prompts if prompt.split != "ood"}
    assert others == set(texts) - set(texts[18:22]) - {texts[0]}
    assert not others & asked


def test_a_part_of_the_paper_can_be_kept_for_the_end_and_all_of_it_cannot():
    splits = {part.name: part.split for part in parse_mixture("paper,xstest=here@ood")}
    assert splits == {name: GIVEN.get(name) for name in splits} | {"xstest": "ood"}
    assert "put @ood behind one of them" in refusal("starter,paper@ood")


@pytest.mark.parametrize("line", ["starter,@ood", "xstest=@ood", "nothing-known@ood,starter"])
def test_an_end_without_a_part_is_refused_in_one_line(line):
    refusal(line)
