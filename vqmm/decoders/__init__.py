"""Ways from vectors to a sample. They register through the same hook as anybody's."""

from vqmm.hookspecs import hookimpl


@hookimpl
def register_decoders(register) -> None:  # type: ignore[no-untyped-def]
    """Offer the built-in decoders. They are imported only when the hook is called."""
    from vqmm.decoders.direct import DirectDecoder
    from vqmm.decoders.flow import FlowDecoder
    from vqmm.decoders.identity import IdentityDecoder
    from vqmm.decoders.wavenet import WaveNetDecoder

    register(DirectDecoder)
    register(WaveNetDecoder)
    register(FlowDecoder)
    register(IdentityDecoder)
