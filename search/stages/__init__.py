"""The course of a run, a file a stage; each knows whether it is done, and does it."""
