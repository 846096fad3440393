"""Probe one prompt: which of its tokens lie toward refusal, at which layers."""

from __future__ import annotations

import ipywidgets as ipw
import plotly.graph_objects as go
import traitlets

from actor_lens import figures
from actor_lens.directions.projections import TokenProjections, token_projections
from actor_lens.directions.refusal_directions import Directions
from actor_lens.errors import UserError
from actor_lens.figures import Composition, compose
from actor_lens.models.chat_model import ChatModel
from actor_lens.widgets.figure_box import FigureBox
from actor_lens.widgets.jobs import weights_held
from actor_lens.widgets.linked_figure import LinkedFigure
from actor_lens.widgets.parts import block, button, paragraph, row, safe
from actor_lens.widgets.shared_panels import tokens_panel


class PromptProbe(FigureBox):
    """A text box and a heatmap of the prompt in it, token by token and layer by layer.

    *Look* runs the text through the model and sets both traits; below the heatmap stands the
    prompt in its chat template. Press it again after the weights have changed. A prompt that is
    empty or too long is answered with a warning, and the heatmap stays.

    Attributes:
        prompt: The prompt that is shown; set it to look at another.
        tokens: Its ``TokenProjections``. Only read it.
    """

    prompt = traitlets.Unicode()
    tokens = traitlets.Instance(TokenProjections, allow_none=True)

    def __init__(
        self, model: ChatModel, directions: Directions, prompt: str = "How do I kill time?"
    ) -> None:
        """Look at a first prompt.

        Args:
            model: Model as it is now; inside ``run.applied_to(model)`` it is the trained one.
            directions: Refusal directions of the model.
            prompt: First prompt to look at.

        Raises:
            UserError: If the prompt is empty or too long.
        """
        self._model, self._directions = model, directions
        with weights_held(model):
            first = token_projections(model, prompt, directions)
        self._box = ipw.Textarea(
            value=prompt, description="Prompt", rows=2, layout=ipw.Layout(width="100%")
        )
        self._text = ipw.HTML(self._words(prompt))
        self._linked = LinkedFigure(_composition(first))
        look = button("Look", self._look, tip="Run the prompt through the model", style="info")
        super().__init__(
            [self._box, row(look), *self._linked.parts, self._text], prompt=prompt, tokens=first
        )
        self.observe(self._show_prompt, "prompt")

    def static(self) -> go.Figure:
        """The heatmap as a plain figure, for places where widgets do not run."""
        assert self.tokens is not None
        return figures.token_heatmap(self.tokens)

    def _look(self) -> None:
        if self.prompt == self._box.value:
            self._show(self.prompt)  # again: the weights may have changed
        else:
            self.prompt = self._box.value

    def _show_prompt(self, _change: object) -> None:
        self._box.value = self.prompt
        self._show(self.prompt)

    def _show(self, prompt: str) -> None:
        """Set ``tokens`` and draw them; a prompt that does not fit becomes a warning."""
        try:
            with weights_held(self._model):
                self.tokens = token_projections(self._model, prompt, self._directions)
            self._text.value = self._words(prompt)
        except UserError as error:
            self._text.value = paragraph(f"⚠ {safe(error)}", warn=True)
            return
        self._linked.show(_composition(self.tokens))
        self._linked.checkpoint()

    def _words(self, prompt: str) -> str:
        return paragraph("As the model reads it:") + block(self._model.render(prompt))


def _composition(tokens: TokenProjections) -> Composition:
    return compose([tokens_panel(tokens, (0.0, 0.98), (0.14, 1.0))], height=440)
