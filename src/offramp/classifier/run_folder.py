"""Names of the files in a run folder: what a training writes, and what others look for."""

RECIPE, ENVIRONMENT, METRICS = "recipe.json", "environment.json", "metrics.jsonl"
CHECKPOINTS, EVENTS, LOCK = "checkpoints", "events", ".lock"
MODEL = "model"
"""The model folder a run ends with."""
IN_RUN = (RECIPE, ENVIRONMENT, METRICS, CHECKPOINTS, EVENTS, LOCK, MODEL)
"""All there is in a run folder."""
