"""Text from outside reaches a figure as text, never as markup, and nothing is sent anywhere.

Each label differs by colour, symbol and dash, and all text has enough contrast on white.
"""

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actor_lens import figures
from actor_lens.figures import theme
from tests.figures.results import NASTY, ablations


def luminance(color: str) -> float:
    """Relative luminance of a hex colour, by WCAG 2."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast_on_white(color: str) -> float:
    return 1.05 / (luminance(color) + 0.05)


def test_the_labels_differ_in_every_way_that_a_reader_may_need():
    styles = theme.LABEL_STYLES.values()
    assert {s.color for s in styles} == {"#D55E00", "#0072B2", "#009E73"}
    for attribute in ("name", "color", "symbol", "dash"):
        assert len({getattr(style, attribute) for style in styles}) == 3
    harmful = theme.LABEL_STYLES["harmful"]
    assert (harmful.color, harmful.symbol, harmful.dash) == ("#D55E00", "x", "solid")
    assert harmful.fill(0.25) == "rgba(213, 94, 0, 0.25)"


def test_numbers_can_be_read_in_the_darkest_cell_of_a_matrix():
    (heat,) = figures.transfer_matrix(ablations()).data
    ground, words = contrast_on_white(heat.colorscale[-1][1]), contrast_on_white(theme.INK)
    assert heat.textfont.color == theme.INK
    assert words / ground > 4.5


def test_contrast_is_enough_for_text_and_for_marks():
    assert contrast_on_white(theme.INK) > 7
    assert contrast_on_white(theme.MUTED) > 4.5
    assert all(contrast_on_white(s.color) > 3 for s in theme.LABEL_STYLES.values())


def test_the_configuration_uploads_nothing_and_reads_no_formulas():
    config = theme.config()
    assert config["showSendToCloud"] is False
    assert config["displaylogo"] is False
    assert config["plotlyServerURL"] == ""
    assert config["typesetMath"] is False
    assert config["responsive"] is True
    assert "sendChartToCloud" in config["modeBarButtonsToRemove"]


def test_the_template_takes_the_upload_button_away_where_no_configuration_is_passed():
    assert "sendChartToCloud" in theme.template().layout.modebar.remove


def test_no_text_is_smaller_than_twelve_pixels():
    sizes = [
        int(size) for size in re.findall(r"size.: (\d+)", str(theme.template().to_plotly_json()))
    ]
    assert min(sizes) >= 12


def test_markup_in_a_prompt_is_shown_and_not_obeyed():
    shown = theme.hover_text("<b>a</b> <a href='x'>b</a> <script>c</script> &amp;")
    assert re.findall("<[^>]*>", shown.replace("<br>", "")) == []
    assert "&lt;b&gt;a&lt;/b&gt;" in shown
    assert "&amp;amp;" in shown


def test_quotes_and_dollars_are_numeric_because_plotly_knows_no_quot():
    assert theme.escape("\"a\" 'b' $1$") == "&#34;a&#34; &#39;b&#39; &#36;1&#36;"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", "\u2028", "  \n  "])
def test_line_breaks_are_visible(end):
    assert theme.hover_text(f"one{end}two").startswith("one ⏎")


def test_a_long_prompt_is_cut_with_an_ellipsis_and_wrapped():
    shown = theme.hover_text("x" * 10_000)
    lines = shown.split("<br>")
    assert shown.endswith("…")
    assert sum(map(len, lines)) == 160
    assert max(map(len, lines)) <= 56


def test_a_prompt_of_exactly_the_limit_is_whole():
    assert theme.hover_text("a" * 160, width=200) == "a" * 160
    assert theme.hover_text("a" * 161, width=200) == "a" * 159 + "…"


def test_other_scripts_and_emoji_stay_and_direction_overrides_go():
    shown = theme.hover_text("كيف أقتل 🔥👩\u200d👧 \u202eabc\u2066")
    assert "كيف أقتل 🔥👩\u200d👧 abc" in shown
    assert not re.search("[\u202a-\u202e\u2066-\u2069]", shown)


@given(st.text(max_size=600) | st.just(NASTY))
def test_any_text_becomes_safe_bounded_and_serialisable(text):
    shown = theme.hover_text(text)
    bare = shown.replace("<br>", "")
    assert not set("<>\"'$") & set(bare)
    assert len(html.unescape(bare)) <= 160
    shown.encode("utf-8")


def test_layer_axes_have_whole_numbers_and_at_most_sixteen_steps():
    assert theme.layer_axis([0, 1, 2])["dtick"] == 1
    assert theme.layer_axis(list(range(32)))["dtick"] == 2
    assert theme.layer_axis([7]) | {"title": None} == {
        **{"title": None, "range": [6.5, 7.5], "tick0": 0, "dtick": 1, "zeroline": False}
    }


def test_notebooks_show_figures_offline_without_upload(monkeypatch):
    import plotly.io as pio

    from actor_lens.figures import use_in_notebook

    monkeypatch.setattr(pio.renderers, "default", "json")
    use_in_notebook()
    assert pio.renderers.default == "plotly_mimetype+notebook"
    for name in ("plotly_mimetype", "notebook"):
        assert pio.renderers[name].config == theme.config()
