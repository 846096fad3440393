"""The shared machinery knows no method, so that a method of one's own can use it as ours do."""

from pathlib import Path

import pytest

import actor_lens.methods.support

FILES = sorted(Path(actor_lens.methods.support.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_support_imports_no_method(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    imports = [line.split()[1] for line in lines if line.startswith("from actor_lens.methods")]
    assert all(module.startswith("actor_lens.methods.support.") for module in imports)
