"""Residuals and block inputs, collected once and kept on disk."""
