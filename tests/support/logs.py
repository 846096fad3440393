"""What transformers logs, read at its logger: its own handler escapes pytest's capture."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def transformers_log() -> Iterator[list[str]]:
    """The messages that reach the logger of transformers at its verbosity of the moment."""
    messages: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    listener = Listener()
    logging.getLogger("transformers").addHandler(listener)
    try:
        yield messages
    finally:
        logging.getLogger("transformers").removeHandler(listener)
