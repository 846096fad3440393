"""Where the residual stream of a templated prompt is read: each position has one name everywhere.

    last          the last token of the chat template, where the model decides how to begin
    instruction   the last token of the user's text, before the template closes the turn
    -2, -3, ...   further tokens of the template, counted from its end; -1 is the last
    refusal       the first token of a refusal, put into the model's mouth

A template closes the user's text with the same tokens for every prompt, and prompts are padded on
the left: so a position is the same number of tokens from the end in every row of a batch. Before
the end of the instruction prompts differ in their words, and no position has one meaning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from actor_lens.errors import UserError, check_whole
from actor_lens.models.chat_model import ChatModel

# Texts that end in different words and signs: what all of them share at the end is the template's.
_PROBES = ("What is the time", "Tell me a story.", "Is it 7?", "Thanks, I am glad")


@dataclass(frozen=True)
class Position:
    """A position of a model's prompts, from ``find_position``.

    Attributes:
        name: ``"last"``, ``"instruction"``, ``"refusal"`` or a number such as ``"-2"``.
        behind: Number of tokens that stand behind it.
        opening: Token ids that follow the templated prompt; none but for ``"refusal"``.
    """

    name: str = "last"
    behind: int = 0
    opening: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        """What tells it from other positions of the same tokens, in the activation store."""
        return str(-1 - self.behind) if self.behind else "last"

    def tokenize(self, model: ChatModel, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids of each templated prompt, the opening behind it.

        Raises:
            UserError: As ``ChatModel.tokenize``.
        """
        ids = model.tokenize(prompts, room=len(self.opening))
        return [[*own, *self.opening] for own in ids]

    def __str__(self) -> str:
        """The position in words, for a sentence."""
        words = {
            "last": "the last token",
            "instruction": "the end of the instruction",
            "refusal": "the first token of a refusal",
        }
        return words.get(self.name, f"token {self.name}")


LAST = Position()
"""The last token of the template, where everything is read and trained unless said otherwise."""


def closing_tokens(model: ChatModel) -> int:
    """How many tokens the chat template puts after the user's text, the same for every prompt."""
    first, *others = (list(reversed(ids)) for ids in model.tokenize(_PROBES))
    shared = 0
    while all(shared < len(ids) and ids[shared] == first[shared] for ids in others):
        shared += 1
    return shared


def check_closes(
    model: ChatModel, advice: str = "give a model whose template closes the turn"
) -> int:
    """Return ``closing_tokens`` of a template that closes the user's text; else say what to do.

    Raises:
        UserError: If it puts no token behind it.
    """
    closing = closing_tokens(model)
    if closing == 0:
        raise UserError(
            f"the chat template of '{model.name}' puts no token behind the user's text, so that "
            f"the end of the instruction is the last token; {advice}"
        )
    return closing


def find_position(
    model: ChatModel, position: str | int | Position, opening: Sequence[int] = ()
) -> Position:
    """Find a position in the prompts of a model.

    Args:
        model: The model, for its chat template.
        position: ``"last"``, ``"instruction"``, ``"refusal"``, a number from -1 downward, or a
            position that was found before, which is returned as it is.
        opening: Token ids of how the model begins refusals, for ``"refusal"``; it is read at the
            last of them.

    Raises:
        UserError: If there is no such position, the template closes no turn, or the opening is
            missing or belongs to another position.
    """
    if isinstance(position, Position):
        return position
    if position == "refusal":
        if not len(opening):
            raise UserError(
                "position 'refusal' needs the token that refusals begin with; give "
                "opening=al.judges.refusal_openings(model, prompts).commonest[:1]"
            )
        return Position("refusal", opening=tuple(int(token) for token in opening))
    if len(opening):
        raise UserError(f"an opening is read at position 'refusal' only, not at {position!r}")
    if position in ("last", -1):
        return LAST
    if position == "instruction":
        return Position("instruction", check_closes(model))
    closing = closing_tokens(model)
    if isinstance(position, str):
        raise UserError(
            f"position {position!r} is not known; use last, instruction, refusal or a number from "
            f"{-1 - closing} to -1"
        )
    behind = -1 - check_whole("position", position, -1 - closing, -1)
    return Position("instruction" if behind == closing else str(-1 - behind), behind)
