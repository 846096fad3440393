"""Residuals at a position are what Hugging Face's hooks give at that token of each prompt alone.

A position is one number of tokens from the end for every prompt; a token of the user's text, whose
place differs in meaning from prompt to prompt, is refused.
"""

import numpy as np
import pytest
import torch

from actor_lens.activations.positions import LAST, closing_tokens, find_position
from actor_lens.activations.residuals import collect_residuals
from actor_lens.activations.store import Store
from actor_lens.directions.projections import project, token_projections
from actor_lens.directions.refusal_directions import refusal_directions
from actor_lens.directions.targets import just_enough_targets
from actor_lens.errors import UserError
from actor_lens.judges.first_token import RefusalOpenings
from actor_lens.models.chat_model import wrap_model
from tests.support.steering import CLOSING, TEXTS, stream
from tests.support.studies import planted_prompts
from tests.support.tiny_models import (
    SOME_ARCHITECTURES,
    shared_tiny_model,
    tiny_chat_model,
    tiny_tokenizer,
)

PROMPTS = planted_prompts(3)
OPENING = (50, 51)


@pytest.fixture(scope="module")
def model():
    return tiny_chat_model()


@pytest.mark.parametrize("architecture", SOME_ARCHITECTURES)
def test_residuals_are_those_of_hooks_at_that_token(architecture):
    model, prompts = shared_tiny_model(architecture), PROMPTS["test"]
    places = {"last": -1, "instruction": -1 - CLOSING, -2: -2, "refusal": -1}
    for position, place in places.items():
        opening = OPENING if position == "refusal" else ()
        found = collect_residuals(model, prompts, position=position, opening=opening, store=False)
        for row, ids in enumerate(model.tokenize(prompts.texts)):
            alone = stream(model, [*ids, *opening])[:, place]
            assert np.abs(found.values[:, row].double().numpy() - alone).max() < 1e-5


def test_the_same_place_has_one_name(model):
    assert find_position(model, -1) == find_position(model, "last") == LAST
    assert find_position(model, -1 - CLOSING) == find_position(model, "instruction")
    assert find_position(model, -2).name == "-2"
    found = find_position(model, "refusal", OPENING)
    assert find_position(model, found) is found


def test_the_store_tells_positions_apart(model, tmp_path):
    store = Store(tmp_path / "store")
    positions = ("last", -2, "instruction")
    first = [collect_residuals(model, PROMPTS, position=one, store=store) for one in positions]
    assert len(store.entries()) == 3
    again = [collect_residuals(model, PROMPTS, position=one, store=store) for one in positions]
    assert len(store.entries()) == 3
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.values, other.values)
    assert not torch.equal(first[0].values, first[1].values)


def test_everything_made_of_residuals_keeps_their_position(model):
    residuals = collect_residuals(model, PROMPTS, position="instruction", store=False)
    assert "at the end of the instruction" in repr(residuals)
    assert residuals.select(PROMPTS["test"]).position == residuals.position
    directions = refusal_directions(residuals)
    assert "at the end of the instruction" in repr(directions)
    assert project(residuals, directions).summary()["position"] == "instruction"
    with pytest.raises(UserError, match=r"read at the last token.*position=directions.position"):
        project(collect_residuals(model, PROMPTS, store=False), directions)
    with pytest.raises(UserError, match="targets move the last token"):
        just_enough_targets(residuals, directions, 1)


@pytest.mark.parametrize(
    ("position", "opening", "behind"),
    [(-1, (), 0), ("instruction", (), CLOSING), ("refusal", OPENING, 0)],
)
def test_the_token_view_marks_the_token_that_was_read(model, position, opening, behind):
    residuals = collect_residuals(model, PROMPTS, position=position, opening=opening, store=False)
    directions = refusal_directions(residuals)
    tokens = token_projections(model, PROMPTS[0].prompt, directions)
    frame = tokens.frame()
    n_tokens = len(model.tokenize([PROMPTS[0].prompt])[0]) + len(opening)
    assert frame.loc[frame["read"], "token_index"].unique().tolist() == [n_tokens - 1 - behind]
    own = project(residuals, directions).values[:, 0].numpy()
    assert frame.loc[frame["read"], "projection"].to_numpy() == pytest.approx(own, abs=1e-5)
    (mark,) = [shape for shape in tokens.plot().layout.shapes if shape.name == "read"]
    assert (mark.x0 + mark.x1) / 2 == n_tokens - 1 - behind


def test_the_first_token_of_a_refusal_is_that_of_the_commonest_opening():
    openings = RefusalOpenings(((3,), (5, 6)), ("a", "b c"), (4, 9), (0, 0), 13, 7)
    assert openings.commonest == (5, 6)


@pytest.mark.parametrize(
    ("position", "opening", "words"),
    [
        (-2 - CLOSING, (), f"position is {-2 - CLOSING}.*from {-1 - CLOSING} to -1"),
        (0, (), "position is 0"),
        ("end", (), "'end' is not known; use last, instruction, refusal"),
        ("refusal", (), "opening=al.judges.refusal_openings"),
        ("last", OPENING, "read at position 'refusal' only"),
    ],
)
def test_what_is_no_position_is_one_line(model, position, opening, words):
    with pytest.raises(UserError, match=words) as error:
        collect_residuals(model, PROMPTS, position=position, opening=opening)
    assert "\n" not in str(error.value)


def test_a_template_that_closes_nothing_has_no_end_of_the_instruction():
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    model = wrap_model(tiny_chat_model().hf, tiny_tokenizer(template), name="open")
    assert closing_tokens(model) == 0
    assert find_position(model, "last") == LAST
    with pytest.raises(UserError, match="no token behind the user's text"):
        find_position(model, "instruction")
    with pytest.raises(UserError, match="position is -2"):
        find_position(model, -2)


def test_texts_of_any_length_share_their_position(model):
    """The position counts from the end: the longest prompt of a batch moves no other."""
    ids = model.tokenize(TEXTS)
    assert len({len(one) for one in ids}) > 1
    assert len({tuple(one[-CLOSING:]) for one in ids}) == 1
