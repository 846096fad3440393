"""The fine-tune of one block, and the run that comes of it."""
