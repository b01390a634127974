"""Bottlenecks, one file an idea. They register through the same hook as anybody's."""

from vqmm.hookspecs import hookimpl


@hookimpl
def register_quantizers(register) -> None:  # type: ignore[no-untyped-def]
    """Offer the built-in quantizers. They are imported only when the hook is called."""
    from vqmm.quantizers.gaussian import GaussianQuantizer
    from vqmm.quantizers.grouped import GroupedQuantizer
    from vqmm.quantizers.gumbel import GumbelQuantizer
    from vqmm.quantizers.hierarchical import HierarchicalQuantizer
    from vqmm.quantizers.identity import IdentityQuantizer
    from vqmm.quantizers.none import NoQuantizer
    from vqmm.quantizers.residual import ResidualQuantizer
    from vqmm.quantizers.scalar import FiniteScalarQuantizer
    from vqmm.quantizers.signs import LookupFreeQuantizer, SphericalQuantizer
    from vqmm.quantizers.simvq import SimVQ
    from vqmm.quantizers.vector import VectorQuantizer

    register(VectorQuantizer)
    register(ResidualQuantizer)
    register(GroupedQuantizer)
    register(HierarchicalQuantizer)
    register(FiniteScalarQuantizer)
    register(LookupFreeQuantizer)
    register(SphericalQuantizer)
    register(SimVQ)
    register(GumbelQuantizer)
    register(GaussianQuantizer)
    register(NoQuantizer)
    register(IdentityQuantizer)
