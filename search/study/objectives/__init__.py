"""Dice against a cost."""
