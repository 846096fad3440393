"""What is a refusal: phrase lists, first tokens, language models and classifiers."""
