"""Samples to codes and back: the tokenizer, its inputs, long signals, streaming; and the generator from noise."""
