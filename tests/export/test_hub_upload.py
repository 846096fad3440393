"""An upload is what was asked for: private unless said otherwise, with the token of one variable.

A stand-in for the hub's client records what it is told; no test reaches the network.
"""

import inspect
from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from actor_lens.errors import UserError
from actor_lens.export.hub_upload import HubApi, check_upload, hub_api, upload_export


class StandIn:
    """Records calls; raises what it was given."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.error = error

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        self.calls.append(("create", {"name": repo_id, "private": private, "exist_ok": exist_ok}))

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
        self.calls.append(("upload", {"name": repo_id, "folder": folder_path}))
        assert commit_message
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize("public", [False, True])
def test_a_repository_is_made_and_filled(tmp_path: Path, public: bool):
    api = StandIn()
    settings = {"private": False} if public else {}
    assert upload_export(tmp_path, "me/it", api=api, **settings) == "https://huggingface.co/me/it"
    assert api.calls == [
        ("create", {"name": "me/it", "private": not public, "exist_ok": True}),
        ("upload", {"name": "me/it", "folder": str(tmp_path)}),
    ]


def test_the_real_client_takes_what_the_stand_in_takes():
    assert isinstance(StandIn(), HubApi)
    for name in ("create_repo", "upload_folder"):
        ours = inspect.signature(getattr(StandIn, name)).parameters
        assert ours.keys() <= inspect.signature(getattr(HfApi, name)).parameters.keys()


def test_the_token_comes_from_its_variable_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", " hf_secret ")
    assert getattr(hub_api(), "token", None) == "hf_secret"
    monkeypatch.setenv("HF_TOKEN", "")
    with pytest.raises(UserError, match="in the variable HF_TOKEN"):
        hub_api()
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match=r"huggingface\.co/settings/tokens"):
        upload_export("folder", "me/it")


def refusal(status: int) -> HfHubHTTPError:
    request = httpx.Request("POST", "https://huggingface.co/api?token=hf_secret")
    response = httpx.Response(status, request=request, text="<html>hf_secret</html>")
    return HfHubHTTPError("hf_secret\nrefused", response=response)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (refusal(403), r"refuses to write to 'me/it' \(HTTP 403\).*HF_TOKEN may write"),
        (refusal(401), "HTTP 401"),
        (refusal(500), "answers HTTP 500"),
        (httpx.ConnectTimeout("timed\nout"), r"ConnectTimeout: timed out.*try again"),
        (OSError("no route"), "no route"),
    ],
)
def test_a_refusal_is_one_line_and_the_export_stays(tmp_path: Path, error: Exception, message: str):
    with pytest.raises(UserError, match=message) as told:
        upload_export(tmp_path, "me/it", api=StandIn(error))
    assert "\n" not in str(told.value)
    assert "hf_secret" not in str(told.value)
    assert f"the export is in {tmp_path}" in str(told.value)


def test_names_that_others_could_not_use_are_told():
    check_upload("me/it", "org/base")
    with pytest.raises(UserError, match="'it' is no name on the hub"):
        check_upload("it", "org/base")
    with pytest.raises(UserError, match="--base-model owner/name"):
        check_upload("me/it", "/home/me/base")
