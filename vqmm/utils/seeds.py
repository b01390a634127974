"""Seeds out of words: what is random about one thing depends on its name alone."""

import hashlib


def seed_of(text: str) -> int:
    """A seed in [0, 2**63) for a text, the same in every process and on every machine (BLAKE2b)."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1
