"""Training: a recipe in, weights out."""
