"""How much is enough: the least shift against R with which an over-refused prompt is answered.

The paper's central evidence for projected shifts: prompts that lie further along the refusal
direction need a longer one. With ``u = R / |R|`` the line through what prompts need,

    gamma* |R| = alpha (a.u - o),

has the form of a just-enough target, so it says from data how much of the way to go (``alpha``)
and from where to count (``origin``, the place at which no shift is needed).

Source: Dabas et al. 2025 (arXiv 2507.04250), minimal shift of over-refused prompts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from actor_lens.activations.filling import Array, Key, Put, collect, identity_of
from actor_lens.activations.residuals import collect_residuals
from actor_lens.activations.store import Store
from actor_lens.directions.options import FIXED_ORIGINS, PAPER_GAMMAS, Origin
from actor_lens.directions.refusal_directions import Directions, refusal_directions
from actor_lens.errors import UserError, check_positive, check_whole
from actor_lens.judges.base import Judge, refuses, verdicts_of
from actor_lens.judges.by_name import as_judge
from actor_lens.judges.replies import write_replies
from actor_lens.models.batches import TokenBatch
from actor_lens.models.chat_model import ChatModel
from actor_lens.models.memory import cache_bytes_per_token
from actor_lens.models.replies import end_tokens, reply_text
from actor_lens.models.shifted_replies import ShiftedReplies
from actor_lens.progress import stage
from actor_lens.prompts.columns import prompt_columns
from actor_lens.prompts.sets import PromptSet
from actor_lens.results import Result, plain
from actor_lens.statistics.lines import Line
from actor_lens.text import plural

if TYPE_CHECKING:
    import pandas as pd

_ROUNDS = 2000


@dataclass(frozen=True, eq=False, repr=False)
class JustEnoughShift(Result):
    """The least shift that each over-refused prompt needs at a layer.

    Attributes:
        gammas: Least gamma for which the reply with ``a - gamma R`` is compliant; NaN where none
            of those tried is enough.
        projections: ``a.u`` of each prompt before.
        prompts: The over-refused prompts.
        layer: The layer.
        norm: Length of R.
        benign_mean: Projection of the mean benign prompt.
        harmful_mean: Projection of the mean harmful prompt.
        tried: The gammas that were tried.
        n_harmless: Number of prompts, benign and pseudo-harmful, of which these are refused.
        judge: Identity of the judge.
        new_tokens: Longest reply, in tokens.
        seed: Seed of the resampling behind the intervals.
    """

    gammas: Float[Tensor, " prompt"]
    projections: Float[Tensor, " prompt"]
    prompts: PromptSet
    layer: int
    norm: float
    benign_mean: float
    harmful_mean: float
    tried: tuple[float, ...]
    n_harmless: int
    judge: str
    new_tokens: int
    seed: int = 0

    _figure = "just_enough_shift"
    _hint = "training: al.finetune_layer(..., origin='fitted', enough=shift)"

    @cached_property
    def line(self) -> Line:
        """Line of gamma* on ``a.u``, from the prompts for which a shift was enough."""
        gammas, along = self.gammas.double().numpy(), self.projections.double().numpy()
        known = np.isfinite(gammas)
        rng = np.random.default_rng(self.seed)
        return Line(along[known], gammas[known], rounds=_ROUNDS, rng=rng)

    @property
    def alpha(self) -> float:
        """Share of the way to the origin that prompts need on average."""
        return self.line.slope.value * self.norm

    @property
    def origin(self) -> float:
        """Place on the unit direction where the line says that no shift is needed."""
        return self.line.root.value

    @property
    def origin_place(self) -> float:
        """The origin on a scale on which the benign mean is 0 and the harmful mean 1."""
        return (self.origin - self.benign_mean) / (self.harmful_mean - self.benign_mean)

    def frame(self) -> pd.DataFrame:
        """One row a prompt: those of ``prompt_columns``, ``projection``, ``gamma``, ``line``.

        ``gamma`` is NaN where no shift was enough; ``line`` is what the fitted line says.
        """
        import pandas as pd

        along = self.projections.double().numpy()
        return pd.DataFrame(
            {
                **prompt_columns(self.prompts),
                "projection": along,
                "gamma": self.gammas.double().numpy(),
                "line": self.line.slope.value * along + self.line.intercept.value,
            }
        )

    def summary(self) -> dict[str, Any]:
        """Settings, the line with its intervals, and ``alpha``, ``origin``, ``origin_place``."""
        line = self.line
        return {
            **super().summary(),
            "tried": list(self.tried),
            "n_refused": len(self.prompts),
            "n_not_enough": int(self.gammas.isnan().sum()),
            "correlation": plain(line.correlation._asdict()),
            "slope": plain(line.slope._asdict()),
            "intercept": plain(line.intercept._asdict()),
            "origin": plain(line.root._asdict()),
            "alpha": plain(self.alpha),
            "origin_place": plain(self.origin_place),
        }

    def _headline(self) -> str:
        r = self.line.correlation
        missing = int(self.gammas.isnan().sum())
        return (
            f"JustEnoughShift: {plural(len(self.prompts), 'over-refused prompt')} at layer "
            f"{self.layer}"
            + (f", {missing} of them not answered at any gamma" if missing else "")
            + f"; r {r.value:.2f} ({r.low:.2f} to {r.high:.2f}), alpha {self.alpha:.2g}, origin "
            f"{self.origin:.3g}"
        )


def just_enough_shift(
    model: ChatModel,
    prompts: PromptSet,
    directions: Directions,
    layer: int,
    *,
    gammas: Sequence[float] = PAPER_GAMMAS,
    bisect: bool = False,
    judge: Judge | str | None = None,
    new_tokens: int = 64,
    seed: int = 0,
    store: Store | bool = True,
) -> JustEnoughShift:
    """Find for each over-refused prompt the least gamma with which it is answered.

    Benign and pseudo-harmful prompts whose reply the judge calls a refusal are over-refused;
    harmful prompts are left out, and nothing is asked about them. The shift ``-gamma R`` is added
    to the residual of the last prompt token after the block, while the prompt is read: tokens of
    the reply are not shifted (``shift_last_token`` does the same). Each prompt is read once; each
    gamma then costs one token and a reply.

    Args:
        model: The untouched model.
        prompts: Prompts, best those that the directions were not fitted to.
        directions: Refusal directions of the model.
        layer: Layer at which prompts are shifted.
        gammas: Shares of R to try, from small to large.
        bisect: Halve the range of gammas instead of trying one after the other: fewer replies on a
            fine grid, and the same answer where a larger shift never turns an answer back into a
            refusal.
        judge: Judge of the replies, or its name; the keyword judge unless given.
        new_tokens: Longest reply, in tokens.
        seed: Seed of the resampling behind the intervals.
        store: Store that keeps what was found, batch by batch; True is the default store, False
            none. Replies with a shift are not kept.

    Raises:
        UserError: If gammas are missing, not positive or not in order, no harmless prompt is
            refused, a prompt does not fit into the model with its reply, or the directions or the
            layer do not fit the model.
    """
    directions.check_model(model)
    layer = model.check_layer(layer)
    tried = check_gammas(gammas)
    new_tokens = check_whole("new_tokens", new_tokens, 1)
    judge = as_judge(judge)
    harmless = prompts.select(
        [row for row, label in enumerate(prompts.labels) if label != "harmful"]
    )
    with stage("replies without a shift"):
        refused = _over_refused(model, harmless, judge, new_tokens, store)
    vector = directions.vectors[layer]
    with stage("just-enough shifts"):
        found = _search(model, refused, vector, layer, tried, bisect, judge, new_tokens, store)
    places, along = found.unbind(dim=-1)
    grid = torch.tensor([*tried, float("nan")], dtype=torch.float64, device="cpu")
    return JustEnoughShift(
        gammas=grid[places.long()],
        projections=along.clone(),
        prompts=refused,
        layer=layer,
        norm=float(vector.double().norm()),
        benign_mean=float(directions.mean_projections("benign")[layer]),
        harmful_mean=float(directions.mean_projections("harmful")[layer]),
        tried=tried,
        n_harmless=len(harmless),
        judge=judge.identity,
        new_tokens=new_tokens,
        seed=seed,
    )


def fitted_place(
    origin: Origin,
    model: ChatModel,
    prompts: PromptSet,
    layer: int,
    enough: JustEnoughShift | None = None,
    *,
    store: Store | bool = True,
) -> float | None:
    """Where a fitted origin lies between the class means (``JustEnoughShift.origin_place``).

    Args:
        origin: Name of the origin.
        model: The untouched model.
        prompts: Training prompts; directions are fitted on them and shifts measured on them, unless
            ``enough`` is given.
        layer: The layer.
        enough: Shifts that were measured already.
        store: Store of residuals, replies and shifts; True is the default store, False none.

    Returns:
        None for an origin that is not fitted.

    Raises:
        UserError: If the shifts are of another layer, or do not grow with the projection there.
    """
    if origin != "fitted":
        return None
    if enough is None:
        with stage("fitted origin"):
            directions = refusal_directions(collect_residuals(model, prompts, store=store))
            enough = just_enough_shift(model, prompts, directions, layer, store=store)
    if enough.layer != layer:
        raise UserError(
            f"the shifts were measured at layer {enough.layer}, and layer {layer} is trained; "
            "measure them there"
        )
    if not enough.line.slope.value > 0:
        raise UserError(
            f"no origin can be fitted at layer {layer}: the shift that "
            f"{plural(enough.line.slope.n, 'prompt')} need does not grow with their projection; "
            f"take another layer, or one of {', '.join(FIXED_ORIGINS)}"
        )
    return enough.origin_place


def check_gammas(gammas: Sequence[float]) -> tuple[float, ...]:
    """Return gammas as plain numbers.

    Raises:
        UserError: If there are none, or they are not positive and in order.
    """
    tried = tuple(check_positive("gamma", gamma) for gamma in gammas)
    if not tried or list(tried) != sorted(set(tried)):
        shown = ", ".join(f"{gamma:g}" for gamma in tried) or "none"
        raise UserError(f"gammas are {shown}; give at least one, from small to large")
    return tried


def _over_refused(
    model: ChatModel, harmless: PromptSet, judge: Judge, new_tokens: int, store: Store | bool
) -> PromptSet:
    """The harmless prompts that the model refuses as it is."""
    if not len(harmless):
        raise UserError("no benign or pseudo-harmful prompts were given; over-refusal needs some")
    written = write_replies(model, harmless, new_tokens=new_tokens, store=store)
    verdicts = verdicts_of(judge, harmless, written.texts, written.refusal_scores)
    refused = [row for row, verdict in enumerate(verdicts) if refuses(verdict)]
    if not refused:
        raise UserError(
            f"'{model.name}' refuses none of {plural(len(harmless), 'harmless prompt')} by the "
            f"judge '{judge.name}': there is no over-refused prompt to shift; give others"
        )
    return harmless.select(refused)


def _search(
    model: ChatModel,
    prompts: PromptSet,
    vector: Float[Tensor, " d_model"],
    layer: int,
    tried: tuple[float, ...],
    bisect: bool,
    judge: Judge,
    new_tokens: int,
    store: Store | bool,
) -> Float[Tensor, "prompt 2"]:
    """Place of each prompt's least gamma among those tried (their number for none), and a.u."""
    unit = vector / vector.norm()

    def compliant(batch: TokenBatch, rows: list[int], replies: list[list[int]]) -> list[bool]:
        asked = prompts.select([batch.indices[row] for row in rows])
        texts = [reply_text(model, ids) for ids in replies]
        verdicts = verdicts_of(judge, asked, texts, [float("nan")] * len(texts))
        return [refuses(verdict) is False for verdict in verdicts]

    def run(batch: TokenBatch, puts: Mapping[Key, Put]) -> None:
        shifted = ShiftedReplies(model, prompts.texts, batch, layer)
        # Of each prompt: the last place that was not enough, and the first that was.
        low, high = [-1] * len(batch.indices), [len(tried)] * len(batch.indices)
        while rows := [row for row in range(len(low)) if high[row] - low[row] > 1]:
            asked = [_next(low[row], high[row], len(tried), bisect) for row in rows]
            shares = torch.tensor([tried[place] for place in asked], device="cpu")
            replies = shifted.write(rows, -shares[:, None] * vector, new_tokens)
            enough = compliant(batch, rows, replies)
            for row, place, is_enough in zip(rows, asked, enough, strict=True):
                (high if is_enough else low)[row] = place
        along = (shifted.residuals.float().cpu() @ unit).tolist()
        pairs = torch.tensor(list(zip(high, along, strict=True)), device="cpu")
        puts["shifts"](list(pairs[:, None, None, :]))

    token_ids = model.tokenize(prompts.texts, room=new_tokens)
    identity = {
        **identity_of(model, token_ids),
        "kind": "just_enough_shifts",
        "version": 1,
        "layer": layer,
        "vector": hashlib.blake2b(vector.float().numpy().tobytes(), digest_size=16).hexdigest(),
        "gammas": list(tried),
        "bisect": bisect,
        "judge": judge.identity,
        "labels": list(prompts.labels),
        "ends": list(end_tokens(model)),
        "device": model.device.type,
        "new_tokens": new_tokens,
    }
    array = Array(identity, 1, [1] * len(prompts), 2, torch.float32)
    values = collect(
        model,
        token_ids,
        {"shifts": array},
        run,
        store=store if model.decoding is None else False,
        new_tokens=new_tokens,
        kept_per_token=2 * cache_bytes_per_token(model),  # of the prompts, and of those in work
    )
    return values["shifts"][0]


def _next(low: int, high: int, n_tried: int, bisect: bool) -> int:
    """The place to ask about next; when halving, the largest first: it may not be enough."""
    if not bisect:
        return low + 1
    return n_tried - 1 if high == n_tried else (low + high) // 2
