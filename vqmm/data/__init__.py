"""Samples, sources, splits and loaders."""
