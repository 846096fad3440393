"""An exported folder on the Hugging Face hub: private unless it is asked to be public."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from actor_lens.errors import UserError
from actor_lens.export.model_card import is_hub_name
from actor_lens.files.paths import user_path
from actor_lens.text import one_line

TOKEN_VARIABLE = "HF_TOKEN"


@runtime_checkable
class HubApi(Protocol):
    """The part of ``huggingface_hub.HfApi`` that is used."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any:
        """Make a repository, or leave one that is there as it is."""

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> Any:
        """Upload all files of a folder in one commit."""


def hub_api() -> HubApi:
    """A client with the token in ``HF_TOKEN``, and no other one.

    Raises:
        UserError: If the variable is not set.
    """
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    if not token:
        raise UserError(
            f"uploading needs a token with write access in the variable {TOKEN_VARIABLE}; make one "
            "at https://huggingface.co/settings/tokens"
        )
    from huggingface_hub import HfApi

    api: HubApi = HfApi(token=token)
    return api


def check_upload(name: str, base_model: str) -> None:
    """Check what can be checked before anything is exported.

    Args:
        name: Name of the repository.
        base_model: Name by which the model card will call the base model.

    Raises:
        UserError: If the name is not one of the hub's, or others could not find the base model.
    """
    if not is_hub_name(name):
        raise UserError(
            f"'{name}' is no name on the hub (or a folder of this machine); give owner/name"
        )
    if not is_hub_name(base_model):
        raise UserError(
            f"others cannot load the base model '{base_model}', a folder of this machine; name it "
            "as it is called on the hub: --base-model owner/name"
        )


def upload_export(
    folder: str | Path, name: str, *, private: bool = True, api: HubApi | None = None
) -> str:
    """Upload an exported folder as it is.

    Args:
        folder: Folder that one of the exports wrote.
        name: ``owner/name``; a repository that is there gets a new commit and stays as private as
            it is.
        private: Whether a new repository is hidden from others.
        api: Client of the hub; None for one with the token in ``HF_TOKEN``.

    Returns:
        The address of the repository.

    Raises:
        UserError: If there is no token, the name is not one of the hub's, or the hub refuses.
    """
    from httpx import HTTPError
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api, folder = api or hub_api(), user_path(folder)
    try:
        api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=name, folder_path=str(folder), commit_message="Export of Actor Lens"
        )
    # In this order: the first is one of the others.
    except HfHubHTTPError as error:
        raise UserError(f"{_refusal(name, error)}; the export is in {folder}") from error
    except (HFValidationError, HTTPError, OSError, ValueError) as error:
        reason = one_line(error, 200)
        raise UserError(
            f"uploading to '{name}' failed ({type(error).__name__}: {reason}); the export is in "
            f"{folder}: try again"
        ) from error
    return f"https://huggingface.co/{name}"


def _refusal(name: str, error: Any) -> str:
    """What the hub answered, without the address, in which there may be secrets."""
    status = getattr(error.response, "status_code", None)
    if status in (401, 403):
        return (
            f"the hub refuses to write to '{name}' (HTTP {status}); check the owner and that the "
            f"token in {TOKEN_VARIABLE} may write there"
        )
    return f"the hub answers HTTP {status} to writing to '{name}'; try again later"
