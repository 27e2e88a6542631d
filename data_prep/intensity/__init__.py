"""Grey values: intensity windows, and what the files of slices hold."""
