"""Everything that can be asked for in the toy language, each with its label and its split."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from actor_lens.prompts.rows import Label, Split
from actor_lens.toy import words
from actor_lens.toy.words import Frame, Verb, answer, definite

_SPLIT_SHARES: dict[Split, float] = {"train": 0.5, "validation": 0.2, "test": 0.3}

_AFTERTHOUGHT_SHARE = 0.65


@dataclass(frozen=True)
class Request:
    """Something to ask for: a verb and its object, in any of several wordings.

    Attributes:
        label: harmful, pseudo_harmful or benign.
        kind: The kind of request: a kind of pseudo-harmful prompt, a group of targets of harm,
            or what a benign request is about.
        verb: Forms of the verb. For questions about words only the base form has a meaning.
        object: What the verb is applied to.
        body: The answer without its opening; empty for a harmful request, which has none.
        form: "deed" (do something), "meaning" (what do words mean) or "past" (who did it).
        split: The split of the prompt file to which this pair of verb and object belongs.
    """

    label: Label
    kind: str
    verb: Verb
    object: str
    body: str
    form: str = "deed"
    split: Split = "train"

    @property
    def pair(self) -> tuple[str, str]:
        """The verb's base form and the object."""
        return self.verb.base, self.object

    @property
    def frames(self) -> tuple[Frame, ...]:
        """The wordings that fit this request."""
        if self.form == "deed":
            return words.REQUEST_FRAMES
        return words.MEANING_FRAMES if self.form == "meaning" else words.PAST_FRAMES

    def fill(self, text: str, **more: str) -> str:
        """Put the verb and the object into a wording."""
        verb = self.verb
        return text.format(
            base=verb.base, gerund=verb.gerund, past=verb.past, object=self.object, **more
        )

    def worded(self, rng: random.Random) -> tuple[str, str]:
        """Word the request and its answer; the answer is empty for a harmful request."""
        frame = rng.choice(self.frames)
        lead = rng.choice(words.LEADS)
        text = lead + self.fill(frame.text, context=rng.choice(words.CONTEXTS))
        return text, answer(frame.opening, self.body) if self.body else ""

    def harm_question(self, rng: random.Random) -> tuple[str, str]:
        """Ask whether the deed would be wrong, and say so."""
        if rng.random() < _AFTERTHOUGHT_SHARE:
            question = f"{self.worded(rng)[0]} {rng.choice(words.WRONG_AFTERTHOUGHTS)}"
        elif self.form == "deed":
            question = self.fill(rng.choice(words.WRONG_FRAMES).text)
        else:
            asked = {"meaning": 'what "{object}" means', "past": "who {past} {object}"}[self.form]
            frame = rng.choice(words.WRONG_TO_ASK_FRAMES).text
            question = frame.format(question=self.fill(asked))
        if self.label == "harmful":
            return question, f"{words.YES_WRONG} {words.HARM_REASONS[self.kind]}."
        reason = f" {words.KINDS[self.kind]}." if self.label == "pseudo_harmful" else ""
        return question, words.NOT_WRONG + reason

    def sound_question(self, rng: random.Random) -> tuple[str, str]:
        """Ask whether the request sounds dangerous, and say whether it is."""
        replies = {
            "harmful": words.SOUNDS_WRONG,
            "pseudo_harmful": words.SOUNDS_WORSE,
            "benign": words.SOUNDS_FINE,
        }
        return f"{self.worded(rng)[0]} {rng.choice(words.SOUND_AFTERTHOUGHTS)}", replies[self.label]


def _harmful() -> Iterator[Request]:
    for trigger in words.TRIGGERS.values():
        for group in trigger.targets:
            for target in words.TARGETS[group]:
                yield Request("harmful", group, trigger.verb, target, "")


def _pseudo_harmful() -> Iterator[Request]:
    for sense in words.SENSES:
        verb = words.TRIGGERS[sense.trigger].verb
        for thing in sense.objects:
            body = sense.how.format(the=definite(thing))
            yield Request("pseudo_harmful", sense.kind, verb, thing, body)
    for trigger, phrase, meaning in words.SAYINGS:
        verb, body = words.TRIGGERS[trigger].verb, f'"{phrase}" means {meaning}'
        yield Request("pseudo_harmful", "definitions", verb, phrase, body, "meaning")
    for trigger, thing, story in words.EVENTS:
        verb, body = words.TRIGGERS[trigger].verb, f"about {thing}: {story}"
        yield Request("pseudo_harmful", "history", verb, thing, body, "past")


def _benign() -> Iterator[Request]:
    for action in words.ACTIONS:
        for thing in action.objects:
            body = action.how.format(the=definite(thing))
            yield Request("benign", action.kind, action.verb, thing, body)
    for phrase, meaning in words.WORD_MEANINGS:
        body = f'"{phrase}" means {meaning}'
        yield Request("benign", "definitions", Verb("", "", ""), phrase, body, "meaning")
    for deed, story in words.PAST_FACTS:
        past, thing = deed.split(" ", 1)
        body = f"about {definite(thing)}: {story}"
        yield Request("benign", "history", Verb(past, past, past), thing, body, "past")


def _held_out(request: Request) -> bool:
    if request.label == "benign":
        return request.verb.base in words.HELD_OUT_ACTIONS
    if request.verb.base in words.HELD_OUT_TRIGGERS:
        return True
    return request.label == "pseudo_harmful" and request.kind in words.HELD_OUT_KINDS


def _with_splits(requests: Sequence[Request], rng: random.Random) -> list[Request]:
    """Deal the pairs of one label and kind to the splits in fixed shares."""
    dealt = rng.sample(requests, len(requests))
    splits: list[Split] = []
    bounds = [0.0]
    for split, share in _SPLIT_SHARES.items():
        bounds.append(bounds[-1] + share * len(dealt))
        splits += [split] * (round(bounds[-1]) - round(bounds[-2]))
    return [replace(r, split=s) for r, s in zip(dealt, splits, strict=True)]


def all_requests(seed: int) -> tuple[Request, ...]:
    """List every pair of verb and object once per label, dealt to the splits by the seed.

    Held-out trigger words, kinds and benign verbs go to `ood` as a whole; the other pairs are
    dealt to train, validation and test within each label and kind.
    """
    groups: dict[tuple[str, str], list[Request]] = defaultdict(list)
    held_out: list[Request] = []
    seen: set[tuple[str, str]] = set()
    for request in (*_harmful(), *_pseudo_harmful(), *_benign()):
        if request.pair in seen:
            continue
        seen.add(request.pair)
        if _held_out(request):
            held_out.append(replace(request, split="ood"))
        else:
            groups[request.label, request.kind].append(request)
    rng = random.Random(f"splits {seed}")
    dealt = [r for group in groups.values() for r in _with_splits(group, rng)]
    return (*dealt, *held_out)
