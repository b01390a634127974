"""The kernels of the quantizers, and one of the transformer prior. Each folder: the public function, what it means
(reference), how it is fast (fused, cpu).

Letters in names and docstrings: N vectors, K codes, D dimensions. This package knows torch and Triton, nothing else.
"""
