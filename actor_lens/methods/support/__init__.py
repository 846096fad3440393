"""What methods share: the protocol, the choice of settings, and training on replies."""
