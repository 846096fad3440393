"""What holds for every test: no model hub, and no time limit on slow machines."""

import os
from pathlib import Path

# Before anything imports transformers or datasets, which read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
# Tiny models gain nothing from threads, and threads that wait for a busy core make tests crawl.
# Also for the processes that tests start: notebooks and the command line.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests of the activation store make their own: no test may find what another one left.
os.environ["ACTOR_LENS_STORE"] = "off"

from types import SimpleNamespace

import pytest
from hypothesis import settings

# The checker that pyproject.toml names; it is looked up in a package that is loaded already.
import tests.support.type_checks  # noqa: F401

# The same examples in every run; a first example may wait for torch, so no deadline.
settings.register_profile("actor_lens", deadline=None, derandomize=True)
settings.load_profile("actor_lens")


TESTS = Path(__file__).parent
ACCEPTANCE = (
    "benchmarks",
    "cli",
    "diagnostics",
    "directions/test_predicted_refusals.py",
    "evaluation/test_corrected_rates.py",
    "evaluation/test_harness.py",
    "experiments",
    "judges/test_language_model.py",
    "methods",
    "models/test_device_map.py",
    "models/test_hub.py",
    "models/test_loading_memory.py",
    "models/test_quantization.py",
    "models/test_real_architectures.py",
    "models/test_replies.py",
    "prompts/public/test_hub.py",
    "prompts/test_near_duplicates.py",
    "prompts/test_splits.py",
    "report",
    "statistics/test_separation.py",
    "test_packaging.py",
    "test_real_model.py",
    "toy",
    "training/test_finetuning.py",
    "training/test_safety_floor.py",
    "widgets",
)
"""Folders and files whose tests take long or start processes; ``make quick`` leaves them out."""


def pytest_collection_modifyitems(items):
    """Mark the tests that are no part of the quick tier."""
    for item in items:
        place = item.path.relative_to(TESTS).as_posix()
        if place.startswith(ACCEPTANCE):
            item.add_marker("acceptance")


@pytest.fixture(scope="module")
def quick_collections():
    """Leave out the collection of garbage before each fit of a module's comparisons.

    It takes a good part of a second over all that the libraries keep, and changes nothing but the
    memory that is reported; ``test_method_costs`` measures with it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "actor_lens.experiments.comparison.method_costs.gc", SimpleNamespace(collect=lambda: 0)
        )
        yield
