"""Refusal directions, projections on them, targets, and scores of every layer."""
