"""What a plugin author implements, and what travels between parts."""
