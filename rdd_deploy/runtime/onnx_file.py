"""Whether an ONNX model is whole in its one file, and what it says about itself, asked of the file: the edge has no
``onnx``, and old versions of onnxruntime load weights from wherever a model says."""

from __future__ import annotations

from collections.abc import Iterator

_MESSAGES: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
"""The messages of onnx.proto that hold tensors, somewhere: field number -> message."""
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
"""Fields of a tensor: where its data lies, and whether it does so there."""
_METADATA = 14
"""Field of a model: pairs of a key (field 1) and its value (field 2)."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def has_external_data(content: bytes) -> bool:
    """Whether a tensor of the model, in whichever subgraph or function, says that its data lies in another file.

    Raises:
        ValueError: it isn't an ONNX model.
    """
    if content[4:8] == b"ORTM":
        raise ValueError("it is in onnxruntime's own format, not ONNX")
    whole = memoryview(content)
    open_messages = [("model", 0, len(whole))]
    while open_messages:
        message, start, end = open_messages.pop()
        inner = _MESSAGES[message]
        for field, wire, first, after in _fields(whole, start, end):
            if message == "tensor" and (field == _EXTERNAL_DATA or (field == _DATA_LOCATION and first)):
                return True
            if field in inner:
                if wire != _BYTES:
                    raise ValueError(f"field {field} of a {message} isn't a message")
                open_messages.append((inner[field], first, after))
    return False


def metadata(content: bytes) -> dict[str, str]:
    """What an ONNX model says about itself (``metadata_props``).

    Raises:
        ValueError: it isn't an ONNX model.
    """
    found: dict[str, str] = {}
    whole = memoryview(content)
    for field, wire, first, after in _fields(whole, 0, len(whole)):
        if field == _METADATA and wire == _BYTES:
            parts = {
                part: whole[start:end] for part, kind, start, end in _fields(whole, first, after) if kind == _BYTES
            }
            key, value = (bytes(parts.get(part, b"")).decode(errors="replace") for part in (1, 2))
            found[key] = value
    return found


def _fields(data: memoryview, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Field number, wire type, and where the content begins and ends; of a number its value and 0."""
    while at < end:
        tag, at = _varint(data, at, end)
        field, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = _varint(data, at, end)
            yield field, wire, value, 0
            continue
        if wire == _BYTES:
            size, at = _varint(data, at, end)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire} of field {field}")
        if not field or at + size > end:
            raise ValueError("it is cut off, or isn't ONNX")
        yield field, wire, at, at + size
        at += size


def _varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("it is cut off, or isn't ONNX")
