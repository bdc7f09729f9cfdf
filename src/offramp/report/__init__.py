"""Figures about a classifier, as values and as one self-contained page."""
