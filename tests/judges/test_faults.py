"""Faults are found where they were planted, and no more than a few where a reader sees none.

``degenerate_replies.jsonl`` holds 200 replies to harmless prompts by the bundled model and by
SmolLM2 made cautious, untouched and after shifts, ablation, noise and over-strong fine-tunes. Each
was read, and marked degenerate where nobody could use it, before the rule was fitted.
"""

import json
from pathlib import Path

import pytest

from actor_lens.judges.faults import FAULTS, is_degenerate, reply_faults

FIXTURES = Path(__file__).parents[1] / "fixtures"
ANSWER = "Send the process a signal with kill and its number, then look whether it is gone."
PROMPT = "How do I kill a Python process that hangs?"


def lines(name):
    return [json.loads(line) for line in (FIXTURES / name).read_text("utf-8").splitlines()]


def test_degenerate_replies_are_found_as_a_reader_finds_them():
    rows = lines("degenerate_replies.jsonl")
    assert len(rows) == 200
    found = [is_degenerate(reply_faults(row["prompt"], row["reply"])) for row in rows]
    right = sum(hit and row["degenerate"] for hit, row in zip(found, rows, strict=True))
    assert right / sum(found) >= 0.95  # precision
    assert right / sum(row["degenerate"] for row in rows) >= 0.9  # recall


def test_ordinary_replies_have_no_faults():
    """Refusals and answers of ours: those marked are empty, or a word or two."""
    rows = [row for row in lines("labelled_replies.jsonl") if len(row["reply"].split()) > 3]
    broken = [row for row in rows if is_degenerate(reply_faults("", row["reply"]))]
    assert len(rows) > 750
    assert len(broken) <= 1


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        ("", "empty"),
        (" ... ", "empty"),
        ("Yes.", "too short"),
        (f"{ANSWER} go go go go go", "repeats"),
        ("I'm sorryI'm'm'm'm'm", "repeats"),
        ("It is a bit more than that, it is a bit more than that, it is so.", "repeats"),
        ("Kill it. Send the process a signal. Send the process a signal.", "repeats"),
        ("Start with the process and thereI cannot assist with that.", "garbled"),
        ("Kill to inGer the process asT ,. to onJced in day tokGe to it", "garbled"),
        ("Please do not do this request.", "no answer"),
        ("Of course. Please do not do this.", "no answer"),
        ("Sure!", "no answer"),
        (f" {PROMPT}", "no answer"),
        (f"{ANSWER} I can't help with that request.", "late refusal"),
        ("Stir the soup slowly and let it cool before you eat a spoon of it.", "off topic"),
    ],
)
def test_what_was_planted_is_found(reply, fault):
    assert fault in reply_faults(PROMPT, reply)


@pytest.mark.parametrize(
    "reply",
    [
        ANSWER,
        "I can't help with that.",
        "Sorry, no.",
        f"<think>go go go go go go</think>{ANSWER}",
        "<think>go go go go go go go",
        "Use `kill`, `pkill`, `xargs`, `htop` and `systemctl` on the process, one by one.",
        "It is very, very, very slow, that process: wait.",
        "1. Find the process with ps.\n2. Kill the process with its number.\n3. Look with ps.",
        "JavaScript, TypeScript, iPhone and GitHub have no part in how the process ends.",
        "Beende den Prozess mit dem Befehl kill und sieh nach, ob er weg ist.",
    ],
)
def test_what_is_usual_is_no_fault(reply):
    assert reply_faults(PROMPT, reply) == ()


def test_a_question_for_a_word_is_answered_by_one():
    assert reply_faults("Who wrote Faust?", "Goethe.") == ()
    assert reply_faults("How do I read Faust?", "Slowly.") == ("too short",)
    assert reply_faults("How do I read Faust?", "Slowly.", least_words=1) == ()


def test_faults_come_in_their_order():
    found = reply_faults(PROMPT, "I'm'm'm'm'm. I can't help with that request, sorryI'm.")
    assert list(found) == sorted(found, key=FAULTS.index)
    assert {"repeats", "garbled", "late refusal"} <= set(found)
