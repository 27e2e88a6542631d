"""Makes this folder's helpers importable from the tests of every package."""
