"""The frames between the trusted grader and the worker: a little-endian uint32 length, then one MessagePack value.

Beyond MessagePack's own types the wire carries NumPy arrays and scalars, integers wider than 64 bits, handles (objects that
stay in the worker) and callbacks (functions that stay in the grader). There is no pickle. The decoder checks every length
before it allocates, so that a hostile frame raises WireError and nothing else.
"""

from __future__ import annotations

import math
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

MAX_FRAME_BYTES = 512 * 1024 * 1024
MAX_DIMENSIONS = 8

ARRAY, SCALAR, HANDLE, CALLBACK, BIG_INTEGER = 1, 2, 3, 4, 5
_NUMERIC_KINDS = frozenset("biufc")


class WireError(Exception):
    """A frame that breaks the format: the other side is broken or hostile, and the connection must end."""


class WireTimeout(Exception):
    """No complete frame arrived before the deadline."""


class WireClosed(Exception):
    """The other side closed the connection."""


class HandleRef(msgspec.Struct, frozen=True):
    """Names an object that stays in the worker. `type_name` is for messages only."""

    number: int
    type_name: str


class CallbackRef(msgspec.Struct, frozen=True):
    """Names a function that stays in the grader."""

    number: int


def _pack_array(array: np.ndarray) -> bytes:
    array = np.asarray(array)
    if array.dtype.kind not in _NUMERIC_KINDS:
        raise TypeError(f"an array of dtype {array.dtype} can't be sent; only numbers and booleans can")
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    head = msgspec.msgpack.encode((little.dtype.str, array.shape))
    return struct.pack("<H", len(head)) + head + np.ascontiguousarray(little).tobytes()


def _unpack_array(data: memoryview) -> np.ndarray:
    try:
        (head_length,) = struct.unpack_from("<H", data)
        dtype_text, shape = msgspec.msgpack.decode(data[2 : 2 + head_length], type=tuple[str, list[int]])
        dtype = np.dtype(dtype_text)
    except (struct.error, msgspec.MsgspecError, TypeError, ValueError, SyntaxError) as error:
        raise WireError(f"an array with an unreadable head ({error})") from None
    if dtype.kind not in _NUMERIC_KINDS or dtype.subdtype is not None or dtype.fields is not None:
        raise WireError(f"an array of dtype {dtype_text!r}")
    if len(shape) > MAX_DIMENSIONS or any(side < 0 for side in shape):
        raise WireError(f"an array of shape {shape}")
    body = data[2 + head_length :]
    if math.prod(shape) * dtype.itemsize != len(body):
        raise WireError(f"an array of shape {shape} and dtype {dtype} in {len(body)} bytes")
    return np.frombuffer(body, dtype).reshape(shape).copy()


class Codec:
    """Encodes and decodes values; the two sides differ only in what becomes a handle or a callback.

    `refer(obj)` returns the HandleRef or CallbackRef for an object without a wire form (or raises TypeError);
    `resolve(ref)` turns a reference that arrived into what the receiving side uses for it.
    """

    def __init__(self, refer: Callable[[Any], HandleRef | CallbackRef], resolve: Callable[[HandleRef | CallbackRef], Any]) -> None:
        self._refer = refer
        self._resolve = resolve
        self._encoder = msgspec.msgpack.Encoder(enc_hook=self._to_ext)
        self._decoder = msgspec.msgpack.Decoder(ext_hook=self._from_ext)

    def _to_ext(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return msgspec.msgpack.Ext(ARRAY, _pack_array(value))
        if isinstance(value, np.generic):
            return msgspec.msgpack.Ext(SCALAR, _pack_array(np.asarray(value)))
        if isinstance(value, range):
            return list(value)
        reference = self._refer(value)
        code = HANDLE if isinstance(reference, HandleRef) else CALLBACK
        return msgspec.msgpack.Ext(code, msgspec.msgpack.encode(reference))

    def _from_ext(self, code: int, data: memoryview) -> Any:
        if code == ARRAY:
            return _unpack_array(data)
        if code == SCALAR:
            array = _unpack_array(data)
            if array.shape != ():
                raise WireError("a scalar with a shape")
            return array[()]
        if code == BIG_INTEGER:
            return int.from_bytes(data, "little", signed=True)
        kinds: dict[int, type] = {HANDLE: HandleRef, CALLBACK: CallbackRef}
        if code not in kinds:
            raise WireError(f"an unknown extension type {code}")
        try:
            return self._resolve(msgspec.msgpack.decode(data, type=kinds[code]))
        except (msgspec.MsgspecError, LookupError) as error:
            raise WireError(f"a reference that names nothing ({error})") from None

    def encode(self, value: Any) -> bytes:
        """Return the MessagePack form; raise TypeError or ValueError for a value that has none."""
        try:
            return self._encoder.encode(value)
        except OverflowError:
            return self._encoder.encode(_widen(value))

    def decode(self, data: bytes | memoryview) -> Any:
        """Return the value; raise WireError for anything that is not one well-formed value."""
        try:
            return self._decoder.decode(data)
        except WireError:
            raise
        except (msgspec.MsgspecError, RecursionError, ValueError, TypeError, OverflowError, UnicodeError) as error:
            raise WireError(f"a frame that is not MessagePack ({error})") from None


def _widen(value: Any) -> Any:
    """Replace integers that MessagePack can't hold; only reached when a plain encoding overflowed."""
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**64:
        return msgspec.msgpack.Ext(BIG_INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True))
    if isinstance(value, (list, tuple)):
        return [_widen(item) for item in value]
    if isinstance(value, dict):
        return {_widen(key): _widen(item) for key, item in value.items()}
    return value


def send_frame(connection: socket.socket, data: bytes, deadline: float | None = None) -> None:
    """Send one frame; raise WireTimeout when the peer has not taken it by `deadline` (time.monotonic seconds)."""
    if len(data) > MAX_FRAME_BYTES:
        raise ValueError(f"a value of {len(data):,} bytes is too large to send (at most {MAX_FRAME_BYTES:,})")
    try:
        _set_timeout(connection, deadline)
        connection.sendall(struct.pack("<I", len(data)))
        connection.sendall(data)
    except TimeoutError:
        raise WireTimeout from None
    except OSError as error:
        raise WireClosed(str(error)) from None


def receive_frame(connection: socket.socket, deadline: float | None = None, max_bytes: int = MAX_FRAME_BYTES) -> memoryview:
    """Receive one frame; raise WireTimeout, WireClosed, or WireError for a length over `max_bytes`."""
    (length,) = struct.unpack("<I", _receive_exactly(connection, 4, deadline))
    if length > max_bytes:
        raise WireError(f"a frame of {length:,} bytes (at most {max_bytes:,})")
    return _receive_exactly(connection, length, deadline)


def _receive_exactly(connection: socket.socket, count: int, deadline: float | None) -> memoryview:
    # Grown as bytes arrive: a claimed length alone must not make the grader allocate.
    buffer = bytearray(min(count, 1 << 20))
    filled = 0
    while filled < count:
        if filled == len(buffer):
            buffer.extend(bytes(min(count - filled, len(buffer))))
        try:
            _set_timeout(connection, deadline)
            received = connection.recv_into(memoryview(buffer)[filled:])
        except TimeoutError:
            raise WireTimeout from None
        except OSError as error:
            raise WireClosed(str(error)) from None
        if received == 0:
            raise WireClosed("the other side closed the connection")
        filled += received
    return memoryview(buffer)[:count]


def _set_timeout(connection: socket.socket, deadline: float | None) -> None:
    if deadline is None:
        connection.settimeout(None)
        return
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    connection.settimeout(remaining)
