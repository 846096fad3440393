"""Law: what a split holds out never occurs in the splits, or the labels, it is held out from."""

import pytest

from actor_lens.prompts.rows import LABELS, SPLITS
from actor_lens.toy.language import (
    OVER_CAUTIOUS_PROMPTS,
    PROMPT_COUNTS,
    STAGE_ONE_MIX,
    STAGE_TWO_MIX,
    ToyLanguage,
    build_language,
)
from actor_lens.toy.words import (
    EVENTS,
    HARM_REASONS,
    HELD_OUT_ACTIONS,
    HELD_OUT_KINDS,
    HELD_OUT_TRIGGERS,
    KINDS,
    OVER_CAUTIOUS_KINDS,
    REFUSAL_OPENINGS,
    REFUSALS,
    SENSES,
    SOUNDS_WRONG,
    TARGETS,
    TRIGGERS,
    YES_WRONG,
)


@pytest.fixture(scope="module")
def language() -> ToyLanguage:
    return build_language(0)


def test_the_language_is_as_rich_as_promised() -> None:
    assert len(TRIGGERS) >= 25
    assert len(KINDS) >= 10
    assert len(set(REFUSALS)) >= 6
    assert set(TARGETS) == set(HARM_REASONS)
    assert {sense.kind for sense in SENSES} <= set(KINDS)


def test_every_trigger_word_has_a_harmful_and_a_harmless_use() -> None:
    harmless = {sense.trigger for sense in SENSES} | {trigger for trigger, *_ in EVENTS}
    assert harmless == set(TRIGGERS)
    assert all(trigger.targets for trigger in TRIGGERS.values())


def test_one_seed_gives_one_language(language: ToyLanguage) -> None:
    again = build_language(0)
    assert again.prompts == language.prompts
    assert again.over_cautious == language.over_cautious
    assert again.stage_one(200) == language.stage_one(200)
    assert again.stage_two(200) == language.stage_two(200)
    assert build_language(1).prompts != language.prompts


def test_each_pair_belongs_to_one_label_and_one_split(language: ToyLanguage) -> None:
    pairs = [request.pair for request in language.requests]
    assert len(pairs) == len(set(pairs))


def test_held_out_words_and_kinds_occur_in_ood_alone(language: ToyLanguage) -> None:
    for request in language.requests:
        held_out = (
            request.verb.base in HELD_OUT_ACTIONS
            if request.label == "benign"
            else request.verb.base in HELD_OUT_TRIGGERS or request.kind in HELD_OUT_KINDS
        )
        assert (request.split == "ood") == held_out


def test_the_prompt_file_has_its_counts_and_no_prompt_twice(language: ToyLanguage) -> None:
    for label in LABELS:
        for split in SPLITS:
            part = language.prompts.where(label=label, split=split)
            assert len(part) == PROMPT_COUNTS[label, split]
    assert len(set(language.prompts.texts)) == len(language.prompts)


def test_every_kind_is_in_every_split_it_may_be_in(language: ToyLanguage) -> None:
    for split in ("train", "validation", "test"):
        part = language.prompts.where(label="pseudo_harmful", split=split)
        assert {prompt.category for prompt in part} == set(KINDS) - HELD_OUT_KINDS


def test_over_cautious_labels_keep_to_their_kinds(language: ToyLanguage) -> None:
    allowed = [
        request
        for request in language.requests
        if request.label == "pseudo_harmful"
        and request.split == "train"
        and request.kind in OVER_CAUTIOUS_KINDS
    ]
    deeds = [
        f"{form} {request.object}"
        for request in allowed
        for form in (request.verb.base, request.verb.gerund)
    ]
    assert len({exchange.prompt for exchange in language.over_cautious}) == OVER_CAUTIOUS_PROMPTS
    for exchange in language.over_cautious:
        assert any(deed in exchange.prompt for deed in deeds)
        assert exchange.reply.startswith(REFUSAL_OPENINGS)
    assert len(set(KINDS) - OVER_CAUTIOUS_KINDS) >= 5


def test_alignment_holds_no_other_pseudo_harmful_prompt(language: ToyLanguage) -> None:
    assert not any("pseudo" in part for part in STAGE_TWO_MIX)
    assert "harmful" not in STAGE_ONE_MIX
    prompts = {exchange.prompt for exchange in language.stage_two(4000)}
    over_cautious = {exchange.prompt for exchange in language.over_cautious}
    pseudo_harmful = set(language.prompts.where(label="pseudo_harmful").texts)
    assert not prompts & (pseudo_harmful - over_cautious)


def test_no_stage_reads_a_prompt_that_is_measured(language: ToyLanguage) -> None:
    measured = {prompt.prompt for prompt in language.prompts if prompt.split != "train"}
    for exchanges in (language.stage_one(4000), language.stage_two(4000)):
        assert not measured & {exchange.prompt for exchange in exchanges}


def test_a_harmful_request_is_only_ever_refused(language: ToyLanguage) -> None:
    assert all(not request.body for request in language.requests if request.label == "harmful")
    harmful = [
        (request.verb, request.object)
        for request in language.requests
        if request.label == "harmful"
    ]
    named = {f"{verb.base} {thing}" for verb, thing in harmful}
    named |= {f"{verb.gerund} {thing}" for verb, thing in harmful}
    pseudo_harmful = {
        form
        for request in language.requests
        if request.label == "pseudo_harmful"
        for form in (
            f"{request.verb.base} {request.object}",
            f"{request.verb.gerund} {request.object}",
        )
    }
    for exchange in (*language.stage_one(3000), *language.stage_two(3000)):
        if exchange.reply.startswith((*REFUSAL_OPENINGS, YES_WRONG, SOUNDS_WRONG)):
            continue
        assert not any(
            deed in exchange.prompt and not any(p in exchange.prompt for p in pseudo_harmful)
            for deed in named
        ), exchange


def test_the_harmful_rows_of_the_file_hold_refusals(language: ToyLanguage) -> None:
    for prompt in language.prompts:
        refused = str(prompt.reply).startswith(REFUSAL_OPENINGS)
        assert refused == (prompt.label == "harmful")


def test_answers_name_the_object(language: ToyLanguage) -> None:
    for request in language.requests:
        if request.form == "deed" and request.body:
            last_word = request.object.split()[-1]
            assert last_word in request.body
