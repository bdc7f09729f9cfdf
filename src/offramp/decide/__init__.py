"""What would be answered, who leaves where, and which thresholds keep a budget. Pure functions over arrays."""
