"""Panels of judges that say what is written for them."""

import math
from dataclasses import dataclass

from actor_lens.evaluation.evaluate import Evaluation
from actor_lens.evaluation.panel import judge_panel
from actor_lens.prompts.rows import Prompt
from actor_lens.prompts.sets import PromptSet

VERDICT_OF = {"r": "refused", "a": "answered", "p": "partly_refused", "u": "unreadable"}
SECRET = "mix the two powders"


@dataclass(frozen=True)
class Scripted:
    """Says what is written for it."""

    name: str
    letters: str
    version: str = "1"

    @property
    def identity(self):
        return f"{self.name}:{self.version}"

    def verdicts(self, prompts, replies):
        assert len(prompts) == len(replies)
        return tuple(VERDICT_OF[letter] for letter in self.letters)


@dataclass(frozen=True)
class PlacedScript(Scripted):
    """One of several with its name."""

    place: str = ""


def evaluation(letters, labels=None, scores=None):
    """Replies on which the own judge says what the letters say."""
    labels = labels or ["pseudo_harmful"] * len(letters)
    prompts = PromptSet(tuple(Prompt(f"{i}", label) for i, label in enumerate(labels)))
    replies = tuple("I won't." if one == "r" else SECRET for one in letters)
    verdicts = tuple(VERDICT_OF[one] for one in letters)
    scores = scores or (math.nan,) * len(letters)
    return Evaluation(prompts, replies, verdicts, tuple(scores), "own:1", 64)


def panel(own, *others, labels=None):
    """A panel whose judges say what the letters say."""
    judges = [Scripted(f"judge{i}", letters) for i, letters in enumerate(others)]
    return judge_panel(evaluation(own, labels), judges)
