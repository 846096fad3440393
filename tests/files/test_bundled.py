"""Bundled data is found by name, and a broken installation says so."""

import pytest

from actor_lens.errors import UserError
from actor_lens.files.bundled import bundled, data_folder


def test_a_checkout_uses_its_own_data_folder(pytestconfig):
    assert data_folder() == pytestconfig.rootpath / "data"
    assert bundled("prompts") == pytestconfig.rootpath / "data" / "prompts"


def test_missing_data_says_what_to_do():
    with pytest.raises(UserError, match=r"bundled data 'nothing' is missing .* install actor-lens"):
        bundled("nothing")
