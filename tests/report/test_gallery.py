"""A gallery shows what the pages that it is made of hold; what repeats is stored once."""

import json
import math
import re
from dataclasses import replace

import pytest

from actor_lens.errors import UserError
from actor_lens.report.gallery import read_lenses, row_of_rates, write_gallery
from actor_lens.report.linked_page import lens_of, render_lenses
from tests.support.linked_pages import planted_page


@pytest.fixture(scope="module")
def made():
    return planted_page()


@pytest.fixture(scope="module")
def lenses(made):
    study, content = made
    bare = {"choice": study.choice, "layer": 2, "run": study.run}
    return [
        replace(lens_of(study.look, **content), name="runs/a"),
        replace(lens_of(study.look, **bare), name="<i>b</i>"),
    ]


def stored(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="lens">(.*?)</script>', text, re.DOTALL)[1])["lenses"]


def as_json(lenses):
    return json.loads(json.dumps([vars(lens) for lens in lenses]))


def test_what_is_read_is_what_was_written(lenses, tmp_path):
    """A linked page goes into a gallery, a gallery into another, and nothing is lost."""
    page = tmp_path / "lens.html"
    page.write_text(render_lenses(lenses[:1]), encoding="utf-8")
    assert as_json(read_lenses(page)) == as_json(lenses[:1])
    path = write_gallery(lenses, tmp_path / "gallery.html")
    assert as_json(read_lenses(path)) == as_json(lenses)
    again = write_gallery(read_lenses(path), tmp_path / "again.html")
    assert again.read_bytes() == path.read_bytes()


def test_what_repeats_is_stored_once(lenses, tmp_path):
    first, second = stored(write_gallery(lenses, tmp_path / "gallery.html"))
    assert second["like"] == 0
    assert {"prompts", "hovers", "values"} <= first.keys() - second.keys()
    assert second["figures"]["scores"] is None
    assert second["figures"]["prompts"]["data"] != first["figures"]["prompts"]["data"]


def test_a_row_holds_the_run_and_the_rates_of_both_evaluations(lenses, made):
    run, change = made[0].run, made[1]["change"].where("test")
    steps = run.history[-1].step
    assert lenses[0].run == {"layer": run.layer, "alpha": run.config.alpha, "steps": steps}
    rates = lenses[0].rates
    for time in ("before", "after"):
        evaluation = getattr(change, time)
        for row in evaluation.rates().itertuples():
            assert rates[time][row.label][:3] == (row.refused, row.low, row.high)
        assert rates[time]["tradeoff_score"].value == pytest.approx(evaluation.tradeoff_score)


def test_an_evaluation_is_a_row_without_panels(lenses, tmp_path):
    rate = {"refused": 0.5, "n": 8, "low": 0.2, "high": 0.8, "n_unreadable": 0}
    record = {
        "model": "other",
        "layer": None,
        "before": {"harmful": rate, "benign": {**rate, "refused": None, "n": 0}},
        "after": {},
    }
    row = replace(row_of_rates(record, "verdicts"), name="verdicts")
    assert row.rates == {"before": {"harmful": (0.5, 0.2, 0.8, 8)}}
    path = write_gallery([lenses[1], row], tmp_path / "gallery.html")
    assert as_json(read_lenses(path)) == as_json([lenses[1], row])
    assert "rates only" in path.read_text(encoding="utf-8")
    with pytest.raises(UserError, match="verdicts: one evaluation is rates without panels"):
        write_gallery([row], tmp_path / "alone.html")
    assert not (tmp_path / "alone.html").exists()


HEAD = '<script type="application/json" id="lens">'


def write_stored(lens, folder):
    text = json.dumps({"lenses": [lens]}).replace("<", "\\u003c").replace("Infinity", "1e999")
    path = folder / "page.html"
    path.write_text(f"{HEAD}{text}</script>", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "text",
    [
        "",
        f'{HEAD}{{"lenses": []}}</script>',
        f'{HEAD}{{"lenses": [{{"rates": {{}}, "figures": {{}}}}]}}</script>',
        f'{HEAD}{{"lenses": [{{"like": 7, "rates": {{}}}}]}}</script>',
        f'{HEAD}{{"layer": NaN}}</script>',
        f"{HEAD}{'[' * 100_000}</script>",
    ],
    ids=["nothing", "no run", "too little", "like none", "no number", "too deep"],
)
def test_what_is_no_page_is_one_line(text, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="not a linked page") as caught:
        read_lenses(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="not a linked page"):
        read_lenses(tmp_path / "none.html")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("replies", {"a": 1}),
        ("warnings", 3),
        ("tokens", 3),
        ("prompts", None),
        ("run", "a"),
        ("run", {"layer": 1}),
        ("after", "a"),
        ("model", None),
        ("layer", "first"),
        ("figures", ["layers"]),
        ("figures", {"layers": {}, "prompts": {}, "scores": None}),
        ("rates", {"after": {"harmful": ["nan", 0.2, 0.8, 8]}}),
        ("rates", {"after": {"harmful": [0.5, 0.2]}}),
        ("boxes", [[math.inf]]),
        ("boxes", [[math.nan]]),
        ("boxes", [[10**400]]),
    ],
)
def test_a_page_of_which_none_could_be_made_is_one_line(lenses, name, value, tmp_path):
    """Of whatever kind something is that the page needs otherwise, JSON's infinity among it."""
    path = write_stored({**as_json(lenses)[0], name: value}, tmp_path)
    kinds = "TypeError|ValueError|KeyError|IndexError|OverflowError"  # not what JSON raises
    with pytest.raises(UserError, match=rf"not a linked page \(({kinds}): ") as caught:
        read_lenses(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["model", "run", "rates", "words", "replies"])
def test_what_a_page_needs_is_never_left_out(lenses, name, tmp_path):
    less = {key: value for key, value in as_json(lenses)[0].items() if key != name}
    path = write_stored(less, tmp_path)
    with pytest.raises(UserError, match=f"not a linked page .KeyError: '{name}'"):
        read_lenses(path)


def test_what_a_page_does_not_need_stays_behind(lenses, tmp_path):
    """So that runs of pages of two versions can be compared, and a page without a name has one."""
    more = {**as_json(lenses)[0], "name": 3, "novelty": 1}
    (lens,) = read_lenses(write_stored(more, tmp_path))
    assert vars(lens).keys() == vars(lenses[0]).keys()
    assert lens.name is None


RATE = {"refused": 0.5, "n": 8, "low": 0.2, "high": 0.8}


@pytest.mark.parametrize(
    "change",
    [
        {"before": {"harmful": {"refused": 0.5}}},
        {"before": {"harmful": {**RATE, "low": None}}},
        {"before": {"harmful": {**RATE, "low": "nan"}}},
        {"before": {"harmful": {**RATE, "high": math.inf}}},
        {"before": {"pseudo_harmful": {**RATE, "refused": "a"}, "harmful": RATE}},
        {"before": ["harmful"]},
        {"after": 3},
        {"model": 3},
    ],
)
def test_a_broken_summary_is_one_line(change):
    record = {"model": "m", "layer": None, "before": {"harmful": RATE}, "after": None, **change}
    with pytest.raises(UserError, match="verdicts: not an evaluation") as caught:
        row_of_rates(record, "verdicts")
    assert "\n" not in str(caught.value)


def test_a_summary_is_cleaned():
    record = {"model": "a\u202eb", "layer": None, "before": {"harm\u202e": RATE}, "after": None}
    row = row_of_rates(record, "verdicts")
    assert row.model == "ab"
    assert row.rates["before"].keys() == {"harm"}


def test_a_page_that_was_tampered_with_is_text(lenses, tmp_path):
    """What a file says is escaped and cleaned, as prompts are."""
    page = tmp_path / "lens.html"
    evil = "</script><img src=x onerror=harm()>\u202e"
    run = {"layer": evil, "steps": evil}
    changed = replace(lenses[1], about=evil, model=evil, run=run)
    page.write_text(render_lenses([changed]).replace("&lt;", "<"), encoding="utf-8")
    path = write_gallery([*read_lenses(page), lenses[0]], tmp_path / "gallery.html")
    text = path.read_text(encoding="utf-8")
    assert "<img src=x" not in text
    assert "\u202e" not in text
