"""A compressed file: the codes of one sample, under a header that says what they belong to.

Numbers are big-endian, a `varint` is an integer of seven bits a byte, low ones first:

    VQMM, format (1 byte), CRC-32 of all that follows
    code fingerprint (8 bytes), method of `vqmm.compression.adaptive` (1 byte), CRC-32 of the codes
    varints: axes and size; bytes of the label and 1 more, or 0, and the label; maps; of each: stages and grid
    the codes, to the end; with a prior as the model (`vqmm.compression.with_prior`): first its fingerprint (8 bytes)
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from vqmm.compression import adaptive as coding
from vqmm.compression.with_prior import Packed, PriorCoder
from vqmm.tokenizer.tokenizer import Tokenizer
from vqmm.tokens.shards import Row
from vqmm.utils.errors import UserError

MAGIC, FORMAT = b"VQMM", 1
HEAD, BODY = struct.Struct(">4sBI"), struct.Struct(">8sBI")


def pack(tokenizer: Tokenizer, row: Row, packed: Packed | None = None) -> bytes:
    """The whole content of a compressed file for one sample's codes. `row.key` is not kept. `packed`: its codes under a
    model; None: without one."""
    if packed is None:
        method, codes = coding.pack(row.maps, tokenizer.quantizer.sizes)
    else:
        method, codes = coding.PRIOR, packed.model + packed.data
    label = b"" if row.label is None else row.label.encode()
    numbers = [len(row.size), *row.size, 0 if row.label is None else len(label) + 1]
    shapes = [n for code_map in row.maps for n in code_map.shape]
    fixed = BODY.pack(bytes.fromhex(tokenizer.code_fingerprint()), method, _checksum(row.maps))
    body = fixed + _varints(numbers) + label + _varints([len(row.maps), *shapes]) + codes
    return HEAD.pack(MAGIC, FORMAT, zlib.crc32(body)) + body


def unpack(tokenizer: Tokenizer, data: bytes, name: str, coder: PriorCoder | None = None) -> Row:
    """The inverse of `pack`; the key is empty. `name` stands for the file in errors, `coder` for the model.

    Raises:
        UserError: not a compressed file; cut short or altered; of another format, tokenizer or model.
    """
    body = _checked(data, name)
    fingerprint, expected = body[:8].hex(), tokenizer.code_fingerprint()
    if fingerprint != expected:
        raise UserError(
            f"{name} was compressed by the tokenizer {fingerprint}, and this run is {expected}: decompress with the "
            "run that compressed it"
        )
    sizes = tokenizer.quantizer.sizes
    try:
        _, method, right = BODY.unpack_from(body)
        rest = iter(body[BODY.size :])
        rank = _number(rest)
        size = tuple([_number(rest) for _ in range(rank)])
        length = _number(rest)
        label = bytes(islice(rest, length - 1)).decode() if length else None
        shapes = [tuple([_number(rest) for _ in range(1 + rank)]) for _ in range(_number(rest))]
    except (ValueError, StopIteration, struct.error) as error:
        raise UserError(f"{name} is damaged: its header does not make sense ({type(error).__name__})") from None
    if len(shapes) != len(sizes) or any(shape[0] > len(each) for shape, each in zip(shapes, sizes, strict=True)):
        raise UserError(f"{name} is damaged: its maps are {shapes}, where the tokenizer has {sizes}")
    codes = bytes(rest)
    _require_model(method, codes, coder, name)
    if coder is None:
        maps = coding.unpack(method, codes, shapes, sizes)
    else:
        maps = coder.unpack(codes[len(coder.fingerprint) :], shapes, label)
    if _checksum(maps) != right:
        how = "another version of vqmm or constriction"
        if coder is not None:
            how += ", or on a machine whose floats are further from those here than the margin it was made with"
        raise UserError(
            f"{name} gives codes of the checksum {_checksum(maps):08x} where {right:08x} was written: it was made with "
            + how
        )
    return Row("", label, size, maps)


def _require_model(method: int, codes: bytes, coder: PriorCoder | None, name: str) -> None:
    """A `UserError` where these codes were not written under this model."""
    if method != coding.PRIOR:
        if coder is not None:
            raise UserError(f"{name} was compressed without a model, and {coder.where} is given: leave --model out")
        return
    fingerprint = codes[:8].hex()
    if coder is None:
        raise UserError(f"{name} was compressed with the model {fingerprint}: give the run of that prior with --model")
    if fingerprint != coder.fingerprint.hex():
        raise UserError(
            f"{name} was compressed with the model {fingerprint}, and {coder.where} is {coder.fingerprint.hex()}: give "
            "the run of the prior that it was compressed with"
        )


def _checked(data: bytes, name: str) -> bytes:
    """What follows the head of a file that is whole."""
    if data[:4] != MAGIC:
        begins = data[:4].hex(" ") or "nothing"
        raise UserError(f"{name} is no file of vqmm compress: it begins with {begins}, not {MAGIC.hex(' ')}")
    if len(data) < HEAD.size + BODY.size:
        raise UserError(f"{name} is cut short: {len(data)} bytes, where the header alone takes more")
    _, version, right = HEAD.unpack_from(data)
    if version != FORMAT:
        raise UserError(f"{name} is of format {version}, and this vqmm reads {FORMAT}")
    body = data[HEAD.size :]
    if zlib.crc32(body) != right:
        raise UserError(
            f"{name} was cut short or altered: its {len(data):,} bytes have the checksum {zlib.crc32(body):08x}, and "
            f"{right:08x} was written"
        )
    return body


def _checksum(maps: Sequence[np.ndarray]) -> int:
    crc = 0
    for code_map in maps:
        crc = zlib.crc32(np.ascontiguousarray(code_map, dtype="<i8").tobytes(), crc)
    return crc


def _varints(numbers: Sequence[int]) -> bytes:
    data = bytearray()
    for number in numbers:
        while number > 127:
            data.append(number & 127 | 128)
            number >>= 7
        data.append(number)
    return bytes(data)


def _number(data: Iterator[int]) -> int:
    number, shift = 0, 0
    while True:
        byte = next(data)
        number |= (byte & 127) << shift
        if byte < 128:
            return number
        shift += 7
