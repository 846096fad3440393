"""The bundled chat model: its small English, and its training from scratch."""
