"""Prompts that say nearly the same: which pairs, and in which groups.

Two texts are near-duplicates when the sets of their character 5-grams overlap with a Jaccard
similarity of at least `THRESHOLD`. Case, punctuation, spacing and a few function words ("how do
I", "can you", "the") are dropped first, so that the same question asked in another way counts.
"""

import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence

THRESHOLD = 0.7
SHINGLE_LENGTH = 5

_FUNCTION_WORDS = frozenset(
    "a am an and any are at be been can could describe did do does explain for had has have how i "
    "in is it its me my of on or our please should some tell that the there these this those to "
    "us was we were what when where which who why will with would you your".split()
)


def similar_pairs(
    texts: Sequence[str],
    *,
    threshold: float = THRESHOLD,
    family: Callable[[int], int] = lambda index: index,
) -> Iterator[tuple[int, int, float]]:
    """Yield every pair of near-duplicates once, as (index, larger index, similarity).

    The search is exact: sets that are similar enough must share one of their rarest shingles, so
    only texts that do are compared (prefix filtering).

    Args:
        texts: The prompts.
        threshold: The least Jaccard similarity, above 0 and at most 1.
        family: Gives for an index the one that stands for its family; pairs within a family are
            left out. Families may grow together while pairs are drawn, none may fall apart.

    Source: Bayardo, Ma and Srikant 2007, "Scaling up all pairs similarity search".
    """
    sets = [shingles(text) for text in texts]
    for here, there in _candidates(sets, threshold, family):
        shared = len(sets[here] & sets[there])
        similarity = shared / (len(sets[here]) + len(sets[there]) - shared)
        if similarity >= threshold:
            yield min(here, there), max(here, there), similarity


def group_similar(
    texts: Sequence[str],
    *,
    threshold: float = THRESHOLD,
    groups: Sequence[Hashable] | None = None,
) -> list[int]:
    """Group near-duplicates, and near-duplicates of those; the number of each text's group.

    A group's number is the index of its first text.

    Args:
        texts: The prompts.
        threshold: The least Jaccard similarity.
        groups: One value for each text; texts with equal values are put together as well, None
            binds to nothing.
    """
    parents = list(range(len(texts)))

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    def join(first: int, second: int) -> None:
        low, high = sorted((root(first), root(second)))
        parents[high] = low

    first_of: dict[Hashable, int] = {}
    for index, group in enumerate(groups or ()):
        if group is not None:
            join(first_of.setdefault(group, index), index)
    for first, second, _ in similar_pairs(texts, threshold=threshold, family=root):
        join(first, second)
    return [root(index) for index in range(len(texts))]


def shingles(text: str) -> frozenset[str]:
    """The character 5-grams of a text without case, punctuation and function words."""
    plain = "".join(map(_plain, unicodedata.normalize("NFKC", text).casefold()))
    words = plain.split()
    kept = [word for word in words if word not in _FUNCTION_WORDS] or words or [text]
    padded = f" {' '.join(kept)} "
    last = max(1, len(padded) - SHINGLE_LENGTH + 1)
    return frozenset(padded[start : start + SHINGLE_LENGTH] for start in range(last))


def _plain(character: str) -> str:
    # Letters, marks and numbers of any script stay, and symbols (an emoji may be all there is).
    return " " if unicodedata.category(character)[0] in "PZC" else character


def _candidates(
    sets: Sequence[frozenset[str]], threshold: float, family: Callable[[int], int]
) -> Iterator[tuple[int, int]]:
    """Pairs of indices from different families that may reach the threshold."""
    least = 2 * threshold / (1 + threshold)
    # Which sets hold a shingle, and at which place among their rarest ones; by family, so that a
    # crowd of near-duplicates is passed over in one step.
    index: dict[int, dict[int, list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
    ranked = _rank(sets)
    for here in sorted(range(len(sets)), key=lambda number: len(sets[number])):
        size = len(sets[here])
        rarest = ranked[here][: _prefix(size, threshold)]
        seen: set[int] = set()
        for position, shingle in enumerate(rarest):
            for relative, holders in index[shingle].items() if shingle in index else ():
                for there, other_position in holders:
                    if family(relative) == family(here):
                        break
                    if there in seen:
                        continue
                    seen.add(there)
                    # The shingles before the first common one are lost to both sets.
                    other = len(sets[there])
                    most = min(size - position, other - other_position)
                    if most * (1 + threshold) >= threshold * (size + other) - 1e-9:
                        yield here, there
        # Sets still to come are no smaller: they must share more than `threshold` of this one.
        for position, shingle in enumerate(rarest[: _prefix(size, least)]):
            index[shingle][family(here)].append((here, position))


def _rank(sets: Sequence[frozenset[str]]) -> list[list[int]]:
    """Each set as numbers, its rarest shingle first."""
    frequency = Counter(shingle for shingle_set in sets for shingle in shingle_set)
    by_frequency = sorted(frequency, key=lambda shingle: frequency[shingle])
    rank = {shingle: number for number, shingle in enumerate(by_frequency)}
    return [sorted(map(rank.__getitem__, shingle_set)) for shingle_set in sets]


def _prefix(size: int, share: float) -> int:
    """How many of a set's rarest shingles must hold one of any that make up this share of it."""
    return size - math.ceil(share * size - 1e-9) + 1
