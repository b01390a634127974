"""The kernels of the quantizers, and one of the transformer prior. Each folder: the public function; what it means,
`reference.py`; how it is fast on a GPU, `fused.py` launches the Triton functions of `kernels.py` with the tiles of
`tables/`; on a CPU, `cpu.py` and its C++; in plain torch elsewhere, `plain.py`. A path is called what its functions end
in: "triton" (a GPU of compute capability 8.0 or more), "cpu", "torch" (any other device).

Letters in names and docstrings: N vectors, K codes, D dimensions. This package knows torch and Triton, nothing else.
"""
