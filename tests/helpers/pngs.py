"""PNG files as other programs write them, chunk by chunk, for kinds that no library here writes."""

import struct
import zlib
from collections.abc import Sequence

import numpy as np

GREY, PALETTE = 0, 3


def png(chunks: Sequence[tuple[bytes, bytes]]) -> bytes:
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def chunks_of(content: bytes) -> list[tuple[bytes, bytes]]:
    found, offset = [], 8
    while offset < len(content):
        length = int.from_bytes(content[offset : offset + 4], "big")
        found.append((content[offset + 4 : offset + 8], content[offset + 8 : offset + 8 + length]))
        offset += 12 + length
    return found


def stored(numbers: np.ndarray, bits: int, palette: Sequence[tuple[int, int, int]] | None = None) -> bytes:
    """One channel of 1, 2, 4 or 8 bits: grey values, or indices of a palette."""
    padded = np.pad(numbers.astype(np.uint8), ((0, 0), (0, -numbers.shape[1] % (8 // bits))))
    packed = np.packbits(np.unpackbits(padded[..., None], axis=2)[..., 8 - bits :].reshape(len(numbers), -1), axis=1)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    kind = GREY if palette is None else PALETTE
    header = struct.pack(">IIBBBBB", numbers.shape[1], numbers.shape[0], bits, kind, 0, 0, 0)
    colours = [(b"PLTE", bytes(value for colour in palette for value in colour))] if palette else []
    return png([(b"IHDR", header), *colours, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")])


def optimised(mask: np.ndarray, order: Sequence[int] | None = None) -> bytes:
    """A grey mask as a program stores it that makes files smaller: few values as indices of a palette of greys, in any
    order.
    """
    greys = list(order if order is not None else np.unique(mask))
    table = np.zeros(256, np.uint8)
    table[greys] = np.arange(len(greys))
    bits = next(bits for bits in (1, 2, 4, 8) if len(greys) <= 2**bits)
    return stored(table[mask], bits, [(grey, grey, grey) for grey in greys])
