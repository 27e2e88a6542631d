"""When a search ends, and how it is extended."""
