"""Loading a model takes one copy of its weights, the TransformerLens twin none."""

from __future__ import annotations

import sys

import pytest

from tests.benchmarks.loading import measure

# Beside the weights: the tokenizer, allocator blocks and the twin's modules, of a small model.
_SLACK = 0.1


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_loading_takes_one_copy_of_the_weights_and_a_block():
    # Stored in another type than asked for, so that nothing can stay mapped from the file.
    found = measure("20M", stored="bfloat16", dtype="float32")
    one = found["copies"]["load_model"]
    assert 1 - _SLACK < one["end"] < 1 + _SLACK
    assert one["peak"] < 1 + found["block"] + _SLACK
    assert found["copies"]["bridge"]["peak"] < _SLACK
