"""The paper's ablations: one setting varied at a time."""
