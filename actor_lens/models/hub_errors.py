"""Errors of broken checkpoints and of the model hub, in one line."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from actor_lens.errors import UserError, causes, did_you_mean
from actor_lens.text import one_line

_OFFLINE_VARIABLE, _TIMEOUT_VARIABLE = "HF_HUB_OFFLINE", "HF_HUB_DOWNLOAD_TIMEOUT"


@contextmanager
def one_line_errors(name: str, revision: str | None, known: Sequence[str]) -> Iterator[None]:
    """Turn whatever the libraries raise or log while a model loads into one line.

    Libraries answer broken files with many kinds of error, some of them bare ``Exception``.

    Args:
        name: Folder or hub name of the model.
        revision: Revision of the hub model.
        known: Names of models of this package, for the message about an unknown name.
    """
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(loading_message(name, revision, known, error)) from error
    finally:
        logging.set_verbosity(verbosity)


def loading_message(name: str, revision: str | None, known: Sequence[str], error: Exception) -> str:
    """What went wrong, and what to do."""
    if "trust_remote_code" in str(error):
        return (
            f"model '{name}' needs Python code that comes with it, which is not run; if you trust "
            "its authors: load_model(..., trust_remote_code=True)"
        )
    reason = f"{type(error).__name__}: {one_line(error)}"
    if os.path.exists(os.path.expanduser(name)) or name in known:
        kind = "file" if os.path.isfile(os.path.expanduser(name)) else "folder"
        return f"model {kind} '{name}' cannot be loaded; repair or replace its files ({reason})"
    meant = did_you_mean(name, known) or ";"
    return _hub_message(name, revision, known, error) or (
        f"model '{name}' was not found: it is neither a folder nor a readable hub model "
        f"({reason}){meant} {_known(known)}"
    )


def _hub_message(
    name: str, revision: str | None, known: Sequence[str], error: Exception
) -> str | None:
    """What the hub's own errors mean; None for any other error."""
    from huggingface_hub import constants, errors

    chain = list(causes(error))

    def is_any(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in chain)

    meant = did_you_mean(name, known) or ";"
    if is_any(errors.HFValidationError):  # a path, or else nothing that the hub could have
        return (
            f"model '{name}' was not found: there is no such folder or file, and a hub name is "
            f"OWNER/NAME{meant} {_known(known)}"
        )
    page = f"https://huggingface.co/{name}"
    if is_any(errors.GatedRepoError):
        return (
            f"model '{name}' is gated: ask for access on its page {page} and set the environment "
            "variable HF_TOKEN to a token of the account that was let in"
        )
    if is_any(errors.RevisionNotFoundError):
        return (
            f"model '{name}' has no revision '{revision}'; give a branch, tag or commit that its "
            f"page lists: {page}/commits"
        )
    if constants.HF_HUB_OFFLINE and is_any(
        errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError
    ):
        at = "" if revision is None else f" at revision '{revision}'"
        return (
            f"model '{name}' was not found: it is neither a folder nor a readable hub model: it is "
            f"not complete in the hub's cache{at}, and {_OFFLINE_VARIABLE} is set{meant} unset "
            f"{_OFFLINE_VARIABLE}, or give a folder; {_known(known)}"
        )
    if is_any(TimeoutError, errors.LocalEntryNotFoundError) or any(map(_is_no_answer, chain)):
        last = f"{type(chain[-1]).__name__}: {one_line(chain[-1], 120)}"
        return (
            f"'{name}' is no folder here, and the model hub did not answer for it ({last}){meant} "
            f"try again, give it more seconds with {_TIMEOUT_VARIABLE}, or give a folder"
        )
    return None


def _known(known: Sequence[str]) -> str:
    return f"models by name: {', '.join(known)}"


def _is_no_answer(cause: BaseException) -> bool:
    """Whether the network failed, or the hub is overloaded or broken."""
    status = getattr(getattr(cause, "response", None), "status_code", 0)
    # By name: the hub's client has changed the library it asks through more than once.
    network = any(kind.__name__ == "TransportError" for kind in type(cause).__mro__)
    return network or isinstance(cause, ConnectionError) or status == 429 or status >= 500
