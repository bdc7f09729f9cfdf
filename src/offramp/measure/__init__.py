"""What answers cost: multiply-accumulates and time."""
