"""The one kind of error that a user can mend, and what others say, for its message."""

from collections.abc import Iterator


class UserError(ValueError):
    """Something given by the user cannot be used: a file, a model, an argument.

    The message is one line that names what was given, what was expected and what to do. The
    command line prints it without a traceback and exits with code 2.
    """


def one_line(error: BaseException, most: int = 300) -> str:
    """The text of an error without line breaks, cut off after so many characters."""
    return " ".join(str(error).split())[:most]


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and what it was raised from or while handling, the nearest first."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
