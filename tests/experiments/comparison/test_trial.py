"""What a comparison hands to methods: anchors where they are wanted; older outcomes stay theirs."""

import pytest

from actor_lens.experiments.comparison.trial import same_settings, settings_of, with_default
from actor_lens.methods import make_method
from tests.support.tiny_runs import tiny_prompts

ANCHORS = tiny_prompts(2)


@pytest.mark.parametrize("name", ["actor", "actor-raw", "uniform-shift", "surgical", "scans"])
def test_anchors_go_to_methods_that_make_vectors_of_them(name):
    method = make_method(name)
    given = with_default(method, "anchors", ANCHORS)
    assert given.anchors is ANCHORS
    assert with_default(given, "anchors", tiny_prompts(1)) is given
    assert with_default(method, "anchors", None) == method
    (shown,) = {value for key, value in settings_of(given).items() if key == "anchors"}
    assert shown == f"tiny ({ANCHORS.fingerprint[:12]})"


def test_other_methods_are_left_alone():
    assert with_default(make_method("lora"), "anchors", ANCHORS) == make_method("lora")


@pytest.mark.parametrize(
    ("name", "later"), [("actor", ("refresh", "anchors")), ("scans", ("threshold", "anchors"))]
)
def test_an_outcome_of_before_a_setting_was_there_is_of_the_same_method(name, later):
    method = make_method(name)
    kept = {key: value for key, value in settings_of(method).items() if key not in later}
    if "alphas" in kept:
        kept["alphas"] = list(kept["alphas"])  # as JSON gives it back
    assert same_settings(kept, method)
    assert not same_settings(kept, make_method(name, **{later[0]: 7}))
    assert not same_settings({**kept, "other": 1}, method)
