"""Labelled prompts: rows, files, sets, splits, mixtures and checks."""
