"""Benchmarks are run by the real lm-eval, offline, and its figures are those of the model.

Truth is the choice whose tokens the Hugging Face model finds most likely, reckoned apart. Task
files and their data are written by the tests.
"""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from actor_lens.errors import UserError
from actor_lens.evaluation.harness import run_tasks
from actor_lens.evaluation.utility import measure_utility
from actor_lens.export.folders import export_model
from actor_lens.models.chat_model import ChatModel, load_model
from actor_lens.models.chat_templates import PINNED_DATE
from tests.support.tiny_models import tiny_chat_model
from tests.support.tiny_runs import copied_tensors, quick_run, same_bits

# Of lm-eval and of what it loads: old spellings that are theirs to change, and files that are left
# to the garbage collector by `datasets`.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

WORDS = ("blue", "red", "green", "ash")


@pytest.fixture(autouse=True)
def no_network_and_own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def write_task(folder: Path, questions: int = 12, **changed: object) -> str:
    """Which of four words comes next; the right one by turns."""
    folder.mkdir(exist_ok=True)
    rows = [{"question": f"Word {i} is", "answer": i % 4} for i in range(questions)]
    (folder / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task: dict[str, Any] = {
        "task": "words",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "words.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": list(WORDS),
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (folder / "words.yaml").write_text(json.dumps(task | changed))
    return "words"


def accuracy(model: ChatModel, questions: int) -> float:
    """Share of questions whose right word is the likeliest, by passes of the plain model."""

    def likelihood(question: str, word: str) -> float:
        start, end = (
            model.tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in (question, f" {word}")
        )
        with torch.no_grad():
            logits = model.hf(torch.tensor([[*start, *end]])).logits[0].double().log_softmax(-1)
        places = range(len(start) - 1, len(start) + len(end) - 1)
        return sum(float(logits[place, token]) for place, token in zip(places, end, strict=True))

    right = 0
    for i in range(questions):
        found = [likelihood(f"Word {i} is", word) for word in WORDS]
        right += found.index(max(found)) == i % 4
    return right / questions


def test_the_figures_are_those_of_the_model(tmp_path: Path):
    model = tiny_chat_model()
    before = copied_tensors(model)
    task = write_task(tmp_path / "tasks")
    found = run_tasks(model, [task], include_path=tmp_path / "tasks")
    frame = found.frame()
    assert list(frame.columns) == ["task", "metric", "value", "stderr", "samples", "few_shot"]
    row = frame.iloc[0]
    assert (row["task"], row["metric"], row["samples"], row["few_shot"]) == ("words", "acc", 12, 0)
    assert len(frame) == 1
    assert row["value"] == pytest.approx(accuracy(model, 12))
    assert row["stderr"] > 0
    assert same_bits(before, copied_tensors(model))


@pytest.mark.parametrize("switched_off", ["0", "1"])
def test_bars_are_drawn_unless_they_are_switched_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, switched_off: str
):
    monkeypatch.setenv("TQDM_DISABLE", switched_off)
    task = write_task(tmp_path / "tasks")
    run_tasks(tiny_chat_model(), [task], include_path=tmp_path / "tasks", limit=2)
    assert ("loglikelihood" in capsys.readouterr().err) == (switched_off == "0")


def test_chat_questions_come_as_the_model_is_spoken_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """With its system prompt, thinking off where there is the switch, and the pinned date."""
    from lm_eval.models.huggingface import HFLM

    model = tiny_chat_model().with_system_prompt("Be brief.")
    model.tokenizer.chat_template += "{% if enable_thinking is false %}(no thoughts){% endif %}"
    model.tokenizer.chat_template += "{{ strftime_now('(%d.%m.%Y)') }}"
    seen: list[str] = []
    plain = HFLM.apply_chat_template

    def watched(self, *arguments, **settings):
        seen.append(plain(self, *arguments, **settings))
        return seen[-1]

    monkeypatch.setattr(HFLM, "apply_chat_template", watched)
    task = write_task(tmp_path / "tasks")
    run_tasks(model, [task], include_path=tmp_path / "tasks", chat=True, limit=2)
    assert seen
    for text in seen:
        assert "Be brief." in text
        assert "(no thoughts)" in text
        assert f"{PINNED_DATE:(%d.%m.%Y)}" in text


def test_an_exported_bundled_model_reaches_what_the_run_reaches(tmp_path: Path):
    model = load_model("toy")
    run = quick_run(model, layer=3, lr=1e-2)
    export_model(model, run, tmp_path / "exported")
    task = write_task(tmp_path / "tasks")
    settings: dict[str, Any] = {"include_path": tmp_path / "tasks", "limit": 8}
    inside = run_tasks(model, [task], run=run, **settings)
    assert run_tasks(load_model(tmp_path / "exported"), [task], **settings) == inside
    with run.applied_to(model):
        assert inside.scores[0].value == pytest.approx(accuracy(model, 8))
    assert inside.scores[0].samples == inside.limit == 8


def test_the_guide_shows_a_task_file_that_reads_a_table_of_mmlu(tmp_path: Path):
    guide = Path(__file__).parents[2] / "docs" / "guides" / "utility.md"
    task, _ = re.findall(r"```yaml\n(.*?)```", guide.read_text(encoding="utf-8"), re.DOTALL)
    table = tmp_path / "mmlu.csv"
    (tmp_path / "local_mmlu.yaml").write_text(task.replace("/data/mmlu.csv", str(table)))
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["subject", "row", "question", "A", "B", "C", "D", "answer"])
        for number in range(6):
            writer.writerow(["law", 0, f'Which, "{number}"?', *WORDS, "ABCD"[number % 4]])
    settings: dict[str, Any] = {"include_path": tmp_path, "limit": 4, "num_fewshot": 1}
    scores = run_tasks(tiny_chat_model(), ["local_mmlu"], **settings).scores
    assert [(score.metric, score.samples, score.few_shot) for score in scores] == [("acc", 4, 1)]
    assert scores[0].value in (0.0, 0.25, 0.5, 0.75, 1.0)


def test_mmlu_is_measured_by_its_four_groups_and_as_a_whole(tmp_path: Path):
    """The group file of the guide over tables of different lengths: shares weigh by questions."""
    guide = Path(__file__).parents[2] / "docs" / "guides" / "utility.md"
    blocks = re.findall(r"```yaml\n(.*?)```", guide.read_text(encoding="utf-8"), re.DOTALL)
    folder = tmp_path / "tasks"
    counts = {"stem": 5, "humanities": 3, "social_sciences": 4, "other": 2}
    for group, count in counts.items():
        own = folder / group
        own.mkdir(parents=True)
        write_task(own, count, task=f"mmlu_{group}")
    (folder / "mmlu.yaml").write_text(blocks[1])
    model = tiny_chat_model()
    run = quick_run(model, layer=3, lr=1e-2)
    found = measure_utility(model, run, tasks=["mmlu"], include_path=folder)
    table = found.frame().set_index("measure")
    shares = {group: accuracy(model, count) for group, count in counts.items()}
    assert dict(table["n"]) == {
        "mmlu (0-shot)": 14,
        **{f"mmlu_{group} (0-shot)": count for group, count in counts.items()},
    }
    for group, share in shares.items():
        assert table.loc[f"mmlu_{group} (0-shot)", "before"] == pytest.approx(share)
    whole = sum(share * counts[group] for group, share in shares.items()) / 14
    assert table.loc["mmlu (0-shot)", "before"] == pytest.approx(whole)
    assert list(table["claim"].notna()) == [name == "mmlu (0-shot)" for name in table.index]


@pytest.mark.parametrize(
    ("tasks", "settings", "message"),
    [
        ([], {}, "no tasks were given; give a list"),
        ("words", {}, "no tasks were given; give a list"),
        (["words"], {"limit": 0}, "limit is 0"),
        (["words"], {"num_fewshot": -1}, "num_fewshot is -1"),
        (["words"], {"include_path": "nowhere"}, "nowhere: is no folder"),
        (["no such task"], {}, "task 'no such task' is not known to lm-eval"),
    ],
)
def test_what_cannot_be_run_is_told(tasks: list[str], settings: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        run_tasks(tiny_chat_model(), tasks, **settings)


@pytest.mark.parametrize("broken", ["missing data", "template"])
def test_a_broken_task_is_one_line(tmp_path: Path, broken: str):
    model = tiny_chat_model()
    if broken == "missing data":
        write_task(tmp_path / "tasks")
        (tmp_path / "tasks" / "words.jsonl").unlink()
    else:
        write_task(tmp_path / "tasks", doc_to_text="{{question")
    with pytest.raises(UserError, match="tasks words cannot be run") as told:
        run_tasks(model, ["words"], include_path=tmp_path / "tasks")
    assert "\n" not in str(told.value)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", None)
    with pytest.raises(UserError, match=r"pip install 'actor-lens\[tasks\]'"):
        run_tasks(tiny_chat_model(), ["words"])
