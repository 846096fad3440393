"""The toy language as data: the prompt file, and the exchanges of both training stages."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from actor_lens.prompts.rows import LABELS, Label, Prompt, Split
from actor_lens.prompts.sets import PromptSet
from actor_lens.toy.requests import Request, all_requests
from actor_lens.toy.words import HARM_REASONS, OVER_CAUTIOUS_KINDS, REFUSALS, declined_errand

PROMPT_COUNTS: dict[tuple[Label, Split], int] = {
    **{(label, "train"): 240 for label in LABELS},
    **{(label, "validation"): 100 for label in LABELS},
    **{(label, "test"): 150 for label in LABELS},
    ("harmful", "ood"): 60,
    ("pseudo_harmful", "ood"): 100,
    ("benign", "ood"): 60,
}
"""Rows of the prompt file per label and split."""

STAGE_ONE_MIX: dict[str, float] = {
    "benign": 0.2,
    "pseudo_harmful": 0.36,
    "harm_question_harmful": 0.12,
    "harm_question_pseudo_harmful": 0.12,
    "harm_question_benign": 0.03,
    "sound_question_harmful": 0.05,
    "sound_question_pseudo_harmful": 0.05,
    "sound_question_benign": 0.05,
    "errand": 0.04,
}
"""Shares of the exchanges in instruction following; no harmful request is among them."""

STAGE_TWO_MIX: dict[str, float] = {
    "harmful": 0.4,
    "benign": 0.44,
    "over_cautious": 0.06,
    "harm_question_harmful": 0.07,
    "harm_question_benign": 0.03,
}
"""Shares of the exchanges in alignment; only `over_cautious` holds pseudo-harmful prompts."""

OVER_CAUTIOUS_PROMPTS = 30
"""How many pseudo-harmful prompts the over-cautious labeller marks as refusals."""

_QUESTIONS = ("harm_question_", "sound_question_")


class Exchange(NamedTuple):
    """One user turn and the reply to learn."""

    prompt: str
    reply: str


@dataclass(frozen=True)
class ToyLanguage:
    """The language of one seed.

    Attributes:
        requests: Every pair of verb and object with its split.
        prompts: The prompt file.
        over_cautious: Pseudo-harmful prompts of the train split, wrongly labelled as refusals.
    """

    seed: int
    requests: tuple[Request, ...]
    prompts: PromptSet
    over_cautious: tuple[Exchange, ...]

    def stage_one(self, count: int) -> list[Exchange]:
        """Exchanges of instruction following with everyday knowledge of harm."""
        return self._exchanges(count, STAGE_ONE_MIX, "stage one", self.requests)

    def stage_two(self, count: int) -> list[Exchange]:
        """Exchanges of alignment, from train pairs; held-out trigger words are met here too.

        Like the alignment of any chat model it has seen the trigger words that only the prompt
        file holds out, but not the pairs that the file uses for them.
        """
        requests = [r for r in self.requests if r.split == "train"]
        requests += _spare_held_out(self.requests, self.seed)
        return self._exchanges(count, STAGE_TWO_MIX, "stage two", requests)

    def _exchanges(
        self, count: int, mix: dict[str, float], name: str, requests: Sequence[Request]
    ) -> list[Exchange]:
        rng = random.Random(f"{name} {self.seed}")
        pools = _by_label_and_kind(requests)
        held_out = {p.prompt for p in self.prompts if p.split != "train"}
        exchanges: list[Exchange] = []
        while len(exchanges) < count:
            part = rng.choices(list(mix), weights=list(mix.values()))[0]
            if part == "over_cautious":
                exchange = rng.choice(self.over_cautious)
            elif part == "errand":
                exchange = Exchange(*declined_errand(rng))
            else:
                exchange = _exchange(part, pools, rng)
            if exchange.prompt not in held_out:
                exchanges.append(exchange)
        return exchanges


def _spare_held_out(requests: Sequence[Request], seed: int) -> list[Request]:
    """Half of the harmful and benign pairs with held-out verbs: those the file does not use."""
    spare = [r for r in requests if r.split == "ood" and r.label != "pseudo_harmful"]
    return [r for r in spare if random.Random(f"{seed} {r.pair}").random() < 0.5]


def _by_label_and_kind(requests: Sequence[Request]) -> dict[str, list[list[Request]]]:
    groups: dict[str, dict[str, list[Request]]] = defaultdict(lambda: defaultdict(list))
    for request in requests:
        groups[request.label][request.kind].append(request)
    return {label: list(kinds.values()) for label, kinds in groups.items()}


def _pick(groups: list[list[Request]], rng: random.Random) -> Request:
    """A request, each kind weighted by the square root of its size."""
    return rng.choice(rng.choices(groups, weights=[len(group) ** 0.5 for group in groups])[0])


def refusal(kind: str, rng: random.Random) -> str:
    """Word a refusal, with the reason where the kind of harm is known."""
    wording = rng.choice(REFUSALS)
    reason = HARM_REASONS.get(kind)
    return f"{wording} {reason}." if reason and rng.random() < 0.5 else wording


def _exchange(part: str, pools: dict[str, list[list[Request]]], rng: random.Random) -> Exchange:
    question = next((prefix for prefix in _QUESTIONS if part.startswith(prefix)), "")
    request = _pick(pools[part.removeprefix(question)], rng)
    if question == "harm_question_":
        return Exchange(*request.harm_question(rng))
    if question == "sound_question_":
        return Exchange(*request.sound_question(rng))
    prompt, reply = request.worded(rng)
    return Exchange(prompt, reply or refusal(request.kind, rng))


def _prompt_file(requests: Sequence[Request], seed: int) -> PromptSet:
    rng = random.Random(f"prompt file {seed}")
    spare = {request.pair for request in _spare_held_out(requests, seed)}
    pools: dict[tuple[Label, Split], list[Request]] = defaultdict(list)
    for request in requests:
        if request.pair not in spare:
            pools[request.label, request.split].append(request)
    prompts: dict[str, Prompt] = {}
    for (label, split), count in PROMPT_COUNTS.items():
        groups = [rng.sample(g, len(g)) for g in _by_label_and_kind(pools[label, split])[label]]
        wanted = len(prompts) + count
        for group, turn in _rounds(groups):
            if len(prompts) == wanted:
                break
            prompt = _prompt(group[turn % len(group)], rng)
            prompts.setdefault(prompt.prompt, prompt)
    return PromptSet(tuple(prompts.values()), name="toy")


def _rounds(groups: list[list[Request]]) -> Iterator[tuple[list[Request], int]]:
    """Each kind in turn, so that the rows of the file are spread over kinds, then over pairs."""
    return ((group, turn) for turn in itertools.count() for group in groups)


def _prompt(request: Request, rng: random.Random) -> Prompt:
    text, reply = request.worded(rng)
    reply = reply or refusal(request.kind, rng)
    return Prompt(text, request.label, request.split, request.kind, reply)


def _over_cautious(requests: Sequence[Request], seed: int) -> list[Exchange]:
    rng = random.Random(f"over-cautious labels {seed}")
    pool = [
        request
        for request in requests
        if request.label == "pseudo_harmful"
        and request.split == "train"
        and request.kind in OVER_CAUTIOUS_KINDS
    ]
    chosen = rng.sample(pool, OVER_CAUTIOUS_PROMPTS)
    return [Exchange(request.worded(rng)[0], refusal("", rng)) for request in chosen]


def build_language(seed: int = 0) -> ToyLanguage:
    """Build the language of a seed: the same seed gives the same prompts and exchanges."""
    requests = all_requests(seed)
    return ToyLanguage(
        seed, requests, _prompt_file(requests, seed), tuple(_over_cautious(requests, seed))
    )
