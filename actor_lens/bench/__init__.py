"""What looking and training cost on a machine, for a model and prompts.

``tasks`` holds what is timed, ``child`` runs one task in a process of its own, ``costs`` runs them
in rounds and compares.
"""
