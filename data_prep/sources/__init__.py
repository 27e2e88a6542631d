"""Readers of scans and masks, a file a format."""
