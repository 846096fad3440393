"""MT-Bench: replies are those of plain greedy decoding, ratings those of a server on loopback.

The second turn follows the model's own first reply, the judge sees the conversation up to the reply
that it rates, and a mean is that of the ratings that could be read both times.
"""

import json
from collections import defaultdict
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from actor_lens.errors import UserError
from actor_lens.evaluation import mt_bench
from actor_lens.evaluation.mt_bench import Question, rate_mt_bench, read_mt_bench
from actor_lens.evaluation.utility import measure_utility
from actor_lens.judges.keywords import KeywordJudge
from actor_lens.judges.language_model import LanguageModelJudge
from actor_lens.judges.verdict_cache import VerdictCache
from actor_lens.methods.support.system_turn import with_system_text
from actor_lens.models.chat_templates import LaterMessage
from actor_lens.prompts.public.rows import Row
from tests.support.greedy import greedy_ids
from tests.support.judge_server import judge_server, reach_loopback, said
from tests.support.tiny_models import tiny_chat_model

NEW_TOKENS = 6
ROWS = [
    {"question_id": 81, "category": "writing", "turns": ["Write a haiku.", "Now in red."]},
    {"question_id": 111, "category": "math", "turns": ["What is 2+2?", "And 3+3?"]},
    {"question_id": 112, "category": "math", "turns": ["Is 7 prime?", "Is 8?"]},
]
ANSWERS = {111: ["4", "6"], 112: ["Yes", "No"]}


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def bench(tmp_path):
    """The folder as FastChat has it; answers of other models beside it are not looked at."""
    write(tmp_path / "mt" / "question.jsonl", ROWS)
    answers = [{"question_id": n, "choices": [{"turns": both}]} for n, both in ANSWERS.items()]
    write(tmp_path / "mt" / "reference_answer" / "gpt-4.jsonl", answers)
    write(tmp_path / "mt" / "model_answer" / "other.jsonl", [{"question_id": 81, "choices": []}])
    return tmp_path / "mt"


@pytest.fixture
def make(tmp_path, monkeypatch):
    reach_loopback(monkeypatch)
    cache = VerdictCache(tmp_path / "verdicts.sqlite")
    return lambda server: LanguageModelJudge("m", server.url, cache=cache)


def asked(request):
    return json.loads(request["messages"][1]["content"])


def rating(about):
    """A rating that depends on all that is sent."""
    return sum(json.dumps(about).encode()) % 10 + 1


def rate(_times, request):
    return said(json.dumps({"verdict": rating(asked(request))}))


class Noise:
    """A change under which the model says something else."""

    @contextmanager
    def applied_to(self, model):
        weights = model.hf.lm_head.weight.data
        kept, generator = weights.clone(), torch.Generator().manual_seed(0)
        weights += torch.randn(weights.shape, generator=generator)
        try:
            yield model
        finally:
            weights.copy_(kept)


def greedy_reply(model, turns):
    """A reply to turns, the template written out and one pass of the whole text a token."""
    text = "<s>" + "".join(
        f"<{('user', 'assistant')[place % 2]}>{turn}<end>" for place, turn in enumerate(turns)
    )
    ids = model.tokenizer(f"{text}<assistant>", add_special_tokens=False)["input_ids"]
    ends = (model.tokenizer.eos_token_id, model.tokenizer.convert_tokens_to_ids("<end>"))
    reply = greedy_ids(model.hf, ids, NEW_TOKENS, ends)
    return model.tokenizer.decode(reply, skip_special_tokens=True).strip()


def conversations(model, references=ANSWERS):
    """What a judge must be sent of each question: both turns, each with its reference."""
    for row in ROWS:
        first, second = row["turns"]
        reply = greedy_reply(model, [first])
        said_so_far = [{"user": first}, {"assistant": reply}]
        last = greedy_reply(model, [first, reply, second])
        whole = [*said_so_far, {"user": second}, {"assistant": last}]
        told = references.get(row["question_id"], [None, None])
        for turns, reference in zip((said_so_far, whole), told, strict=True):
            yield {"conversation": turns, **({"reference": reference} if reference else {})}


def test_the_judge_is_sent_the_conversation_with_the_models_own_first_reply(bench, make):
    model = tiny_chat_model()
    with judge_server(rate) as server:
        found = rate_mt_bench(model, read_mt_bench(bench), make(server), new_tokens=NEW_TOKENS)
    expected = list(conversations(model))
    key = json.dumps
    assert sorted(map(key, map(asked, server.requests))) == sorted(map(key, expected))
    assert found.frame()["rating"].tolist() == [rating(about) for about in expected]
    assert found.frame()["category"].tolist() == ["writing"] * 2 + ["math"] * 4
    assert repr(found).startswith("Ratings: 3 questions, ")


def test_means_are_those_of_the_ratings_that_were_read_both_times(bench, make):
    model = tiny_chat_model()
    run = Noise()
    before = list(conversations(model))
    with run.applied_to(model):
        after = list(conversations(model))
    assert before != after
    lost = json.dumps(after[3])  # the second turn of the second question

    def mostly(times, request):
        return said("ten") if json.dumps(asked(request)) == lost else rate(times, request)

    with judge_server(mostly) as server:
        found = measure_utility(
            model, run, mt_bench=bench, judge=make(server), mt_bench_tokens=NEW_TOKENS
        )
    parts = defaultdict(list)
    for place, pair in enumerate(zip(before, after, strict=True)):
        if place != 3:
            pair = tuple(map(rating, pair))
            parts["MT-Bench"].append(pair)
            parts[f"MT-Bench, turn {place % 2 + 1}"].append(pair)
            parts[f"MT-Bench, {ROWS[place // 2]['category']}"].append(pair)
    assert {one.measure for one in found.measures} == set(parts)
    for one in found.measures:
        means = np.mean(parts[one.measure], axis=0)
        assert (one.before, one.after, one.n) == pytest.approx((*means, len(parts[one.measure])))
    (whole,) = (one for one in found.measures if one.benchmark is not None)
    assert whole.change == pytest.approx(100 * (whole.after / whole.before - 1))
    firsts = [rating(about) for about in before]
    by_question = [np.mean(firsts[:2]), firsts[2], np.mean(firsts[4:])]
    assert whole.stderr == pytest.approx(np.std(by_question, ddof=1) / np.sqrt(3))
    assert "MT-Bench changed by" in found.claim


def test_a_set_with_references_in_its_rows_is_read_as_the_hub_has_it(tmp_path, monkeypatch):
    rows = [
        {"category": "math", "prompt": ["2+2?", "3+3?"], "reference": ["4", ""], "prompt_id": 1},
        {"category": "writing", "prompt": ["A haiku.", "Again."], "reference": [], "prompt_id": 2},
    ]
    expected = (
        Question("math", ("2+2?", "3+3?"), ("4", None)),
        Question("writing", ("A haiku.", "Again."), (None, None)),
    )
    assert read_mt_bench(write(tmp_path / "own.jsonl", rows)) == expected
    placed = [Row(row, "train", f"row {n}") for n, row in enumerate(rows)]
    monkeypatch.setattr(mt_bench, "hub_rows", lambda benchmark: (placed, benchmark.hub))
    assert read_mt_bench("hub") == expected


GOOD = {"category": "math", "turns": ["a", "b"]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "How?", "label": "benign"}, "line 2: is no question of MT-Bench"),
        ({**GOOD, "turns": ["a"]}, "line 2: is no question"),
        ({**GOOD, "turns": ["a", " "]}, "line 2: is no question"),
        ({**GOOD, "turns": "a b"}, "line 2: is no question"),
        ({**GOOD, "category": ""}, "line 2: is no question"),
        ({**GOOD, "reference": "4"}, "line 2: is no question"),
        ({**GOOD, "reference": ["4", "5", "6"]}, "line 2: is no question"),
        ({**GOOD, "reference": [4, 5]}, "line 2: is no question"),
    ],
)
def test_a_file_of_another_form_is_one_line(tmp_path, row, message):
    with pytest.raises(UserError, match=message) as told:
        read_mt_bench(write(tmp_path / "q.jsonl", [GOOD, row]))
    assert "\n" not in str(told.value)


def test_what_cannot_be_rated_is_told_before_anything_is_asked(tmp_path, bench):
    with pytest.raises(UserError, match="no such file or folder"):
        read_mt_bench(tmp_path / "none.jsonl")
    with pytest.raises(UserError, match=r"has no rows; MT-Bench has a row a question"):
        read_mt_bench(write(tmp_path / "empty.jsonl", []))
    write(bench / "reference_answer" / "gpt-4.jsonl", [{"question_id": 1, "choices": []}])
    with pytest.raises(UserError, match="is no reference answer of MT-Bench"):
        read_mt_bench(bench)
    with pytest.raises(UserError, match=r"'keywords' gives no ratings.*llm:MODEL"):
        rate_mt_bench(tiny_chat_model(), (), KeywordJudge())


def test_a_later_message_stands_after_its_conversation_and_a_preface_before_all_of_it():
    later = LaterMessage("three", ("one", "two"))
    model = tiny_chat_model()
    whole = "<user>one<end><assistant>two<end><user>three<end><assistant>"
    assert model.render(later) == f"<s>{whole}"
    assert model.with_system_prompt("Hi.").render(later) == f"<s><system>Hi.<end>{whole}"
    assert later == "three"
    # A template without a system turn: the text goes before the first message.
    model.tokenizer.chat_template = model.tokenizer.chat_template.replace(
        "{% for message in messages %}",
        "{% for message in messages %}{% if message['role'] == 'system' %}"
        "{{ raise_exception('no system') }}{% endif %}",
    )
    prefaced = with_system_text(model, "Hi.")
    assert prefaced.render(later) == f"<s>{whole.replace('one', 'Hi.' + chr(10) * 2 + 'one')}"
