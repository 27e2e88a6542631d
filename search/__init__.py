"""A space file to a winner with evidence: the only code that knows Ray and Optuna."""
