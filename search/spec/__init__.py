"""The space file: settings, and the ranges that are searched."""
