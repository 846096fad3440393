"""A gallery shows what the pages that it is made of hold; what repeats is stored once."""

import json
import re

import pytest

from actor_lens.errors import UserError
from actor_lens.report import gallery
from actor_lens.report.gallery import lens_of_rates, read_lenses, write_gallery
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
        {"name": "runs/a", **lens_of(study.look, **content)},
        {"name": "<i>b</i>", **lens_of(study.look, **bare)},
    ]


def stored(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="lens">(.*?)</script>', text, re.DOTALL)[1])["lenses"]


def as_json(value):
    return json.loads(json.dumps(value))


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
    assert lenses[0]["run"] == {"layer": run.layer, "alpha": run.config.alpha, "steps": steps}
    rates = lenses[0]["rates"]
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
    lens = lens_of_rates(record)
    assert lens["rates"] == {"before": {"harmful": (0.5, 0.2, 0.8, 8)}}
    path = write_gallery([lenses[1], {"name": "verdicts", **lens}], tmp_path / "gallery.html")
    assert as_json(read_lenses(path)[1]) == as_json({"name": "verdicts", **lens})
    assert "rates only" in path.read_text(encoding="utf-8")


HEAD = '<script type="application/json" id="lens">'


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


def test_a_page_that_was_tampered_with_is_text(lenses, tmp_path):
    """What a file says is escaped and cleaned, as prompts are."""
    page = tmp_path / "lens.html"
    evil = "</script><img src=x onerror=harm()>\u202e"
    changed = {**lenses[1], "about": evil, "model": evil, "run": {"layer": evil, "steps": evil}}
    page.write_text(render_lenses([changed]).replace("&lt;", "<"), encoding="utf-8")
    path = write_gallery([*read_lenses(page), lenses[0]], tmp_path / "gallery.html")
    text = path.read_text(encoding="utf-8")
    assert "<img src=x" not in text
    assert "\u202e" not in text


def test_a_gallery_beyond_six_megabytes_is_not_written(lenses, tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "MOST_BYTES", 4_000_000)  # less than plotly.js
    with pytest.raises(UserError, match=r"gallery of these 2 runs would be .* more than 4 MB"):
        write_gallery(lenses, tmp_path / "gallery.html")
    assert list(tmp_path.iterdir()) == []
