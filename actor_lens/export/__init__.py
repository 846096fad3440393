"""Taking a run away: one block, a LoRA adapter or a whole model, with its model card.

Names are loaded on first use: importing the room loads no torch. ``__init__.pyi`` says which.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
