"""One run: its folder, its storage, its cohort, and what it is refused for."""
