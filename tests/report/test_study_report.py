"""The report says what the study's tables say, in one file that asks nothing of the network.

Text from prompts, replies, categories and names never becomes markup, and no answer to a harmful
prompt is in the file. Studies are planted: no model is needed.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from plotly.offline import get_plotlyjs

from actor_lens.errors import UserError
from actor_lens.prompts.rows import LABELS
from actor_lens.prompts.sets import PromptSet
from actor_lens.report.layers_report import render_look, write_look
from actor_lens.report.pages import PROMPT_LENGTH
from actor_lens.report.study_report import ROWS_KEPT, render_report, write_report
from tests.support.studies import ANSWER, REFUSAL, TEXTS, planted_prompts, planted_study, refuse

# EvaluationChange.examples joins with keywords that pandas 3 deprecates; pandas 2 knows no others.
pytestmark = pytest.mark.filterwarnings("ignore:The 'lsuffix' and 'rsuffix' keywords")

VARIANTS = {
    "raw formula": (refuse(*LABELS), {"origin": "zero"}),
    "uniform shift": (refuse(), {"shift": "uniform", "lr": 0.5}),
}
# In order of the page; each is drawn once.
PLOTS = (
    *("projections", "scores", "map", "targets", "training"),
    *("rates-test", "rates-ood", "shifts", "variants"),
)
NASTY = (
    '<script>alert("x")</script><img src="https://evil.example/a.png"> & "q" \'s\' {{ 7*7 }} $x$'
)
RTL = "كيف أقتل العملية \u202e#1"
VOID = {"meta", "br", "img", "path", "circle", "link", "input", "hr"}


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, and visible text per element id."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {"": []}
        self.scripts: list[str] = []
        self.open: list[tuple[str, str | None]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.elements.append((tag, found))
        if tag == "script":
            self.scripts.append("")
        if tag not in VOID:
            self.open.append((tag, found.get("id")))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop()[0] == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1][0] == "script":
            self.scripts[-1] += data
        elif not self.open or self.open[-1][0] != "style":
            for name in {"", *(one for _, one in self.open if one)}:
                self.texts.setdefault(name, []).append(data)

    def text(self, name: str = "") -> str:
        """Visible text of the element with an id, with single spaces."""
        return " ".join(" ".join(self.texts[name]).split())


@pytest.fixture(scope="module")
def study():
    return planted_study(variants=VARIANTS, model_name="toy")


@pytest.fixture(scope="module")
def html(study):
    return render_report(study, command="actor-lens demo --out 'my demo'")


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def report_of(**kwargs: object) -> Page:
    return Page(render_report(planted_study(**kwargs)))


def share(value: float) -> str:
    return f"{100 * value:.{0 if value in (0.0, 1.0) else 1}f} %"


# ---- One file, offline ----


def test_every_element_is_closed_and_every_id_is_unique(page):
    assert page.open == []
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_plotly_is_inlined_exactly_once(html):
    assert html.count(get_plotlyjs()) == 1
    assert html.count("plotly.js v") == get_plotlyjs().count("plotly.js v")


@pytest.mark.parametrize("attribute", ["src", "srcset", "href", "data", "action", "poster"])
def test_nothing_is_loaded_from_elsewhere(page, attribute):
    found = [
        (tag, attrs[attribute])
        for tag, attrs in page.elements
        if attribute in attrs and not str(attrs[attribute]).startswith("#")
    ]
    allowed = [("a", "https://arxiv.org/abs/2507.04250")] if attribute == "href" else []
    assert found == allowed


def test_styles_load_nothing(html):
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert not any(tag in ("link", "iframe") for tag, _ in Page(html).elements)


def test_the_browser_is_told_to_keep_off_the_network(page):
    policy = next(
        str(attrs["content"])
        for tag, attrs in page.elements
        if tag == "meta" and attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy
    assert "connect-src 'none'" in policy
    assert "http" not in policy


def test_each_figure_is_drawn_once_without_upload(page):
    drawn = [script for script in page.scripts if "Plotly.newPlot" in script]
    names = [re.search(r'newPlot\(\s*"plot-([\w-]+)"', script) for script in drawn]
    assert tuple(found[1] for found in names if found) == PLOTS
    for script in drawn:
        config, _ = json.JSONDecoder().raw_decode(script, script.rindex('{"displaylogo"'))
        assert config["displaylogo"] is False
        assert config["showSendToCloud"] is False
        assert not config.get("plotlyServerURL")


def test_each_figure_says_what_to_look_for_and_the_same_in_words(page):
    for name in PLOTS:
        assert page.text(f"look-{name}").startswith("What to look for.")
        assert len(page.text(f"words-{name}")) > len("In words.") + 20


def test_each_part_is_in_the_table_of_contents(page):
    sections = [attrs["id"] for tag, attrs in page.elements if tag == "section"]
    links = [attrs["href"] for tag, attrs in page.elements if tag == "a"]
    assert [f"#{one}" for one in sections] == [one for one in links if str(one)[0] == "#"][1:]
    assert len(sections) == 8


def test_the_same_study_gives_the_same_bytes(study, html):
    assert render_report(study, command="actor-lens demo --out 'my demo'") == html


# ---- Numbers ----


def test_headline_rates_are_those_of_the_evaluations(study, page):
    summary = page.text("summary")
    for evaluation in (study.before, study.outcome.evaluation):
        for split in ("test", "ood"):
            for row in evaluation.where(split).rates().to_dict("records"):
                count = round(row["refused"] * row["n"])
                interval = f"{share(row['low'])} to {share(row['high'])}"
                assert f"{share(row['refused'])} {count} of {row['n']}; {interval}" in summary


def test_headline_scores_and_parameters(page):
    summary = page.text("summary")
    assert "Of 6 harmless prompts that only look harmful, the model refused 6 before" in summary
    assert "pseudo-harmful prompts answered 0 % 100 %" in summary  # C.R.
    assert "harmful prompts refused 100 % 100 %" in summary  # S.S.
    assert "mean of the two 50.0 % 100 %" in summary  # T.S.
    assert "25 of 100 (25.0 % of the model)" in summary
    assert "0 parameters, compared bit for bit" in summary


def test_paired_tests_are_those_of_the_comparison(page):
    changes = page.text("changes")
    # Six of six prompts that all change one way: p = 2 / 2**6.
    assert (
        "pseudo-harmful should be answered 100 % 6 of 6; 61.0 % to 100 % 0 % 0 of 6; 0 % to 39.0 % "
        "0 6 0.0312" in changes
    )
    assert "Refusals of pseudo-harmful prompts fell from 6 to 0 of 6, as wanted." in changes
    assert "Refusals of harmful prompts stayed at 6 of 6." in changes


def test_the_layer_its_ties_and_its_scores_are_told(study, page):
    layers = page.text("layers")
    assert f"Why layer {study.choice.layer}" in layers
    assert study.choice.reason in layers
    assert "which of the layers 1 and 2 is best" in layers
    frame = study.look.scores.frame()
    for row in frame[frame["score"] == "causal"].to_dict("records"):
        assert f"{row['value']:.2f} {row['low']:.2f} to {row['high']:.2f}" in layers


def test_the_preview_is_told_in_numbers(study, page):
    targets = page.text("targets")
    for row in study.outcome.targets.preview().frame().to_dict("records"):
        moved = f"{row['before']:.2f} to {row['after']:.2f}".replace("-", "\u2212")
        assert moved in targets
    assert "The preview gave no warning." in targets


def test_the_curves_are_told_in_numbers(page):
    training = page.text("training")
    assert "12 steps in 3 epochs; loss 0.5000 at the first step and 0.0417 at the last" in training
    assert "0 100 % 100 % 0 %" in training  # before training
    assert "12 100 % 8.3 % 0 %" in training


def test_variants_are_told_with_the_warning_and_the_outcome(study, page):
    variants = page.text("variants")
    assert "2 of 2 other fine-tunes of layer 2 lost the difference" in variants
    assert "projections are counted from zero, as the paper's formula is written." in variants
    assert "every prompt is moved equally far, by the length of R" in variants
    assert "lr 0.5 instead of 0.001" in variants
    for outcome in study.outcomes[1:]:
        warnings = outcome.targets.preview().warnings
        assert warnings
        assert all(warning in variants for warning in warnings)
    assert "The model now refuses nearly everything, harmless prompts included." in variants
    assert "The model now refuses almost nothing, harmful prompts included." in variants
    assert "Refusals of benign prompts rose from 0 to 6 of 6, the wrong way." in variants


def test_what_a_repetition_needs_is_there(study, page):
    limits = page.text("limits")
    summary = study.summary()
    for value in (
        *summary["fingerprints"].values(),
        *summary["versions"].values(),
        summary["judge"],
        "greedy",
        "actor-lens demo --out 'my demo'",
    ):
        assert str(value) in limits
    for name, value in summary["config"].items():
        assert f"{name.replace('_', ' ')} {'none' if value is None else value}" in limits
    assert "The bundled model is a toy." in limits


def test_of_another_model_nothing_is_said_about_toys():
    assert "is a toy" not in report_of(model_name="org/model").text()


def test_examples_are_the_first_of_each_kind_whatever_came_after():
    page = report_of(after=refuse("harmful", "pseudo_harmful"))
    problem = page.text("problem")
    assert problem.count("Before: refused") == problem.count("After: refused") == 5
    first = [f"kill background process test {i} on" for i in range(5)]
    assert [problem.index(one) for one in first] == sorted(problem.index(one) for one in first)


def test_prompts_that_changed_sides_are_listed_the_costs_first():
    page = report_of(after=refuse("benign"))
    changes = page.text("changes")
    titles = [
        "Harmful prompts that are answered now: 12",
        "Harmless prompts that are refused now: 12",
        "Harmless prompts that are still refused: none",
        "Harmless prompts that are answered now: 12",
        "Harmful prompts that are refused now: none",
    ]
    assert [changes.index(title) for title in titles] == sorted(map(changes.index, titles))
    for split in ("test", "ood"):
        for i in range(6):
            assert TEXTS["benign"].replace("{}", f"{split} {i}") in changes


def test_refusals_left_are_counted_by_kind():
    def only_gardens(prompt: object) -> str:
        return REFUSAL if prompt.category == "garden" and prompt.split == "ood" else ANSWER

    changes = report_of(after=only_gardens).text("changes")
    assert "garden 2 2 0 2 2 2 software 2 2 0 2 2 0 games 2 2 0 2 2 0" in changes


def test_long_lists_say_what_was_left_out():
    page = report_of(prompts=planted_prompts(110))
    left = 2 * 110 - ROWS_KEPT
    assert left > 0
    assert "Show 192 more (of 212; the rest is not in this file)" in page.text("changes")


# ---- Text from outside ----


@pytest.mark.parametrize("nasty", [NASTY, RTL, "a\nb\r\nc", "x" * 10_000])
def test_text_from_outside_stays_text(nasty):
    texts = {label: f"{text} {nasty}" for label, text in TEXTS.items()}
    prompts = planted_prompts(texts=texts)
    prompts = replace(
        prompts, name=nasty, prompts=tuple(replace(one, category=nasty) for one in prompts)
    )
    study = planted_study(
        prompts,
        before=lambda _: f"{REFUSAL} {nasty}",
        after=lambda _: f"{ANSWER} {nasty}",
        variants={nasty: (refuse("harmful"), {"alpha": 0.5})},
        model_name=nasty,
    )
    html = render_report(study, command=f"actor-lens report {nasty}")
    tame = planted_study(variants={"v": (refuse("harmful"), {"alpha": 0.5})})
    plain = render_report(tame, command="actor-lens report")
    assert "<script>alert" not in html
    elements, expected = Page(html).elements, Page(plain).elements
    assert {tag for tag, _ in elements} == {tag for tag, _ in expected}
    assert not any("evil" in str(attrs.get("src")) for _, attrs in elements)


def test_characters_that_no_page_can_hold_are_dropped(tmp_path, study):
    # Command lines hold such characters where a file name is not UTF-8.
    path = write_report(study, tmp_path / "report.html", command="cat \x00\x08x \udcff.txt")
    assert "cat x ?.txt" in path.read_text(encoding="utf-8")


def test_text_is_shown_as_it_was_written():
    prompts = planted_prompts(texts={**TEXTS, "pseudo_harmful": f"{NASTY} {{}}"})
    page = report_of(prompts=prompts)
    assert f"{NASTY} test 0" in page.text("problem")


def test_long_prompts_are_cut_with_their_length():
    long = {**TEXTS, "pseudo_harmful": "y" * 10_000 + " {}"}
    problem = report_of(prompts=planted_prompts(texts=long)).text("problem")
    assert "y" * PROMPT_LENGTH + "… (10,007 characters in all)" in problem
    assert "y" * (PROMPT_LENGTH + 1) not in problem


def test_prompts_take_their_own_direction_of_reading(page):
    users = [attrs for _, attrs in page.elements if "user" in str(attrs.get("class")).split()]
    assert users
    assert all(attrs["dir"] == "auto" for attrs in users)


# ---- Safety ----


def test_answers_to_harmful_prompts_are_not_in_the_file():
    def answers(prompt: object) -> str:
        return f"SECRET {prompt.label}"

    study = planted_study(before=answers, after=answers, variants={"v": (answers, {"alpha": 2.0})})
    html = render_report(study)
    assert "SECRET harmful" not in html
    html = render_report(planted_study(after=answers))
    assert "SECRET pseudo_harmful" in html
    assert "SECRET harmful" not in html
    assert "(answered; not shown)" in html


def test_of_refusals_of_harmful_prompts_only_the_beginning_is_in_the_file():
    def two_faced(prompt: object) -> str:
        return REFUSAL + " -" * 100 + " SECRET" if prompt.label == "harmful" else REFUSAL

    html = render_report(planted_study(before=two_faced, after=refuse()))
    assert REFUSAL.replace("'", "&#39;") in html
    assert "SECRET" not in html


# ---- What may be missing ----


def without(prompts: PromptSet, split: str, label: str | None = None) -> PromptSet:
    return prompts.select(
        i
        for i, one in enumerate(prompts)
        if one.split != split or (label is not None and one.label != label)
    )


def test_without_out_of_distribution_prompts_and_variants():
    page = report_of(prompts=without(planted_prompts(), "ood"))
    assert "out-of-distribution prompts" not in page.text("summary").lower()
    assert "variants" not in page.texts
    assert "plot-rates-ood" not in page.texts
    assert "plot-rates-test" in {attrs.get("id") for _, attrs in page.elements}


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("split", ["test", "ood"])
def test_without_prompts_of_a_label(label, split):
    prompts = without(planted_prompts(), split, label)
    page = report_of(prompts=prompts, variants=VARIANTS)
    if (split, label) == ("test", "pseudo_harmful"):
        assert "pseudo-harmful prompts answered not measured not measured" in page.text("summary")
    assert " nan" not in page.text().lower()


def test_without_categories():
    prompts = planted_prompts()
    prompts = replace(prompts, prompts=tuple(replace(one, category=None) for one in prompts))
    page = report_of(prompts=prompts)
    assert "Which kinds" not in page.text("changes")
    assert page.text("problem").count("Before: refused") == 5
    assert "None" not in page.text("changes")


def test_where_nothing_was_refused_that_is_said():
    page = report_of(before=refuse("harmful"))
    assert "there was nothing to fix" in page.text("problem")


def test_a_layer_that_the_user_named():
    study = planted_study()
    study = replace(study, run=replace(study.run, chosen=None))
    layers = Page(render_report(study)).text("layers")
    assert "Layer 2 was named by the user. The program would have taken layer 2" in layers


def test_a_run_that_diverged_and_changes_outside_the_layer_are_told_at_the_top():
    study = planted_study()
    run = replace(study.outcome.run, status="diverged", message="Loss is <not> finite.", history=())
    broken = replace(study, run=run, parameters_changed_outside_layer=7)
    summary = Page(render_report(broken)).text("summary")
    assert "How training ended: diverged. Loss is <not> finite." in summary
    assert "7 parameters outside layer 2 changed." in summary


def test_what_got_worse_is_told_at_the_top():
    summary = report_of(after=refuse("benign")).text("summary")
    assert (
        "Something got worse Test prompts: Refusals of harmful prompts fell from 6 to 0 of 6"
        in summary
    )
    assert "Refusals of benign prompts rose from 0 to 6 of 6, the wrong way." in summary
    assert "Something got worse" not in report_of().text("summary")


# ---- Writing ----


def test_the_file_is_the_page(tmp_path, study, html):
    path = tmp_path / "report.html"
    path.write_text("old")
    assert write_report(study, path, command="actor-lens demo --out 'my demo'") == path
    assert path.read_text(encoding="utf-8") == html
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_does_not_exist_is_one_line(tmp_path, study):
    with pytest.raises(UserError, match=r"cannot be written") as error:
        write_report(study, tmp_path / "none" / "report.html")
    assert "\n" not in str(error.value)


def test_the_look_alone_is_a_page(tmp_path, study):
    path = write_look(study.look, study.choice, tmp_path / "layers.html")
    html = path.read_text(encoding="utf-8")
    assert html == render_look(study.look, study.choice)
    assert html.count(get_plotlyjs()) == 1
    page = Page(html)
    assert page.open == []
    assert "Nothing has been trained." in page.text()
    assert study.choice.reason in page.text()


# ---- Judges ----


def test_unreadable_verdicts_and_another_judge_are_named():
    study = planted_study()
    last = next(
        row
        for row, prompt in enumerate(study.before.prompts)
        if (prompt.label, prompt.split) == ("benign", "test")
    )
    verdicts = list(study.before.verdicts)
    verdicts[last] = "unreadable"
    before = replace(study.before, verdicts=tuple(verdicts), judge="llm:<i>:1")
    after = replace(study.after, judge="llm:<i>:1")
    changed = replace(study, before=before, after=after)
    page, usual = render_report(changed, command="x"), render_report(study, command="x")
    assert "The judge could not be read on 1 reply before and 0 after" in page
    assert "<small>1 unreadable</small>" in page
    assert "judged by <bdi>llm:&lt;i&gt;:1</bdi>" in page
    assert "searches for phrases" in usual
    assert "searches for phrases" not in page
    assert "unreadable</small>" not in usual
