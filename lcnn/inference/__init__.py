"""A trained model on a patient's own pictures."""
