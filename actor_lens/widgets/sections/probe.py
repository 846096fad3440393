"""Your own prompt: where it lies at every layer, which words pull it there, what is replied."""

from __future__ import annotations

from functools import partial

import ipywidgets as ipw
from torch import Tensor

from actor_lens.directions.projections import token_projections
from actor_lens.errors import UserError
from actor_lens.evaluation.evaluate import evaluate
from actor_lens.figures import Panel
from actor_lens.figures.theme import LABEL_STYLES
from actor_lens.prompts.rows import Prompt
from actor_lens.prompts.sets import PromptSet
from actor_lens.widgets.exploration import ProbeResult
from actor_lens.widgets.jobs import Control, applied
from actor_lens.widgets.parts import block, button, checkbox, paragraph, row, safe
from actor_lens.widgets.sections.base import LOWER, WHOLE, Desk, Section
from actor_lens.widgets.shared_panels import tokens_panel

REPLY_TOKENS = 64
# The colour bar of a heatmap, as a share of the page.
ROOM_FOR_COLOURS = 0.09


class ProbeSection(Section):
    """A text box, and the prompt in it token by token and layer by layer.

    *Look* runs the prompt through the model, and through the model with the last run where there
    is one, and sets ``probe``. The user then sees a heatmap for each, the prompt as a line over the
    bands of all layers, the prompt in its chat template, and the replies.

    Attributes:
        prompt: Text box, with an example that the bundled prompts do not hold.
        label: What the user says the prompt is: replies to harmful prompts are held back.
        replies: Box to tick where replies are wanted.
        look: Button that sets ``probe``.
    """

    title = "Your prompt"

    def __init__(self, desk: Desk) -> None:
        """Make the controls; see ``Section``."""
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

    def panels(self) -> list[Panel]:
        """Tokens against layers before training, and beside it with the run where there is one."""
        probe, layer = self.exploration.probe, self.exploration.layer
        if probe is None:
            return []
        parts = [("tokens", probe.before, "Before training" if probe.after else "")]
        if probe.after is not None:
            parts.append(("tokens after", probe.after, "With the run"))
        width = WHOLE[1] / len(parts)

        def draw(place: int) -> Panel:
            name, tokens, when = parts[place]
            x = (place * width, (place + 1) * width - ROOM_FOR_COLOURS)
            last = place == len(parts) - 1
            y = (0.1, LOWER[1] - 0.03)
            return tokens_panel(tokens, x, y, name=name, layer=layer, when=when, scale=last)

        return [
            self.cached(name, (tokens, layer, len(parts)), partial(draw, place))
            for place, (name, tokens, _when) in enumerate(parts)
        ]

    def lines(self) -> dict[str, Tensor]:
        """The prompt's last token at every layer, where the model decides what to reply."""
        probe = self.exploration.probe
        if probe is None:
            return {}
        after = {} if probe.after is None else {"your prompt, with the run": probe.after.last}
        return {"your prompt": probe.before.last, **after}

    def refresh(self) -> None:
        """Write the prompt in its chat template and the replies."""
        self.look.disabled = self.desk.worker.busy
        probe = self.exploration.probe
        if probe is None:
            self.text.value = paragraph("Write a prompt and press Look.")
            return
        parts = [paragraph("As the model reads it:"), block(probe.rendered)]
        for time, reply in probe.replies.items():
            parts += [paragraph(f"Reply {safe(time)}:"), block(reply or "(nothing)")]
        self.text.value = "".join(parts)

    def _look(self) -> None:
        state, text, label = self.exploration, self.prompt.value, self.label.value
        run, with_replies = state.run, self.replies.value

        def work(control: Control) -> None:
            if not text.strip():
                raise UserError("the prompt is empty; write one")
            directions = state.look.directions
            prompts = PromptSet((Prompt(text, label),))
            probe = ProbeResult(
                before=token_projections(state.model, text, directions),
                after=None,
                rendered=state.model.render(text),
            )
            replies = {}
            if with_replies:
                replies["before"] = evaluate(state.model, prompts, new_tokens=REPLY_TOKENS)
            control.check()
            if run is not None:
                with applied(run, state.model):
                    probe.after = token_projections(state.model, text, directions)
                    if with_replies:
                        replies["after"] = evaluate(state.model, prompts, new_tokens=REPLY_TOKENS)
            # A frame leaves out what a model should not have said.
            probe.replies = {
                time: str(evaluation.frame()["reply"][0]) for time, evaluation in replies.items()
            }
            state.probe = probe

        self.desk.start("looking at the prompt", work)
