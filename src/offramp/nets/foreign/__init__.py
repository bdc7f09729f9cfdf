"""Readers of published checkpoint formats, one file each, with ``READERS``."""
