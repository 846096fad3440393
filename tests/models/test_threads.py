"""Laws: small work takes one thread, large work torch's number, and a user's number stays."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from actor_lens.models import threads
from actor_lens.models.batches import run_in_batches
from actor_lens.models.threads import Threads, suitable_threads
from actor_lens.training.finetuning import finetune_layer
from tests.support.tiny_models import shared_tiny_model, tiny_chat_model
from tests.support.tiny_runs import tiny_prompts

FEW, MANY = 8, 10**7


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a machine with two cores where the user has named no number."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(threads, "_own", 2)
    monkeypatch.setattr(threads, "_named", False)
    yield
    torch.set_num_threads(before)


def used(tokens: int) -> int:
    with suitable_threads(shared_tiny_model(), tokens):
        return torch.get_num_threads()


def test_few_tokens_take_one_thread_and_many_all():
    assert (used(FEW), used(MANY)) == (1, 2)
    assert torch.get_num_threads() == 2


def test_the_number_comes_back_after_an_error():
    with pytest.raises(KeyboardInterrupt), suitable_threads(shared_tiny_model(), FEW):
        raise KeyboardInterrupt
    assert torch.get_num_threads() == 2


def test_a_number_that_the_user_has_set_stays():
    torch.set_num_threads(3)
    assert (used(FEW), used(MANY)) == (3, 3)


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_a_number_from_the_environment_stays(name: str):
    words = "from actor_lens.models.threads import Threads; print(Threads.now())"
    environment = {**os.environ, name: "2"}
    ran = subprocess.run(
        [sys.executable, "-c", words], env=environment, capture_output=True, text=True, check=True
    )
    assert "fixed=True" in ran.stdout


def test_another_process_works_as_this_one_does():
    torch.set_num_threads(4)
    policy = Threads.now()
    assert policy == Threads(4, fixed=True)
    Threads(2, fixed=False).adopt()
    assert (used(FEW), used(MANY)) == (1, 2)
    policy.adopt()
    assert (used(FEW), used(MANY)) == (4, 4)


def test_batches_and_training_steps_of_a_small_model_take_one(monkeypatch: pytest.MonkeyPatch):
    model = tiny_chat_model()
    seen: list[int] = []
    ids = model.tokenize(["Hello there", "Hi"])
    run_in_batches(model, ids, lambda _batch: seen.append(torch.get_num_threads()))
    with monkeypatch.context() as changed:
        changed.setattr(threads, "_WORTH", 0.0)
        run_in_batches(model, ids, lambda _batch: seen.append(torch.get_num_threads()))
    assert seen == [1, 2]
    steps: list[int] = []
    model.blocks[2].mlp.register_forward_hook(lambda *_: steps.append(torch.get_num_threads()))
    finetune_layer(model, tiny_prompts(4), layer=2, epochs=1, store=False)
    assert 1 in steps


def test_a_number_that_was_set_before_the_package_was_loaded_stays():
    other = 1 + max(os.cpu_count() or 1, 2)
    words = (
        f"import torch; torch.set_num_threads({other}); "
        "from actor_lens.models.threads import Threads; print(Threads.now())"
    )
    environment = {name: value for name, value in os.environ.items() if "NUM_THREADS" not in name}
    ran = subprocess.run(
        [sys.executable, "-c", words], env=environment, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == f"Threads(number={other}, fixed=True)"


@pytest.mark.skipif(not threads._libgomp(), reason="torch takes another OpenMP library")
def test_helpers_end_when_they_are_given_back_and_are_had_again():
    words = (
        "import psutil, torch; from actor_lens.models.threads import give_back_threads\n"
        "def count(): return psutil.Process().num_threads()\n"
        "torch.set_num_threads(3); alone = count(); numbers = torch.ones(600, 600)\n"
        "for _ in range(2):\n"
        "    assert (numbers @ numbers == 600).all(); together = count()\n"
        "    give_back_threads(); print(together - alone, count() - alone)"
    )
    ran = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["2", "0", "2", "0"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no forks")
def test_a_fork_does_not_wait_for_helpers_of_its_parent():
    words = (
        "import os, torch; from actor_lens.models.threads import give_back_threads\n"
        "import signal; torch.set_num_threads(2); numbers = torch.ones(600, 600)\n"
        "numbers @ numbers\n"
        "if os.fork() == 0:\n"
        "    signal.alarm(30); give_back_threads()\n"
        "    os._exit(int((numbers @ numbers != 600).any()))\n"
        "assert os.wait()[1] == 0"
    )
    subprocess.run([sys.executable, "-c", words], check=True)
