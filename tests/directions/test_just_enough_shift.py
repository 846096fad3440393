"""Law: the least shift of a prompt is what asking it alone about every gamma gives.

The asking is done in whole passes without a cache, with a hook of the test's own. The line behind
a fitted origin is planted.
"""

import math
from dataclasses import dataclass, field, replace

import pandas as pd
import pytest
import torch

from actor_lens.activations.residuals import collect_residuals
from actor_lens.activations.store import Store
from actor_lens.directions.just_enough_shift import (
    JustEnoughShift,
    fitted_place,
    just_enough_shift,
)
from actor_lens.directions.refusal_directions import Directions, refusal_directions
from actor_lens.errors import UserError
from actor_lens.judges.base import Verdict
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.replies import end_tokens, reply_text
from actor_lens.prompts.rows import Prompt
from actor_lens.prompts.sets import PromptSet
from tests.support.greedy import greedy_ids
from tests.support.tiny_models import shared_tiny_model

TEXTS = {
    "harmful": ("Burn it", "Steal the silver now", "Hurt him"),
    "pseudo_harmful": ("Kill the task", "Shoot a film", "Crack an egg", "Blow out candles", "Hit"),
    "benign": ("Bake a cake", "Sing", "Write me a rather long letter"),
}
LAYER, NEW_TOKENS = 1, 4
GAMMAS = (0.5, 1.0, 2.0, 4.0, 8.0)


@dataclass
class Judge:
    """Refuses replies by chance (their text decides), and keeps what it was asked."""

    share: float = 0.5
    name: str = "by chance"
    asked: list[tuple[str, str]] = field(default_factory=list)

    @property
    def identity(self) -> str:
        return f"{self.name}:{self.share}"

    def refuses(self, reply: str) -> bool:
        return sum(map(ord, reply)) % 100 < 100 * self.share

    def verdicts(self, prompts, replies) -> tuple[Verdict, ...]:
        self.asked += zip(prompts.texts, replies, strict=True)
        return tuple("refused" if self.refuses(reply) else "answered" for reply in replies)


@pytest.fixture(scope="module")
def model() -> ChatModel:
    return shared_tiny_model()


@pytest.fixture(scope="module")
def prompts() -> PromptSet:
    return PromptSet(tuple(Prompt(text, label) for label, texts in TEXTS.items() for text in texts))


@pytest.fixture(scope="module")
def directions(model: ChatModel, prompts: PromptSet) -> Directions:
    return refusal_directions(collect_residuals(model, prompts, store=False))


@pytest.fixture(scope="module")
def replies(model: ChatModel, prompts: PromptSet, directions: Directions) -> dict:
    """The reply to each prompt at each gamma, 0 among them, one whole pass a token."""
    return {
        (text, gamma): reply_alone(model, text, -gamma * directions.vectors[LAYER])
        for text in prompts.texts
        for gamma in (0.0, *GAMMAS)
    }


def reply_alone(model: ChatModel, text: str, shift: torch.Tensor) -> str:
    [ids] = model.tokenize([text])

    def put(_block: object, _inputs: object, output: object) -> object:
        hidden = output[0] if isinstance(output, tuple) else output
        hidden = hidden.clone()
        hidden[0, len(ids) - 1] += shift
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = model.blocks[LAYER].register_forward_hook(put)
    try:
        return reply_text(model, greedy_ids(model.hf, ids, NEW_TOKENS, end_tokens(model)))
    finally:
        handle.remove()


def measure(model, prompts, directions, **options) -> JustEnoughShift:
    settings = {"gammas": GAMMAS, "new_tokens": NEW_TOKENS, "store": False, **options}
    return just_enough_shift(model, prompts, directions, LAYER, **settings)


def test_every_prompt_is_asked_at_every_gamma_as_whole_passes_answer(
    model, prompts, directions, replies
):
    """A judge who accepts nothing hears all replies there are."""
    judge = Judge(share=1.0)
    shift = measure(model, prompts, directions, judge=judge)
    harmless = [prompt.prompt for prompt in prompts if prompt.label != "harmful"]
    assert list(shift.prompts.texts) == harmless
    assert shift.gammas.isnan().all()
    expected = [(text, replies[text, gamma]) for gamma in (0.0, *GAMMAS) for text in harmless]
    assert sorted(judge.asked) == sorted(expected)
    assert len({reply for _, reply in expected}) > len(harmless)  # gammas change what is said


def test_gamma_is_the_least_of_the_grid_that_is_enough(model, prompts, directions, replies):
    judge = Judge()
    shift = measure(model, prompts, directions, judge=judge)
    refused = [
        prompt.prompt
        for prompt in prompts
        if prompt.label != "harmful" and judge.refuses(replies[prompt.prompt, 0.0])
    ]
    assert list(shift.prompts.texts) == refused
    assert 0 < len(refused) < len(TEXTS["benign"]) + len(TEXTS["pseudo_harmful"])
    for text, gamma in zip(refused, shift.gammas.tolist(), strict=True):
        enough = [one for one in GAMMAS if not judge.refuses(replies[text, one])]
        assert gamma == enough[0] if enough else math.isnan(gamma)
    assert not {text for text, _ in judge.asked} & set(TEXTS["harmful"])


def test_halving_ends_where_one_gamma_is_enough_and_the_one_below_is_not(
    model, prompts, directions, replies
):
    judge = Judge(share=0.6)
    shift = measure(model, prompts, directions, judge=judge, bisect=True)
    grid = (0.0, *GAMMAS)
    for text, gamma in zip(shift.prompts.texts, shift.gammas.tolist(), strict=True):
        if math.isnan(gamma):
            assert judge.refuses(replies[text, GAMMAS[-1]])
        else:
            assert not judge.refuses(replies[text, gamma])
            assert judge.refuses(replies[text, grid[grid.index(gamma) - 1]])
    n_shifted = len(judge.asked) - len(TEXTS["benign"]) - len(TEXTS["pseudo_harmful"])
    assert n_shifted <= len(shift.prompts) * (1 + math.ceil(math.log2(len(GAMMAS))))


def test_projections_are_those_of_the_prompts_as_they_are(model, prompts, directions):
    shift = measure(model, prompts, directions, judge=Judge())
    residuals = collect_residuals(model, shift.prompts, store=False).at(LAYER)
    expected = residuals @ directions.unit[LAYER]
    torch.testing.assert_close(shift.projections, expected, rtol=1e-4, atol=1e-4)
    assert shift.norm == pytest.approx(float(directions.vectors[LAYER].norm()))


def test_what_was_found_lies_in_the_store_under_all_that_it_depends_on(
    model, prompts, directions, tmp_path
):
    store = Store(tmp_path)
    first = measure(model, prompts, directions, judge=Judge(), store=store)
    again = Judge()
    second = measure(model, prompts, directions, judge=again, store=store)
    pd.testing.assert_frame_equal(second.frame(), first.frame())
    assert len(again.asked) == second.n_harmless  # those without a shift: no reply to one was made
    for other in ({"judge": Judge(0.9)}, {"gammas": GAMMAS[:3]}, {"bisect": True}):
        judge = other.setdefault("judge", Judge())
        measure(model, prompts, directions, store=store, **other)
        assert len(judge.asked) > second.n_harmless


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gammas": ()}, "gammas are none"),
        ({"gammas": (0.5, 0.2)}, "from small to large"),
        ({"gammas": (0.5, 0.5)}, "from small to large"),
        ({"gammas": (0.0, 0.5)}, "positive"),
        ({"gammas": (0.5, math.nan)}, "positive"),
        ({"new_tokens": 0}, "new_tokens"),
        ({"judge": Judge(share=0.0)}, "refuses none of 8 harmless prompts"),
        ({"judge": "nobody"}, "nobody"),
    ],
)
def test_what_cannot_be_measured_is_one_line(model, prompts, directions, options, said):
    with pytest.raises(UserError, match=said) as caught:
        measure(model, prompts, directions, **options)
    assert "\n" not in str(caught.value)


def test_a_layer_out_of_range_and_prompts_that_are_all_harmful_are_one_line(
    model, prompts, directions
):
    with pytest.raises(UserError, match="layers 0 to 3"):
        just_enough_shift(model, prompts, directions, 4, store=False)
    with pytest.raises(UserError, match="no benign or pseudo-harmful"):
        measure(model, prompts.where(label="harmful"), directions)


# ---- The line ----

ALPHA, ORIGIN, NORM, BENIGN, HARMFUL = 0.7, 1.5, 4.0, -2.0, 12.0


def planted(slope_sign: float = 1.0) -> JustEnoughShift:
    """Shifts that each take a prompt ALPHA of its way to ORIGIN; one prompt has none."""
    along = torch.linspace(3.0, 9.0, 12)
    gammas = slope_sign * ALPHA * (along - ORIGIN) / NORM
    gammas[4] = math.nan
    return JustEnoughShift(
        gammas=gammas,
        projections=along,
        prompts=PromptSet(tuple(Prompt(f"Kill {n}", "pseudo_harmful") for n in range(12))),
        layer=LAYER,
        norm=NORM,
        benign_mean=BENIGN,
        harmful_mean=HARMFUL,
        tried=(2.0,),
        n_harmless=30,
        judge="none",
        new_tokens=4,
    )


def test_alpha_and_origin_are_those_that_were_planted():
    shift = planted()
    assert shift.line.correlation.value == pytest.approx(1, abs=1e-5)
    assert shift.alpha == pytest.approx(ALPHA, rel=1e-5)
    assert shift.origin == pytest.approx(ORIGIN, rel=1e-4)
    assert shift.origin_place == pytest.approx((ORIGIN - BENIGN) / (HARMFUL - BENIGN), rel=1e-4)
    known = shift.frame().dropna(subset=["gamma"])
    assert len(known) == 11
    assert known["line"].to_numpy() == pytest.approx(known["gamma"].to_numpy(), rel=1e-4)


def test_the_fitted_origin_lies_on_every_unit_direction_where_the_place_says(directions):
    fitted = directions.with_fitted(2, 0.25).with_fitted(LAYER, 0.5)
    benign, harmful = (directions.mean_projections(label) for label in ("benign", "harmful"))
    origins = fitted.origins("fitted")
    assert float(origins[2]) == pytest.approx(float(0.75 * benign[2] + 0.25 * harmful[2]), rel=1e-5)
    torch.testing.assert_close(origins[LAYER], directions.origins("midpoint")[LAYER])
    assert origins[[0, 3]].isnan().all()


def test_a_fitted_origin_needs_shifts_of_the_layer_that_grow_with_the_projection(model, prompts):
    shift = planted()
    assert fitted_place("fitted", model, prompts, LAYER, shift) == shift.origin_place
    assert fitted_place("midpoint", model, prompts, LAYER) is None
    with pytest.raises(UserError, match="measured at layer 1, and layer 2"):
        fitted_place("fitted", model, prompts, 2, shift)
    for bad in (planted(-1.0), replace(shift, gammas=torch.full((12,), math.nan))):
        with pytest.raises(UserError, match="no origin can be fitted at layer 1"):
            fitted_place("fitted", model, prompts, LAYER, bad)
