"""How good a model is: figures a patient, intervals, comparisons, pictures."""
