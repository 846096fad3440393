"""Law: every public name of the room is loaded when it is first used, and none before."""

import subprocess
import sys

import pytest

import actor_lens as al

NAMES = al.judges.__all__


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_there(name):
    assert getattr(al.judges, name) is not None
    assert name in dir(al.judges)


def test_it_is_the_same_object_as_in_its_module():
    from actor_lens.judges.keywords import KeywordJudge

    assert al.judges.KeywordJudge is KeywordJudge is al.KeywordJudge


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing"):
        _ = al.judges.nothing


def test_importing_the_room_loads_no_torch():
    code = (
        "import sys, actor_lens.judges as judges\n"
        "assert not {'torch', 'pandas', 'openai'} & sys.modules.keys()\n"
        "assert judges.KeywordJudge().refused('I cannot help with that.')\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
