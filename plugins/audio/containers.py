"""Whether a WAV or Ogg file is all there: libsndfile reads what there is of either, and says nothing."""

import struct
from typing import BinaryIO

UNKNOWN = 0x7FFF0000  # sizes from here on are written by programs that did not know theirs, into a pipe
OGG_PAGE = 65_307  # the most bytes that a page can have
OGG_HEADER = 27  # bytes before a page's table of segments
OGG_LAST = 4  # the flag of the last page of a stream


def check_whole(file: BinaryIO) -> None:
    """Look at a file opened at its start; ValueError, with the numbers, where its end is missing."""
    head = file.read(12)
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:] == b"WAVE":
        _check_wav(file, ">" if head[:4] == b"RIFX" else "<")
    elif head[:4] == b"OggS":
        _check_ogg(file)


def _check_wav(file: BinaryIO, order: str) -> None:
    """The `data` chunk promises a number of bytes; in RF64 the chunk `ds64` may do so for it (EBU Tech 3306)."""
    long_size = None
    while len(head := file.read(8)) == 8:
        name, size = struct.unpack(f"{order}4sI", head)
        start = file.tell()
        if name == b"data":
            here = file.seek(0, 2) - start
            promised = size if size < UNKNOWN else long_size
            if promised is not None and here < promised:
                raise ValueError(f"cut short: its header promises {promised} bytes of sound, and there are {here}")
            return
        if name == b"ds64" and len(sizes := file.read(16)) == 16:
            long_size = struct.unpack(f"{order}QQ", sizes)[1]
        file.seek(start + size + size % 2)


def _check_ogg(file: BinaryIO) -> None:
    """The last page has a flag that says so, and all the bytes of its table (RFC 3533, section 6)."""
    file.seek(max(file.seek(0, 2) - OGG_PAGE, 0))
    tail = file.read()
    page = tail[max(tail.rfind(b"OggS"), 0) :]
    table = page[OGG_HEADER : OGG_HEADER + page[26]] if len(page) >= OGG_HEADER else b""
    whole = bool(table) and len(page) >= OGG_HEADER + page[26] + sum(table)
    if not whole or not page[5] & OGG_LAST:
        raise ValueError("cut short: the last page of the Ogg stream is missing")
