"""What some modalities are besides: mixins that the core finds by `isinstance`."""

from collections.abc import Sequence

from torch import Tensor


class Strings:
    """Mixin for a modality whose samples can be typed: a string in a list of pairs or a prompt is a sample, no path."""

    def ids_of(self, text: str) -> Tensor:
        """The sample (C, *extent), as it is in a batch, that a string is."""
        raise NotImplementedError(f"{type(self).__name__} needs a method ids_of(text)")


class ManyPerFile:
    """Mixin for a modality of which one file holds many samples: decoded samples of one file go back into one."""

    def file_of(self, key: str) -> str:
        """The file that the sample of a key was read from, as a key."""
        raise NotImplementedError(f"{type(self).__name__} needs a method file_of(key)")

    def join(self, samples: Sequence[Tensor]) -> Tensor:
        """Finished samples of one file, in order, as one sample to be written."""
        raise NotImplementedError(f"{type(self).__name__} needs a method join(samples)")
