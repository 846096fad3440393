"""The public names of the room, for type checkers and for loading them on first use."""

from .folders import export_delta as export_delta
from .folders import export_model as export_model
from .hub_upload import upload_export as upload_export
from .lora import LoraExport as LoraExport
from .lora import RankError as RankError
from .lora import export_lora as export_lora
from .model_card import CardFacts as CardFacts
