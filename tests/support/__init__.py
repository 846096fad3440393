"""What several test files share: tiny random models of real architectures, planted results."""
