"""The linked page holds the numbers of the frames, as text what is text, and two scripts."""

import base64
import hashlib
import json
import math
import re
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs

from actor_lens.evaluation.changes import compare_evaluations
from actor_lens.report import linked_page
from actor_lens.report.linked_page import lens_of, render_lenses
from actor_lens.text import clean
from tests.support.linked_pages import planted_page
from tests.support.studies import N_LAYERS
from tests.support.tiny_models import tiny_chat_model

# EvaluationChange.examples joins with keywords that pandas 3 deprecates; pandas 2 knows no others.
pytestmark = pytest.mark.filterwarnings("ignore:The 'lsuffix' and 'rsuffix' keywords")


@pytest.fixture(scope="module")
def made():
    return planted_page()


@pytest.fixture(scope="module")
def html(made):
    study, content = made
    return render(study.look, **content)


def render(look, **content):
    return render_lenses([lens_of(look, **content)])


def stored(html):
    data = json.loads(re.search(r'id="lens">(.*?)</script>', html, re.DOTALL)[1])
    (lens,) = data["lenses"]
    return lens


def numbers(packed):
    shape = [int(size) for size in packed.get("shape", "-1").split(", ")]
    return np.frombuffer(base64.b64decode(packed["bdata"]), packed["dtype"]).reshape(shape)


def test_what_is_stored_is_what_the_frames_hold(made, html):
    study, content = made
    data = stored(html)
    projections = study.look.projections
    assert np.array_equal(numbers(data["values"]), projections.values.numpy())
    assert np.array_equal(numbers(data["after"]), content["after"].values.numpy())
    origins = study.look.directions.origins("midpoint").numpy()
    assert np.array_equal(numbers(data["origins"]), origins)
    frame = projections.frame(origin="midpoint").set_index(["layer", "label"])["projection"]
    for layer, words in enumerate(data["words"]):
        texts = dict(words)
        median = f"{frame[layer, 'benign'].median():.2f}".replace("-", "\u2212")
        assert texts["projection, benign"].startswith(f"{median} (")
        outcomes = content["outcomes"].frame().set_index("layer").loc[layer]
        assert texts["trained: trade-off score"] == f"{outcomes['tradeoff_score']:.3f}"
        assert texts["trained: harmful refused"].startswith(
            f"{100 * outcomes['refused_harmful']:.1f} % ("
        )
    causal = [dict(words)["causal"] for words in data["words"]]
    assert causal[1:3] == ["0.900 (0.800 to 0.950)", "0.920 (0.820 to 0.970)"]
    assert study.choice.ties == (1, 2)
    assert data["notes"].pop(str(study.choice.layer)) == "recommended"
    assert list(data["notes"].values()) == ["ties with the recommended one"]


def test_only_two_scripts_may_run(html):
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1]
    assert "unsafe" not in policy.replace("style-src 'unsafe-inline'", "")
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert len(scripts) == 2
    assert scripts[0] == get_plotlyjs()
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert policy.count("sha256-") == 2


def test_hostile_prompts_are_data(made, html):
    study, _ = made
    own = html.replace(get_plotlyjs(), "")
    for markup in ("<img", "<svg onload", "<script>window", "<b>planted", "\u202e", "\u2028"):
        assert markup not in own
    prompts = study.look.projections.prompts
    shown = [text for text, *_ in stored(html)["prompts"]]
    assert len(shown) == len(prompts)
    for text, prompt in zip(shown, prompts, strict=True):
        assert clean(prompt.prompt).startswith(text.removesuffix("…"))
        assert len(text) <= 2_000


def test_no_answer_to_a_harmful_prompt_is_on_the_page(made):
    """Neither before nor after the run, whose page says that it was answered."""
    study, content = made
    answered = [label == "harmful" for label in study.after.prompts.labels]
    after = replace(
        study.after,
        replies=tuple(
            "Mix both powders." if one else reply
            for one, reply in zip(answered, study.after.replies, strict=True)
        ),
        verdicts=tuple(
            "answered" if one else verdict
            for one, verdict in zip(answered, study.after.verdicts, strict=True)
        ),
    )
    for sides in ((study.before, after), (after, study.before)):
        html = render(study.look, **{**content, "change": compare_evaluations(*sides)})
        assert "(answered; not shown)" in html
        assert "both powders" not in html


def test_numbers_that_json_lacks_are_gaps():
    figure = go.Figure(go.Scatter(x=[1, 2, 3], y=[0.5, math.inf, math.nan]))
    (trace,) = linked_page._plain(figure)["data"]
    assert trace["y"] == [0.5, None, None]


def test_a_panel_without_numbers_is_left_out(made):
    study, _ = made
    html = render(study.look, choice=study.choice)
    assert set(stored(html)["figures"]) == {"layers", "prompts", "scores"}
    for place in ('id="tokens"', 'id="step"', "Replies before and after", 'id="plot-moved"'):
        assert place not in html


def test_a_thousand_prompts_at_32_layers_stay_below_six_megabytes():
    study, content = planted_page(334)
    n_prompts = len(study.look.projections.prompts)
    assert n_prompts == 1002
    assert max(map(len, study.look.projections.prompts.texts)) > 10_000
    size = len(render(study.look, **content).encode())
    # Of each further layer: two numbers a prompt, in four bytes that base64 writes as 5 1/3.
    more = (32 - N_LAYERS) * (2 * n_prompts * 16 / 3 + 2_000)
    assert size + more <= 6_000_000


def test_tokens_are_those_of_the_highest_pseudo_harmful_prompts(made, monkeypatch):
    look, model = made[0].look, tiny_chat_model()
    prompts, values = look.projections.prompts, look.projections.values[2]
    one = made[1]["tokens"][0]
    monkeypatch.setattr(
        linked_page,
        "token_projections",
        lambda _model, text, _directions: replace(one, prompt=text),
    )

    def taken(*options):
        return [shown.prompt for shown in linked_page.token_pulls(model, look, 2, *options)]

    own = [place for place, label in enumerate(prompts.labels) if label == "pseudo_harmful"]
    highest = sorted(own, key=lambda place: -float(values[place]))
    assert taken() == [prompts[place].prompt for place in highest][:6]
    assert taken((4, 1)) == [prompts[4].prompt, prompts[1].prompt]
