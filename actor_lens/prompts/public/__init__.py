"""Public prompt sets by name, from the hub or from files of the user's own."""
