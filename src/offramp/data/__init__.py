"""Data sets, preprocessing and augmentation; a new data set is one file with ``SOURCES``."""
