"""Every layer, alpha and seed trained on one collection of block inputs."""
