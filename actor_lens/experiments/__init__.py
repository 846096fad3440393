"""Many runs: a whole study, sweeps, comparisons and ablations, all of which resume."""
