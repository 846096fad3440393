"""Taking a run away: one block, a LoRA adapter or a whole model, with its model card."""
