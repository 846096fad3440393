"""The one kind of error that a user can fix, and where an error comes from."""

from collections.abc import Iterator


class UserError(ValueError):
    """Something given by the user cannot be used: a file, a model, an argument.

    The message is one line that names what was given, what was expected and what to do. The
    command line prints it without a traceback and exits with code 2.
    """


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error, then what it was raised from or while handling, the nearest first."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
