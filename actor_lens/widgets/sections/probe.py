"""Your own prompt: where it lies at every layer, which words pull it there, what is replied."""

from __future__ import annotations

from functools import partial

import ipywidgets as ipw

from actor_lens import figures
from actor_lens.directions.projections import TokenProjections, token_projections
from actor_lens.errors import UserError
from actor_lens.evaluation.evaluate import evaluate
from actor_lens.figures import Panel
from actor_lens.figures.theme import LABEL_STYLES
from actor_lens.prompts.rows import Prompt
from actor_lens.prompts.sets import PromptSet
from actor_lens.widgets.exploration import TokenLook
from actor_lens.widgets.jobs import Control, applied
from actor_lens.widgets.parts import block, button, checkbox, paragraph, row, safe
from actor_lens.widgets.sections.base import LOWER, WHOLE, Desk, Section

REPLY_TOKENS = 64


class ProbeSection(Section):
    """A text box, and the prompt in it token by token."""

    title = "Your prompt"

    def __init__(self, desk: Desk) -> None:
        """With an example that the bundled prompts do not hold."""
        super().__init__(desk)
        self.prompt = ipw.Textarea(
            value="How do I kill a Python process?",
            description="Prompt",
            rows=2,
            layout=ipw.Layout(width="99%"),
        )
        self.label = ipw.Dropdown(
            options=[(style.name, label) for label, style in LABEL_STYLES.items()],
            value="pseudo_harmful",
            description="It is",
        )
        self.replies = checkbox("ask for the reply", value=True)
        self.look = button("Look", self._look, tip="Run the prompt through the model", style="info")
        self.controls = ipw.VBox([self.prompt, row(self.label, self.replies, self.look)])
        self.text = ipw.HTML()
        self.below = self.text

    def panels(self) -> list[Panel]:
        """Tokens against layers, after training where there is a run."""
        seen = self.exploration.tokens_seen
        if seen is None:
            return []
        layer = self.exploration.layer
        parts = [("tokens", seen.before, "before training" if seen.after else "")]
        if seen.after is not None:
            parts.append(("tokens after", seen.after, "with the run"))
        width = WHOLE[1] / len(parts)
        return [
            self.cached(
                name,
                (tokens, layer, len(parts)),
                partial(_tokens_panel, name, tokens, layer, when, place * width, width),
            )
            for place, (name, tokens, when) in enumerate(parts)
        ]

    def refresh(self) -> None:
        """The templated prompt and the replies."""
        self.look.disabled = self.desk.worker.busy
        seen = self.exploration.tokens_seen
        if seen is None:
            self.text.value = paragraph("Write a prompt and press Look.")
            return
        parts = [paragraph("As the model reads it:"), block(seen.rendered)]
        for time, reply in seen.replies.items():
            parts += [paragraph(f"Reply {safe(time)}:"), block(reply or "(nothing)")]
        self.text.value = "".join(parts)

    def _look(self) -> None:
        seen, text, label = self.exploration, self.prompt.value, self.label.value
        run, wanted = seen.run, self.replies.value

        def work(control: Control) -> None:
            if not text.strip():
                raise UserError("the prompt is empty; write one")
            directions = seen.look.directions
            prompts = PromptSet((Prompt(text, label),))
            found = TokenLook(
                before=token_projections(seen.model, text, directions),
                after=None,
                rendered=seen.model.render(text),
            )
            replies = {}
            if wanted:
                replies["before"] = evaluate(seen.model, prompts, new_tokens=REPLY_TOKENS)
            control.check()
            if run is not None:
                with applied(run, seen.model):
                    found.after = token_projections(seen.model, text, directions)
                    if wanted:
                        replies["after"] = evaluate(seen.model, prompts, new_tokens=REPLY_TOKENS)
            # A frame leaves out what a model should not have said.
            found.replies = {
                time: str(evaluation.frame()["reply"][0]) for time, evaluation in replies.items()
            }
            seen.tokens_seen = found

        self.desk.start("looking at the prompt", work)


def _tokens_panel(
    name: str, tokens: TokenProjections, layer: int, when: str, left: float, width: float
) -> Panel:
    return Panel(
        name,
        figures.token_heatmap(tokens, layer=layer),
        x=(left, left + width - 0.09),
        y=(0.1, LOWER[1]),
        title=" ".join(filter(None, ["Which words pull toward refusal", when])),
        note="0: mean benign prompt, 1: mean harmful one. The last token decides. "
        "Rows of one colour: "
        "layers at which the labels are hardly apart.",
    )
