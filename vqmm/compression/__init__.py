"""Codes to few bytes and back: an adaptive model, or a prior as the model."""
