"""A run as one page: what it found, how sure that is, and how it was made."""
