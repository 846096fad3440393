"""Models come from a hub at a pinned revision, and whatever a hub does wrong is said in one line.

The hub is a server on loopback, asked through the real client in a process of its own, which is
not offline as the tests are. A second process, offline, finds what the first has put into the
cache.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import actor_lens as al
from tests.support.model_hub import COMMIT, REPOSITORY, STALLING, model_hub
from tests.support.tiny_models import tiny_chat_model

PROGRAM = """
import json, sys
import actor_lens as al
found = []
for words in json.loads(sys.argv[1]):
    try:
        model = al.load_model(**words)
    except al.UserError as error:
        found.append({"error": str(error)})
    else:
        found.append({"source": model.source, "fingerprint": model.fingerprint})
print(json.dumps(found))
"""
ASKED = {
    "main": {"name": REPOSITORY},
    "tag": {"name": REPOSITORY, "revision": "v1"},
    "commit": {"name": REPOSITORY, "revision": COMMIT},
    "no such revision": {"name": REPOSITORY, "revision": "v9"},
    "gated": {"name": "maker/gated"},
    "unknown": {"name": "maker/none"},
    "slip": {"name": "smolm2"},
    "broken": {"name": "maker/broken"},
    "stalling": {"name": STALLING},
}
TOKEN = "hf_secretsecret"


def ask(asked, **environment):
    """What a process of its own finds when it loads models."""
    settings = {"HF_HUB_DOWNLOAD_TIMEOUT": "1", "HF_HUB_ETAG_TIMEOUT": "1", **environment}
    settings |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(list(asked.values()))],
        env={**kept, **settings},
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(zip(asked, json.loads(done.stdout.splitlines()[-1]), strict=True))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def original():
    return tiny_chat_model()


@pytest.fixture(scope="module")
def found(cache, original, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "tiny"
    original.hf.save_pretrained(folder)
    original.tokenizer.save_pretrained(folder)
    with model_hub(folder) as address:
        return ask(ASKED, HF_ENDPOINT=address, HF_HOME=str(cache), HF_TOKEN=TOKEN)


@pytest.mark.parametrize("asked", ["main", "tag", "commit"])
def test_a_model_is_pinned_to_the_commit_that_was_read(asked, found, original):
    assert found[asked]["source"]["revision"] == COMMIT
    assert found[asked]["fingerprint"] == original.fingerprint


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("no such revision", [f"model '{REPOSITORY}' has no revision 'v9'", "branch, tag or com"]),
        ("gated", ["is gated", "https://huggingface.co/maker/gated", "HF_TOKEN"]),
        (
            "unknown",
            ["'maker/none' was not found", "models by name: toy, smollm2, smollm2-cautious"],
        ),
        ("slip", ["'smolm2' ", ", did you mean smollm2? "]),
        ("broken", ["'maker/broken'", "try again"]),
        (
            "stalling",
            ["is no folder here", "did not answer", "try again", "HF_HUB_DOWNLOAD_TIMEOUT"],
        ),
    ],
)
def test_what_a_hub_refuses_is_said_in_one_line(asked, said, found):
    message = found[asked]["error"]
    assert all(part in message for part in said), message
    assert "\n" not in message
    assert len(message) < 500
    assert TOKEN not in message


def test_offline_a_model_is_found_in_the_cache_or_its_absence_told(found, cache, original):
    asked = {
        "cached": {"name": REPOSITORY},
        "pinned": {"name": REPOSITORY, "revision": COMMIT},
        "absent": {"name": "maker/other"},
        "slip": {"name": "smolm2"},
        "other revision": {"name": REPOSITORY, "revision": "v9"},
    }
    offline = ask(asked, HF_HUB_OFFLINE="1", HF_HOME=str(cache))
    for name in ("cached", "pinned"):
        assert offline[name].get("source", offline[name])["revision"] == COMMIT
        assert offline[name]["fingerprint"] == original.fingerprint == found["main"]["fingerprint"]
    for name in ("absent", "other revision"):
        message = offline[name]["error"]
        assert "unset HF_HUB_OFFLINE, or give a folder" in message
        assert "\n" not in message
    assert "is set, did you mean smollm2? unset HF_HUB_OFFLINE" in offline["slip"]["error"]
    assert "at revision 'v9'" in offline["other revision"]["error"]


def test_a_revision_of_a_folder_is_refused(tmp_path, original):
    original.hf.save_pretrained(tmp_path)
    original.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(al.UserError, match="no model of the hub; leave the revision out"):
        al.load_model(tmp_path, revision="main")
    with pytest.raises(al.UserError, match="no model of the hub"):
        al.load_model("toy", revision="main")
    assert al.load_model(tmp_path).source["revision"] is None
