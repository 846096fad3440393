"""Benchmarks on random models, not collected by pytest: ``python -m tests.benchmarks.run``."""
