"""Methods side by side on the same prompts under the same judge."""
