"""HTML pages of a study, a comparison or an ablation."""
