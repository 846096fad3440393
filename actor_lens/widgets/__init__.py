"""Widgets for notebooks: thin layers of controls on the stages and their figures.

``Dashboard`` is the whole; ``LayerPicker``, ``TrainingMonitor``, ``PromptProbe`` and
``ReplyLabels`` are parts that stand alone. What a widget holds can be read as traits by the next
cell (``dashboard.layer``), and each has ``static()``, a plain figure for places where widgets do
not run.
"""

from actor_lens.widgets.dashboard import Dashboard
from actor_lens.widgets.layer_picker import LayerPicker
from actor_lens.widgets.prompt_probe import PromptProbe
from actor_lens.widgets.reply_labels import ReplyLabels
from actor_lens.widgets.training_monitor import TrainingMonitor

__all__ = ["Dashboard", "LayerPicker", "PromptProbe", "ReplyLabels", "TrainingMonitor"]
