"""A chat model: how it is loaded, what it reads, what it says and how it is run."""
