"""What comes with vqmm, behind the same entry points as anybody's plugin."""
