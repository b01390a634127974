"""Bottlenecks, one file an idea. They register through the same hook as anybody's."""

from vqmm.hookspecs import hookimpl


@hookimpl
def register_quantizers(register) -> None:  # type: ignore[no-untyped-def]
    from vqmm.quantizers.gaussian import GaussianQuantizer
    from vqmm.quantizers.none import NoQuantizer
    from vqmm.quantizers.vector import VectorQuantizer

    for quantizer in (VectorQuantizer, NoQuantizer, GaussianQuantizer):
        register(quantizer)
