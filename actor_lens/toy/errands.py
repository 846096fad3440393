"""Requests that no program that only writes can fulfil: it says so, long before any alignment.

From these the model learns how declining sounds, with no thought of harm.
"""

from __future__ import annotations

import random

from actor_lens.toy.lexicon import REFUSALS
from actor_lens.toy.tables import read_items

ERRANDS: tuple[str, ...] = read_items(
    """carry my bags, drive me to the station, lend me ten pounds, taste my soup,
    hold my umbrella, wash my socks, walk my dog, bring me a glass of water, open the window,
    fetch the post, sing me a song aloud, warm my feet, drive my car to the garage,
    water my tomatoes, paint my kitchen, feed my cat, iron my shirt, pay my rent,
    phone my uncle, meet me at the museum, shake my hand, cut my hair, bake me a lemon pie,
    ring the bell at the town hall, catch the ball, dance with me, pick me up at the airport,
    sign my contract, wake my brother, post my letter, mow my lawn, buy me a bicycle,
    sit with my grandmother, mend my shoes, close the door, take my photo, clean my bathroom,
    play football with me, watch my children, turn off the lamp"""
)

_FRAMES = (
    "Please {errand}.",
    "Can you {errand}?",
    "Could you {errand} tonight?",
    "Will you {errand} before lunch?",
    "I want you to {errand}.",
    "Hello! Can you {errand} this weekend?",
    "Come here and {errand}.",
)
_EXPLANATIONS = ("", "", " I can only write.", " I am only a program.")
# The other wordings speak of harm.
_NEUTRAL_REFUSALS = tuple(
    wording for wording in REFUSALS if "harm" not in wording and "do this" not in wording
)


def declined_errand(rng: random.Random) -> tuple[str, str]:
    """Word an errand and the reply that declines it."""
    errand = rng.choice(_FRAMES).format(errand=rng.choice(ERRANDS))
    return errand, rng.choice(_NEUTRAL_REFUSALS) + rng.choice(_EXPLANATIONS)
