"""One sub-command of `python -m data_prep` a file: its options, and what it does."""
