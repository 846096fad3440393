"""The one kind of error that a user can mend."""


class UserError(ValueError):
    """Something given by the user cannot be used: a file, a model, an argument.

    The message is one line that names what was given, what was expected and what to do. The
    command line prints it without a traceback and exits with code 2.
    """
