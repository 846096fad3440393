"""Before and after: replies, rates, several judges, and utility."""
