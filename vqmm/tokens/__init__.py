"""Codes at rest: shards and sets of them."""
