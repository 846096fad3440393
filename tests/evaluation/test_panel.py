"""Law: a panel counts what judges say, as kappa's and confusion's formulas do.

No table shows an answer to a harmful prompt.
"""

import math
from dataclasses import replace

import numpy as np
import pytest

from actor_lens import figures
from actor_lens.errors import UserError
from actor_lens.evaluation.evaluate import Evaluation
from actor_lens.evaluation.panel import judge_panel
from actor_lens.judges.base import VERDICTS
from actor_lens.judges.first_token import FirstTokenJudge, RefusalTokens
from actor_lens.judges.keywords import KeywordJudge
from actor_lens.judges.language_model import LanguageModelJudge
from actor_lens.judges.verdict_cache import VerdictCache
from actor_lens.prompts.rows import Prompt
from actor_lens.prompts.sets import PromptSet
from tests.support.panels import SECRET, PlacedScript, Scripted, evaluation, panel

# ---- Counting ----


def test_confusion_counts_every_pair_of_verdicts():
    made = panel("rrraap", "rraapu", "uuuuuu")
    table = made.confusion()
    assert len(table) == 3 * len(VERDICTS) ** 2
    assert table.groupby(["judge", "other"])["n"].sum().unique().tolist() == [6]
    first = table[(table["judge"] == "own") & (table["other"] == "judge0") & (table["n"] > 0)]
    found = {(row.verdict, row.other_verdict): row.n for row in first.itertuples()}
    assert found == {
        ("refused", "refused"): 2,
        ("refused", "answered"): 1,
        ("answered", "answered"): 1,
        ("answered", "partly_refused"): 1,
        ("partly_refused", "unreadable"): 1,
    }


def test_kappa_is_cohens_over_what_both_could_be_read_on():
    labels = ["harmful"] * 5 + ["benign"] * 6
    made = panel("rrapu" + "raarra", "rarpr" + "aaarru", labels=labels)
    table = made.agreement().set_index("label")
    one = [c in "rp" for c in "rrap" + "raarr"]
    other = [c in "rp" for c in "rarp" + "aaarr"]
    n = len(one)
    observed = sum(a == b for a, b in zip(one, other, strict=True)) / n
    p, q = sum(one) / n, sum(other) / n
    chance = p * q + (1 - p) * (1 - q)
    whole = table.loc["all"]
    assert (whole["n"], whole["n_unreadable"]) == (9, 2)
    assert whole["differ"] == sum(a != b for a, b in zip(one, other, strict=True))
    assert whole["agree"] == pytest.approx(observed)
    assert whole["kappa"] == pytest.approx((observed - chance) / (1 - chance))
    assert table.loc["harmful", ["n", "n_unreadable"]].tolist() == [4, 1]
    assert table.loc["benign", "agree"] == pytest.approx(4 / 5)


@pytest.mark.parametrize(("own", "other"), [("rrr", "rrr"), ("uuu", "rar")])
def test_kappa_is_unknown_where_there_is_nothing_to_compare(own, other):
    assert math.isnan(panel(own, other).agreement()["kappa"].iloc[0])


def test_the_table_has_a_row_for_each_prompt_and_judge():
    table = panel("ra", "up").frame()
    assert table["judge"].tolist() == ["own", "own", "judge0", "judge0"]
    assert table["verdict"].tolist() == ["refused", "answered", "unreadable", "partly_refused"]
    assert table["refused"].isna().tolist() == [False, False, True, False]
    assert table["prompt"].tolist() == ["0", "1"] * 2


def test_disagreements_are_where_judges_differ_or_one_was_unreadable():
    labels = ["harmful", "harmful", "benign", "benign", "benign", "harmful"]
    made = panel("ararua", "raarrp", labels=labels)
    table = made.disagreements()
    assert table["prompt"].tolist() == ["0", "1", "4", "5"]
    assert table["judge: judge0"].tolist()[:2] == ["refused", "answered"]
    assert table["reply"].tolist() == [
        "(answered; not shown)",
        "(judges differ; not shown)",
        SECRET,
        "(answered; not shown)",
    ]
    harmful = table[table["label"] == "harmful"]
    assert SECRET not in harmful.to_csv()
    for text in (repr(made), made._repr_html_()):
        assert SECRET not in text
        assert "harmful" not in text
    assert repr(made).startswith("JudgePanel: 6 replies judged by own and judge0; not agreed on 4")
    assert len(repr(made).splitlines()) == 2
    assert made.summary()["judges"] == {"own": "own:1", "judge0": "judge0:1"}
    # A partial refusal is a refusal: no disagreement.
    assert len(panel("rp", "pr").disagreements()) == 0


# ---- Who is on it ----


def test_the_evaluations_own_judge_is_named_as_it_is_given():
    keywords = KeywordJudge("mine", ("won't",))
    prompts = PromptSet((Prompt("a", "benign"),))
    stored = Evaluation(prompts, ("I won't.",), ("refused",), (1.0,), keywords.identity, 8)
    tokens = FirstTokenJudge(RefusalTokens((1,), ("I",)))
    made = judge_panel(stored, [keywords, tokens])
    assert made.judges == ("mine", "first-token")
    assert made.verdicts["first-token"] == ("refused",)
    assert made.identities["first-token"] == tokens.identity


def test_a_panel_needs_different_judges():
    stored = evaluation("ra")
    with pytest.raises(UserError, match="at least one"):
        judge_panel(stored, [])
    with pytest.raises(UserError, match="at least one"):
        judge_panel(stored, [Scripted("own", "ra")])
    with pytest.raises(UserError, match="the judge 'twin#1' is given 2 times"):
        judge_panel(stored, [Scripted("twin", "ra"), Scripted("twin", "rr")])
    with pytest.raises(UserError, match="none were measured"):
        judge_panel(stored, [FirstTokenJudge(RefusalTokens((1,), ("I",)))])


def test_judges_of_one_name_are_told_apart_by_no_more_than_is_needed():
    stored = evaluation("ra")
    twins = [Scripted("twin", "ra", "x"), Scripted("twin", "rr", "y"), Scripted("other", "rr")]
    made = judge_panel(stored, twins)
    assert made.judges == ("own", "twin#x", "twin#y", "other")
    assert made.verdicts["twin#y"] == ("refused", "refused")
    placed = [PlacedScript("twin", "ra", "x", "here:1"), PlacedScript("twin", "rr", "y", "there")]
    assert judge_panel(stored, placed).judges == ("own", "twin@here:1", "twin@there")
    same_place = [PlacedScript("twin", "ra", "x", "here"), PlacedScript("twin", "rr", "y", "here")]
    assert judge_panel(stored, same_place).judges == ("own", "twin#x", "twin#y")


def test_language_models_are_named_by_their_model_and_where_needed_by_their_host(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    cache = VerdictCache(tmp_path / "v.jsonl")
    a, b = (
        LanguageModelJudge("m", f"http://me:word@{host}/v1?key=k", cache=cache, retries=0)
        for host in ("a.example", "b.example:8000")
    )
    other = LanguageModelJudge("n", "http://a.example/v1", cache=cache)
    for judge in (a, b, other):
        monkeypatch.setattr(type(judge), "verdicts", lambda *_: ("refused", "answered"))
    stored = replace(evaluation("ra"), judge=a.identity)
    # The evaluation knows of its own judge what it has recorded.
    assert judge_panel(stored, [other]).judges == ("llm:m", "llm:n")
    assert judge_panel(stored, [b]).judges == ("llm:m", "llm:m@b.example:8000")
    made = judge_panel(stored, [a, b, other])
    assert made.judges == ("llm:m@a.example", "llm:m@b.example:8000", "llm:n")
    assert made.identities["llm:m@b.example:8000"] == b.identity
    assert not any(secret in repr(made.identities) for secret in ("word", "key=k", "sk-secret"))


def test_the_evaluations_first_token_judge_is_not_counted_twice():
    tokens = FirstTokenJudge(RefusalTokens((1,), ("I",)))
    stored = replace(evaluation("ra", scores=[1.0, -1.0]), judge=tokens.identity)
    assert judge_panel(stored, [FirstTokenJudge(), Scripted("x", "ra")]).judges == (
        "first-token",
        "x",
    )
    with pytest.raises(UserError, match="at least one"):
        judge_panel(stored, [FirstTokenJudge()])


# ---- What is shown ----


@pytest.mark.parametrize("said", ["a", "p", "u"])
def test_one_judge_that_does_not_say_refused_hides_a_reply_to_a_harmful_prompt(said):
    made = panel("rrr", "r" + said + said, "rrr", labels=["harmful", "harmful", "benign"])
    shown = made.shown_replies()
    assert shown == ("I won't.", "(judges differ; not shown)", "I won't.")
    assert made.by_reply()["reply"].tolist() == list(shown)
    assert made.evaluation.frame()["reply"].tolist() == ["I won't."] * 3  # by its own judge alone
    for table in (made.disagreements(), made.by_reply()):
        hidden = table[(table["label"] == "harmful") & (table["judge: judge0"] != "refused")]
        assert not any("won't" in reply for reply in hidden["reply"])


def test_no_judge_brings_a_reply_back_that_the_evaluation_hides():
    made = panel("apu", "rrr", labels=["harmful"] * 3)
    assert made.shown_replies() == tuple(made.evaluation.frame()["reply"])
    assert all("not shown" in reply for reply in made.shown_replies())


def test_the_rates_of_each_judge_are_those_of_its_verdicts():
    made = panel("rrap", "raau")
    judged = made.judged_by("judge0")
    assert (judged.judge, judged.verdicts) == ("judge0:1", made.verdicts["judge0"])
    assert judged.rate("pseudo_harmful").refused == pytest.approx(1 / 3)
    assert judged.replies == made.evaluation.replies
    own = made.judged_by("own")
    assert (own.judge, own.verdicts) == (made.evaluation.judge, made.evaluation.verdicts)
    with pytest.raises(UserError, match=r"no judge 'x' .* own, judge0"):
        made.judged_by("x")


# ---- What to label ----


def test_rows_to_label_come_from_every_pattern_at_random():
    made = panel("r" * 50 + "a" * 50, "r" * 47 + "a" * 53)
    rows = made.to_label(9)
    groups = [sum(row < 47 for row in rows), sum(47 <= row < 50 for row in rows)]
    assert groups == [3, 3]
    assert len(set(rows)) == 9
    assert rows == made.to_label(9) != made.to_label(9, seed=1)
    assert made.to_label(1000) == tuple(range(100))


# ---- The figure ----


def test_the_figure_draws_the_counts_of_a_pair_either_way_round():
    made = panel("rrraap", "rraapu", "uuuuuu")
    drawn = figures.judge_confusion(made)
    (heat,) = drawn.data
    counts = np.array(heat.z)
    assert counts.sum() == 6
    names = list(heat.y)
    assert counts[names.index("refused"), names.index("answered")] == 1
    turned = figures.judge_confusion(made, "judge0", "own").data[0].z
    assert np.array_equal(turned, counts.T)
    assert drawn.layout.yaxis.title.text == "own"
    with pytest.raises(UserError, match="does not compare 'own' with 'own'"):
        figures.judge_confusion(made, "own", "own")


def test_names_of_judges_are_escaped():
    made = judge_panel(evaluation("ra"), [Scripted("<b>x</b>", "aa")])
    assert "<b>x" not in figures.judge_confusion(made).to_json()
