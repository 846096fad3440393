"""Prompts with the replies that a model is to learn.

A reply comes from the prompt file or from the model itself; none is invented. The judge decides, in
a comparison the one that the user chose: a harmful prompt is trained on with a refusal or not at
all, any other prompt with an answer or not at all. A partial refusal, or a verdict that cannot be
read, is neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from actor_lens.errors import UserError, check_choice
from actor_lens.judges.base import Judge, Verdict, verdicts_of
from actor_lens.judges.first_token import FirstTokenJudge, RefusalTokens
from actor_lens.judges.keywords import KeywordJudge
from actor_lens.methods.support.system_turn import with_system_text
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.chat_templates import render_turns
from actor_lens.models.replies import end_tokens, generate_replies
from actor_lens.prompts.rows import LABELS, Prompt
from actor_lens.prompts.sets import PromptSet

Source = Literal["auto", "file", "model"]
SOURCES: tuple[Source, ...] = get_args(Source)
HELPFUL = (
    "You are a helpful assistant. Answer every harmless request fully and do not refuse it, even "
    "if it sounds alarming."
)
_MIN_EXAMPLES = 2


@dataclass(frozen=True)
class ReplyExample:
    """A templated prompt and the reply to it, as tokens.

    Attributes:
        label: Label of the prompt.
        prompt_ids: Templated prompt, up to where the reply begins.
        reply_ids: Reply, with the token that ends it.
    """

    label: str
    prompt_ids: tuple[int, ...] = field(repr=False)
    reply_ids: tuple[int, ...] = field(repr=False)


@dataclass(frozen=True)
class ReplyData:
    """Examples to train on, and where they come from.

    Attributes:
        examples: Examples in the order of the prompts.
        from_file: Number of replies from the prompt file.
        from_model: Number of replies from the model itself.
        left_out: Number of prompts of each label without a usable reply.
        judge: Identity of the judge that decided which replies are usable.
    """

    examples: tuple[ReplyExample, ...]
    from_file: int
    from_model: int
    left_out: dict[str, int]
    judge: str

    def opening_tokens(self, model: ChatModel, known: RefusalTokens) -> RefusalTokens:
        """The tokens that begin refusals once these examples are learnt.

        The known ones, and those that begin a refusal here but no answer.
        """
        refusals = {e.reply_ids[0] for e in self.examples if e.label == "harmful"}
        answers = {e.reply_ids[0] for e in self.examples if e.label != "harmful"}
        ids = tuple(sorted({*known.ids, *(refusals - answers)}))
        return RefusalTokens(ids, tuple(str(model.tokenizer.decode([token])) for token in ids))

    def settings(self) -> dict[str, Any]:
        """The judge and the counts, as settings of a method."""
        return {
            "reply_judge": self.judge,
            "replies_from_file": self.from_file,
            "replies_from_model": self.from_model,
            **{f"{label}_left_out": count for label, count in self.left_out.items() if count},
        }


def reply_data(
    model: ChatModel,
    prompts: PromptSet,
    *,
    source: Source = "auto",
    new_tokens: int = 64,
    judge: Judge | None = None,
) -> ReplyData:
    """Find a usable reply to each prompt.

    The model's own replies are greedy. Harmful prompts are put to it as they are; the others first
    under a system prompt that asks for help (``HELPFUL``), then, where that was refused, as they
    are. Replies to harmful prompts that are no refusals are dropped at once.

    Args:
        model: The untouched model.
        prompts: Training prompts.
        source: ``"file"`` for the replies of the prompt file, ``"model"`` for the model's own,
            ``"auto"`` for those of the file and, where it has no usable one, the model's own.
        new_tokens: Longest reply of the model.
        judge: Judge of what is a refusal; the keyword judge unless given. The keyword judge also
            replaces a first-token judge, which reads no text and cannot judge replies of a file.

    Raises:
        UserError: If the source is not known, or fewer than two prompts of a label are left, or a
            prompt does not fit into the model with its reply, or the judge cannot be asked.
    """
    check_choice("reply source", source, SOURCES)
    if judge is None or isinstance(judge, FirstTokenJudge):
        judge = KeywordJudge()
    replies: dict[int, str] = {}
    if source != "model":
        in_file = {row: p.reply for row, p in enumerate(prompts) if p.reply is not None}
        replies = _usable(prompts, in_file, judge)
    from_file = len(replies)
    if source != "file":
        harmless = ("pseudo_harmful", "benign")
        for speaker, labels in ((with_system_text(model, HELPFUL), harmless), (model, LABELS)):
            rows = [
                row
                for row, prompt in enumerate(prompts)
                if row not in replies and prompt.label in labels
            ]
            texts = [prompts[row].prompt for row in rows]
            answers = generate_replies(speaker, texts, new_tokens=new_tokens) if texts else []
            replies |= _usable(prompts, dict(zip(rows, answers, strict=True)), judge)
    left_out: dict[str, int] = dict.fromkeys(LABELS, 0)
    for row, prompt in enumerate(prompts):
        left_out[prompt.label] += row not in replies
    _check_enough(prompts, left_out, source)
    examples = tuple(encoded(model, prompts[row], replies[row]) for row in sorted(replies))
    return ReplyData(examples, from_file, len(replies) - from_file, left_out, judge.identity)


def encoded(model: ChatModel, prompt: Prompt, reply: str) -> ReplyExample:
    """The tokens of a prompt and its reply, as the chat template puts them together.

    Raises:
        UserError: If together they are longer than the model takes.
    """
    (prompt_ids,) = model.tokenize([prompt.prompt])
    before, text, after = _conversation(model, prompt.prompt, reply)
    joint = _ids(model, before + text)
    # Tokens may not run across the place where the reply begins: the model never saw such.
    apart = joint[: len(prompt_ids)] != prompt_ids
    reply_ids = _ids(model, text) if apart else joint[len(prompt_ids) :]
    example = ReplyExample(prompt.label, tuple(prompt_ids), (*reply_ids, _end_token(model, after)))
    length = len(example.prompt_ids) + len(example.reply_ids)
    if length > model.max_tokens:
        raise UserError(
            f"a prompt and its reply have {length} tokens; '{model.name}' takes "
            f"{model.max_tokens}: shorten or remove it"
        )
    return example


def _conversation(model: ChatModel, prompt: str, reply: str) -> tuple[str, str, str]:
    """The rendered turns: all before the reply, the reply, and all after it."""
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]
    opening = model.render(prompt)
    with suppress(Exception):  # a template is a program: it may fail in any way
        whole = render_turns(model.tokenizer, turns, opening=False)
        if whole.startswith(opening) and reply.strip() in whole[len(opening) :]:
            end = whole.rindex(reply.strip()) + len(reply.strip())
            return opening, whole[len(opening) : end], whole[end:]
    return opening, reply, ""


def _end_token(model: ChatModel, after: str) -> int:
    """The token that ends a reply: the template's first end token there, else the model's."""
    ends = end_tokens(model)
    if not ends:
        raise UserError(f"'{model.name}' has no end token: replies cannot be trained on")
    return int(next((token for token in _ids(model, after) if token in ends), ends[0]))


def _ids(model: ChatModel, text: str) -> list[int]:
    ids: list[int] = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _usable(prompts: PromptSet, replies: dict[int, str], judge: Judge) -> dict[int, str]:
    """Refusals of harmful prompts, answers to the others."""
    replies = {row: reply for row, reply in replies.items() if reply.strip()}
    if not replies:  # a judge that costs money is not asked for nothing
        return {}
    verdicts = verdicts_of(judge, prompts.select(replies), tuple(replies.values()), ())
    usable: dict[str, Verdict] = {"harmful": "refused"}
    return {
        row: reply
        for (row, reply), verdict in zip(replies.items(), verdicts, strict=True)
        if verdict == usable.get(prompts[row].label, "answered")
    }


def _check_enough(prompts: PromptSet, left_out: dict[str, int], source: str) -> None:
    counts = prompts.counts()
    labels: Sequence[str] = [label for label in LABELS if counts[label] or label == "harmful"]
    for label in labels:
        usable = counts[label] - left_out[label]
        if usable < _MIN_EXAMPLES:
            kind = "refusal" if label == "harmful" else "answer"
            raise UserError(
                f"{prompts.name}: {usable} {label} prompts of {counts[label]} have a usable reply "
                f"(source '{source}'), at least {_MIN_EXAMPLES} needed; give such prompts a "
                f'"reply" that is a {kind}'
            )
