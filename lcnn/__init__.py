"""LCNN: a cohort and a configuration in, a trained and evaluated segmentation model out.

Knows nothing of Ray, Optuna or any search: `lcnn.training.fit.fit` is a generator of epochs that anyone can drive.
"""
