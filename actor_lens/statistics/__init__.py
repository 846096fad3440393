"""Numbers and their intervals; no model is known here."""
