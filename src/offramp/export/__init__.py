"""Bundles: networks as files that other runtimes run, exits and all."""
