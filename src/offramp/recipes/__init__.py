"""Trainings as values, one file per data set, with ``RECIPES``."""
