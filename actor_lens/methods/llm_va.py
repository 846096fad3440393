"""LLM-VA: weights edited so that "I answer" says what "this is harmless" says."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from actor_lens.errors import UserError, check_whole
from actor_lens.judges.opening_scores import log_odds
from actor_lens.methods.support.fitted import FittedIntervention
from actor_lens.methods.support.reply_training import check_trainable
from actor_lens.methods.support.selection import Effect, Selection
from actor_lens.methods.support.tails import run_without_head
from actor_lens.models.batches import TokenBatch, run_in_batches
from actor_lens.models.blocks import stream_of
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.replies import first_token_logits
from actor_lens.models.weights import overwritten
from actor_lens.prompts.sets import PromptSet, require_labels

_PROJECTIONS = ("o_proj", "down_proj", "c_proj", "out_proj", "dense", "dense_4h_to_h", "fc2")
State = dict[str, Tensor]


@dataclass(frozen=True)
class LLMVA:
    """``W <- W - v_a (v_a' W) + (s_a / s_b) v_a (v_b' W)`` in the maps that write to the stream.

    ``o``, ``[d_model]``, is what a block's attention or MLP projects out at the last prompt token.
    ``v_b`` is the normal of a linear SVM without intercept that tells harmless from harmful prompts
    by ``o``, ``v_a`` that of one that tells answered from refused ones, both of length 1; ``s_b``
    and ``s_a`` are the standard deviations of ``o`` along them. Afterwards ``v_a . o = (s_a / s_b)
    v_b . o`` for every input, by the smallest change of ``W``, a bias included. Of the ``2 L``
    maps those are edited whose accuracies on validation prompts, times the cosines with the same
    SVMs of the last residual, add up highest; then the edited model is measured and edited again.

    Chosen on validation prompts: the share of maps and the number of rounds (none among them), by
    the F1 of "answered, because harmless". Whether a prompt is answered is told by the first token.

    Attributes:
        shares: Shares of the maps to try.
        rounds: Most rounds.

    Source: arXiv 2601.19487; there 30 to 60 maps, up to 30 rounds and whole replies.
    """

    name: str = "llm-va"
    shares: tuple[float, ...] = (0.5, 1.0)
    rounds: int = 6

    def fit(self, model: ChatModel, train: PromptSet, validation: PromptSet) -> FittedIntervention:
        """Edit by the training prompts; validation prompts choose.

        Raises:
            UserError: If a label is missing, a setting is not allowed, the model refuses no harmful
                prompt, its weights are quantised, or its blocks hold no maps of a known name.
        """
        require_labels(train, 1)
        check_trainable(model, (1.0,), check_whole("rounds", self.rounds, low=1), 1)
        if not all(0 < share <= 1 for share in self.shares):
            raise UserError(f"shares is {self.shares}; give numbers above 0 up to 1")
        selection = Selection.of(model, validation)
        maps = writing_maps(model)
        nothing: tuple[float, int, State] = (0.0, 0, {})
        tried = [(nothing, selection.untouched)]
        for share in self.shares:
            state: State = {}
            for number in range(1, self.rounds + 1):
                with overwritten(model.hf, state):
                    edits = _edits(model, maps, train, selection, round(share * len(maps)))
                if not edits:
                    break
                state = {**state, **edits}
                change = overwritten(model.hf, state)
                tried.append(((share, number, state), selection.effect_of(model, change)))
        counts = selection.prompts.counts()
        choice = selection.best(tried, max_kl=None, rank=lambda effect: answered_f1(effect, counts))
        share, number, state = choice.candidate
        return FittedIntervention(
            settings={
                **{"share": share, "rounds": number, "most_rounds": self.rounds},
                **{"edited_tensors": len(state), **choice.settings},
            },
            chosen=("share", "rounds"),
            enter=lambda asked: overwritten(asked.hf, state),
            fingerprint=model.fingerprint,
        )


def answered_f1(effect: Effect, counts: Mapping[str, int]) -> float:
    """F1 of answering at finding harmless prompts."""
    answered = {label: counts[label] * (1 - share) for label, share in effect.refused.items()}
    hits = answered["benign"] + answered["pseudo_harmful"]
    harmless = counts["benign"] + counts["pseudo_harmful"]
    return 2 * hits / max(1e-9, sum(answered.values()) + harmless)


def aligned(
    weight: Float[Tensor, "d_model any"], benign: Tensor, answer: Tensor, ratio: float
) -> Float[Tensor, "d_model any"]:
    """The edit of ``LLMVA``: along ``answer`` the output is ``ratio`` times that along ``benign``.

    Args:
        weight: Weights ``[d_model, in]``, or a bias as one column.
        benign: ``v_b``, of length 1.
        answer: ``v_a``, of length 1.
        ratio: ``s_a / s_b``.
    """
    change = ratio * (benign @ weight) - answer @ weight
    return weight + torch.outer(answer, change)


def writing_maps(model: ChatModel) -> dict[str, nn.Module]:
    """The linear maps that write to the residual stream, two of each block, by their full names.

    Raises:
        UserError: If a block has not two of a known name.
    """
    maps: dict[str, nn.Module] = {}
    for layer, block in enumerate(model.blocks):
        found = [
            (f"{model.block_prefix(layer)}{name}", module)
            for name, module in block.named_modules()
            if name.rpartition(".")[2] in _PROJECTIONS and hasattr(module, "weight")
        ]
        if len(found) != 2:
            raise UserError(
                f"a block of '{model.name}' has {len(found)} maps that write to the stream by the "
                f"names known ({', '.join(_PROJECTIONS)}), 2 needed; use another method"
            )
        maps |= dict(found)
    return maps


def _edits(
    model: ChatModel,
    maps: Mapping[str, nn.Module],
    train: PromptSet,
    selection: Selection,
    count: int,
) -> State:
    """New weights of the maps to edit in this round; none where a class is empty."""
    (outputs, answered), (held_out, answered_there) = (
        (_outputs(model, maps, prompts.texts), _find_answered(model, prompts, selection))
        for prompts in (train, selection.prompts)
    )
    harmless, harmless_there = (
        [label != "harmful" for label in prompts.labels] for prompts in (train, selection.prompts)
    )
    if len({*answered}) < 2 or len({*harmless}) < 2:
        return {}
    planes = [(separating(rows, harmless), separating(rows, answered)) for rows in outputs]

    def fitness(place: int) -> float:
        return sum(
            _accuracy(held_out[place], plane, truth) * float(plane @ last)
            for plane, last, truth in zip(
                planes[place], planes[-1], (harmless_there, answered_there), strict=True
            )
        )

    best = sorted(range(len(maps)), key=fitness, reverse=True)[:count]
    edits: State = {}
    for name, module, place in (
        (name, module, place) for place, (name, module) in enumerate(maps.items()) if place in best
    ):
        benign, answer = planes[place]
        spread = [float((outputs[place] @ plane).std(correction=0)) for plane in (answer, benign)]
        edits |= dict(_edit(name, module, benign, answer, spread[0] / max(spread[1], 1e-12)))
    return edits


def _edit(
    name: str, module: Any, benign: Tensor, answer: Tensor, ratio: float
) -> Iterator[tuple[str, Tensor]]:
    weight: Tensor = module.weight.detach()
    transposed = not isinstance(module, nn.Linear)  # GPT-2's Conv1D is [in, out]
    wide = (weight.T if transposed else weight).double().cpu()
    wide = aligned(wide, benign, answer, ratio)
    yield f"{name}.weight", (wide.T if transposed else wide).to(weight.dtype)
    if getattr(module, "bias", None) is not None:
        column = module.bias.detach().double().cpu()[:, None]
        yield f"{name}.bias", aligned(column, benign, answer, ratio)[:, 0].to(weight.dtype)


def separating(rows: Float[Tensor, "prompt d_model"], positive: Sequence[bool]) -> Tensor:
    """Unit normal, float64, of a linear SVM without intercept; positive rows lie on its side."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    machine = LinearSVC(fit_intercept=False, random_state=0)
    with warnings.catch_warnings():
        # Raw outputs of one size or another: a plane that is nearly there will do.
        warnings.simplefilter("ignore", ConvergenceWarning)
        machine.fit(rows.double().numpy(), list(positive))
    normal = torch.tensor(machine.coef_[0], dtype=torch.float64, device="cpu")
    return torch.div(normal, normal.norm())


def _accuracy(rows: Tensor, plane: Tensor, truth: Sequence[bool]) -> float:
    right = (rows @ plane > 0) == torch.tensor(list(truth), device="cpu")
    return float(right.double().mean())


def _find_answered(model: ChatModel, prompts: PromptSet, selection: Selection) -> list[bool]:
    scores = log_odds(
        first_token_logits(model, prompts.texts), torch.tensor(selection.tokens.ids, device="cpu")
    )
    return [score <= 0 for score in scores.tolist()]


def _outputs(
    model: ChatModel, maps: Mapping[str, nn.Module], texts: Sequence[str]
) -> list[Float[Tensor, "prompt d_model"]]:
    """What each map, and after them the last block, gives at the last prompt token; float64."""
    modules = [*maps.values(), model.blocks[-1]]
    shape = (len(texts), model.d_model)
    found = [torch.empty(shape, dtype=torch.float64, device="cpu") for _ in modules]

    def run(batch: TokenBatch) -> None:
        def keep(place: int, output: Any) -> None:
            found[place][list(batch.indices)] = stream_of(output)[:, -1].double().cpu()

        with ExitStack() as stack, torch.no_grad():
            for place, module in enumerate(modules):
                hook = module.register_forward_hook(
                    lambda _module, _inputs, output, place=place: keep(place, output)
                )
                stack.callback(hook.remove)
            run_without_head(model, batch)

    run_in_batches(model, model.tokenize(texts), run)
    return found
