"""Codes to new codes: examples of priors, sampling, the generator, prompts."""
