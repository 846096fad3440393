"""What is read from and written to disk: bundled data, and files replaced all or not at all."""
