"""Directed representation optimisation (DRO): a safety prompt whose embeddings are trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from actor_lens.errors import UserError
from actor_lens.judges.first_token import RefusalTokens, refusal_scores
from actor_lens.methods.self_cd import SAFETY_PROMPT
from actor_lens.methods.support.dro_objective import Objective
from actor_lens.methods.support.fitted import FittedIntervention
from actor_lens.methods.support.reply_training import Trial, best_trial, check_trainable, train_step
from actor_lens.methods.support.selection import Effect, Selection
from actor_lens.methods.support.system_turn import with_system_text
from actor_lens.methods.support.tails import run_without_head
from actor_lens.models.batches import TokenBatch, pad_batch, run_in_batches
from actor_lens.models.chat_model import ChatModel
from actor_lens.prompts.sets import PromptSet


@dataclass(frozen=True)
class DRO:
    """A soft prompt, at first the embeddings of a safety prompt, trained against two fixed probes.

    ``x`` ``[prompt, d_model]`` is the last layer's output (after the final norm) at the last prompt
    token, ``x_0`` with the safety prompt's own embeddings, ``x_soft`` with the soft prompt
    ``[token, d_model]`` in their place. ``g(x) = V (x - mean)`` are the top ``components``
    principal coordinates; ``f_r(g)`` and ``f_h(g)`` linear probes of refusal and of harmfulness,
    fitted by logistic regression and then frozen; ``y`` is 1 for harmful prompts, 0 for others.
    The loss is

    ``BCE(f_r(x_soft) - f_r(x_0), y) + 1e-2 BCE(f_h(x_soft), y) + 1e-3 residual``

    where ``residual`` is the mean square of the part of ``x_soft - x_0`` outside the principal
    coordinates. Probes and coordinates come from the training prompts, with and without the safety
    prompt; a prompt counts as refused if its first-token refusal score is above 0.

    Chosen on validation prompts: learning rate and number of epochs. Fixed: all else.

    Attributes:
        safety_prompt: Text whose embeddings the soft prompt starts from; one a token.
        components: Number of principal coordinates.
        harmfulness_weight: Weight of the second term.
        residual_weight: Weight of the third term.
        lrs: Learning rates to try.
        epochs: Most passes over the training prompts.
        batch_size: Prompts in a step.
        seed: Seed of the order of the prompts.

    Source: Zheng et al. 2024 (arXiv 2401.18018); the weights of the terms too.
        Components, learning rates and epochs are ours.
    """

    name: str = "dro"
    safety_prompt: str = SAFETY_PROMPT
    components: int = 4
    harmfulness_weight: float = 1e-2
    residual_weight: float = 1e-3
    lrs: tuple[float, ...] = (3e-3, 1e-2)
    epochs: int = 3
    batch_size: int = 16
    seed: int = 0

    def fit(self, model: ChatModel, train: PromptSet, validation: PromptSet) -> FittedIntervention:
        """Fit the probes and train the soft prompt; the model stays as it is.

        Raises:
            UserError: If training prompts are all refused or none, harmful or harmless ones are
                missing, or the safety prompt has no tokens of its own in the templated prompts.
        """
        check_trainable(model, self.lrs, self.epochs, self.batch_size)
        selection = Selection.of(model, validation)
        place = SoftPlace.of(model, self.safety_prompt)
        speaker = with_system_text(model, self.safety_prompt)
        place.check(speaker, train.texts)
        change = partial(under_soft_prompt, safety_prompt=self.safety_prompt, place=place)
        objective = self._objective(model, speaker, train, selection.tokens)
        trials = self._trials(speaker, train, place, objective)

        def effect_of(state: Mapping[str, Tensor]) -> Effect:
            return selection.effect_of(model, change(model, soft=state["soft"]))

        choice = best_trial(trials, selection, effect_of)
        best = choice.candidate
        own = {key: value for key, value in asdict(self).items() if key not in ("name", "lrs")}
        tried = {"tried_lrs": " ".join(f"{lr:g}" for lr in self.lrs), "most_epochs": self.epochs}
        return FittedIntervention(
            settings={**own, **tried, "lr": best.lr, "epochs": best.epochs, **choice.settings},
            chosen=("lr", "epochs"),
            enter=partial(change, soft=best.state["soft"]),
            fingerprint=model.fingerprint,
            trained_parameters=best.n_parameters,
        )

    def _objective(
        self, model: ChatModel, speaker: ChatModel, train: PromptSet, tokens: RefusalTokens
    ) -> Objective:
        plain, warned = last_states(model, train.texts), last_states(speaker, train.texts)
        refused = torch.cat(
            [refusal_scores(asked, train.texts, tokens) > 0 for asked in (model, speaker)]
        )
        harmful = torch.tensor([label == "harmful" for label in train.labels], device="cpu")
        return Objective.fitted(
            torch.cat([plain, warned]),
            refused,
            torch.cat([harmful, harmful]),
            components=self.components,
            weights=(self.harmfulness_weight, self.residual_weight),
        )

    def _trials(
        self, speaker: ChatModel, train: PromptSet, place: SoftPlace, objective: Objective
    ) -> Iterator[Trial]:
        token_ids = speaker.tokenize(train.texts)
        before = last_states(speaker, train.texts)
        harmful = torch.tensor([label == "harmful" for label in train.labels], device="cpu")
        for lr in self.lrs:
            soft = nn.Parameter(place.embeddings(speaker))
            optimizer = torch.optim.AdamW([soft], lr=lr, weight_decay=0.0)
            order = torch.Generator().manual_seed(self.seed)
            for epoch in range(1, self.epochs + 1):
                rows = torch.randperm(len(train), generator=order, device="cpu")
                for chosen in torch.split(rows, self.batch_size):
                    batch = pad_batch(
                        [token_ids[row] for row in chosen.tolist()],
                        pad_token_id=speaker.pad_token_id,
                        device=speaker.device,
                    )
                    loss = partial(
                        soft_loss,
                        speaker,
                        place,
                        soft,
                        batch,
                        before[chosen],
                        harmful[chosen],
                        objective,
                    )
                    train_step(optimizer, [soft], loss)
                state = {"soft": soft.detach().to("cpu", copy=True)}
                yield Trial(lr, epoch, soft.numel(), state)


@dataclass(frozen=True)
class SoftPlace:
    """The tokens whose embeddings a soft prompt replaces.

    Attributes:
        ids: Tokens of the safety prompt as they stand in every templated prompt.
    """

    ids: tuple[int, ...]

    @classmethod
    def of(cls, model: ChatModel, safety_prompt: str) -> SoftPlace:
        """Find the tokens of a system prompt that do not depend on the user's text.

        Raises:
            UserError: If there are none, or the tokenizer cannot say where its tokens stand.
        """
        if not model.tokenizer.is_fast:
            raise UserError(
                f"the tokenizer of '{model.name}' cannot say where its tokens stand in a text; "
                "dro needs a fast tokenizer (tokenizer.json)"
            )
        speaker = with_system_text(model, safety_prompt)
        rendered = speaker.render("a")
        start = rendered.find(safety_prompt.strip())
        end = start + len(safety_prompt.strip())
        encoded = model.tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True)
        spans = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        # Tokens that reach over an end of the text would take something of the template along.
        ids = tuple(int(token) for token, (a, b) in spans if start <= a < b <= end)
        if start < 0 or not ids:
            raise UserError(
                f"the safety prompt has no tokens of its own in the prompts of '{model.name}'; "
                "give another safety_prompt"
            )
        return cls(ids)

    def check(self, speaker: ChatModel, prompts: Sequence[str]) -> None:
        """Check that every templated prompt holds the tokens.

        Raises:
            UserError: If one does not: the template or the tokenizer changes the system prompt.
        """
        for ids in speaker.tokenize(prompts):
            if not bool(self.mask(torch.tensor([ids], device="cpu")).any()):
                raise UserError(
                    f"the safety prompt does not keep its tokens in every prompt of "
                    f"'{speaker.name}'; give another safety_prompt"
                )

    def embeddings(self, model: ChatModel) -> Float[Tensor, "token d_model"]:
        """Output of the embedding module for the tokens, float32."""
        with torch.no_grad():
            ids = torch.tensor([self.ids], device=model.device)
            vectors: Tensor = model.hf.get_input_embeddings()(ids)[0]
        return vectors.float().clone()

    def mask(self, input_ids: Int[Tensor, "prompt token"]) -> Bool[Tensor, "prompt token"]:
        """True on the first run of exactly these tokens in each row; rows without have none."""
        mask = torch.zeros_like(input_ids, dtype=torch.bool)
        length = len(self.ids)
        if input_ids.shape[1] < length:  # a generated token
            return mask
        ids = torch.tensor(self.ids, device=input_ids.device)
        starts = (input_ids.unfold(1, length, 1) == ids).all(-1)
        for row, start in enumerate(starts.int().argmax(dim=1).tolist()):
            if starts[row, start]:
                mask[row, start : start + length] = True
        return mask


def soft_loss(
    speaker: ChatModel,
    place: SoftPlace,
    soft: Float[Tensor, "token d_model"],
    batch: TokenBatch,
    before: Float[Tensor, "prompt d_model"],
    harmful: Bool[Tensor, " prompt"],
    objective: Objective,
) -> Float[Tensor, ""]:
    """The loss of a batch with a soft prompt, with gradients for the soft prompt."""
    with soft_prompt(speaker, place, soft):
        states = _last_state(speaker, batch)
    return objective.loss(states.cpu(), before, harmful)


def last_states(model: ChatModel, prompts: Sequence[str]) -> Float[Tensor, "prompt d_model"]:
    """Output of the last layer after the final norm, at the last prompt token; float32."""
    states = torch.empty(len(prompts), model.d_model, dtype=torch.float32, device="cpu")

    def run(batch: TokenBatch) -> None:
        with torch.no_grad():
            states[list(batch.indices)] = _last_state(model, batch).cpu()

    run_in_batches(model, model.tokenize(prompts), run)
    return states


@contextmanager
def under_soft_prompt(
    model: ChatModel,
    *,
    safety_prompt: str,
    place: SoftPlace,
    soft: Float[Tensor, "token d_model"],
) -> Iterator[ChatModel]:
    """Yield the model under a safety prompt whose embeddings are those of a soft prompt."""
    with soft_prompt(model, place, soft):
        yield with_system_text(model, safety_prompt)


@contextmanager
def soft_prompt(
    model: ChatModel, place: SoftPlace, soft: Float[Tensor, "token d_model"]
) -> Iterator[None]:
    """Replace some tokens' embeddings by a soft prompt in every forward pass inside.

    Rows without these tokens, and generated tokens, are left alone.
    """
    embedding = model.hf.get_input_embeddings()

    def hook(called: nn.Module, inputs: Any, output: Any) -> Any:
        if called is not embedding:  # a copy made meanwhile keeps its hooks
            return output
        mask = place.mask(inputs[0])
        if not mask.any():
            return output
        vectors = soft.to(device=output.device, dtype=output.dtype)
        # Every row that has the tokens has all of them, in their order.
        repeated = vectors.repeat(int(mask.any(1).sum()), 1)
        return output.masked_scatter(mask[..., None], repeated)

    handle = embedding.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _last_state(model: ChatModel, batch: TokenBatch) -> Float[Tensor, "prompt d_model"]:
    state: Tensor = run_without_head(model, batch).last_hidden_state[:, -1].float()
    return state
