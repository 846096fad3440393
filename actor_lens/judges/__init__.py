"""What is a refusal: phrase lists, first tokens, language models and classifiers.

Names are loaded on first use: a list of phrases needs no torch. ``__init__.pyi`` says which.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
