"""Prompts that differ from each other, and texts of any kind."""

from hypothesis import strategies as st

from actor_lens.prompts.rows import LABELS, Prompt
from actor_lens.prompts.sets import PromptSet

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
# Sorted letters from distinct numbers share few 5-grams, so these are no near-duplicates.
words = [hex(number * 2654435761 % 2**64)[2:].translate(str.maketrans("0123456789", "ghijklmnop"))
         for number in range(1, 400)]  # fmt: skip


def labelled(counts, categories=1):
    """A set with so many prompts per label, all different, without splits."""
    supply = iter(words)
    return PromptSet(
        tuple(
            Prompt(f"{next(supply)} {next(supply)}", label, category=f"kind {number % categories}")
            for label, count in zip(LABELS, counts, strict=True)
            for number in range(count)
        )
    )
