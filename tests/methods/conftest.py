"""What the tests of methods share: replies for tiny models, and steps of training."""

import pytest

from actor_lens.methods.support.reply_data import encoded
from tests.support.tiny_runs import tiny_prompts

REPLIES = {"harmful": "I'm sorry, no.", "pseudo_harmful": "Sure. Do it.", "benign": "Yes, as so:"}


@pytest.fixture
def examples_of():
    """Examples of differing lengths for a model, so that batches have padding."""

    def make(model, per_label=2):
        return [
            encoded(model, prompt, REPLIES[prompt.label] + "abc"[: number % 4])
            for number, prompt in enumerate(tiny_prompts(per_label))
        ]

    return make
