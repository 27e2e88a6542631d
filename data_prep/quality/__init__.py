"""What is wrong in a cohort, what can be mended, and what it holds."""
