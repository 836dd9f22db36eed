"""The wire: values survive the trip, and a hostile frame raises WireError and nothing else."""

from __future__ import annotations

import contextlib
import math
import socket
import struct
import time
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from graders.worker.wire import ARRAY, Codec, HandleRef, WireClosed, WireError, WireTimeout, receive_frame, send_frame


def refuse(value: Any) -> HandleRef:
    raise TypeError(type(value).__name__)


CODEC = Codec(refuse, lambda reference: reference)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
ARRAYS = hnp.arrays(
    st.one_of(hnp.integer_dtypes(), hnp.unsigned_integer_dtypes(), hnp.floating_dtypes(sizes=(16, 32, 64)), hnp.boolean_dtypes()),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
)


@given(PLAIN)
def test_plain_values_survive(value: Any) -> None:
    assert CODEC.decode(CODEC.encode(value)) == value


@given(ARRAYS)
def test_arrays_survive(array: np.ndarray) -> None:
    back = CODEC.decode(CODEC.encode(array))
    assert back.shape == array.shape and back.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(back, array)
    assert back.flags.writeable and (back.size == 0 or not np.shares_memory(back, array))


def test_scalars_keep_their_dtype_and_infinities_survive() -> None:
    assert type(CODEC.decode(CODEC.encode(np.float32(1.5)))) is np.float32
    assert math.isnan(CODEC.decode(CODEC.encode(float("nan"))))
    assert CODEC.decode(CODEC.encode([math.inf, -math.inf, 2**90])) == [math.inf, -math.inf, 2**90]


@pytest.mark.parametrize("value", [np.array([object()]), np.array(["a"]), np.array([b"a"]), object()])
def test_what_has_no_wire_form_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        CODEC.encode(value)


@given(st.binary(max_size=300))
def test_any_bytes_decode_or_raise_wire_error(data: bytes) -> None:
    with contextlib.suppress(WireError):
        CODEC.decode(data)


def forged(dtype: Any, shape: Any, body: bytes) -> bytes:
    head = msgspec.msgpack.encode((dtype, shape))
    return msgspec.msgpack.encode(msgspec.msgpack.Ext(ARRAY, struct.pack("<H", len(head)) + head + body))


@pytest.mark.parametrize(
    ("dtype", "shape", "body"),
    [
        ("<f4", [2], b"1234"),
        ("<f4", [-1], b"1234"),
        ("<f4", [2**62, 2**62], b""),
        ("<f4", [1] * 40, b"1234"),
        ("|O", [1], b"12345678"),
        ("<U1", [1], b"1234"),
        ("<f4,<f4", [1], b"12345678"),
        ("(2,)<f4", [1], b"12345678"),
        ("nonsense", [1], b"1"),
        ("<M8[s]", [1], b"12345678"),
        ("<f4", "text", b"1234"),
    ],
)
def test_an_array_that_lies_is_refused(dtype: Any, shape: Any, body: bytes) -> None:
    with pytest.raises(WireError):
        CODEC.decode(forged(dtype, shape, body))


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(WireError):
        CODEC.decode(b"\x91" * 100_000 + b"\xc0")


def test_frames_over_a_socket() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send_frame(ours, b"x" * 100_000, time.monotonic() + 5)
        assert bytes(receive_frame(theirs, time.monotonic() + 5)) == b"x" * 100_000
        with pytest.raises(WireTimeout):
            receive_frame(theirs, time.monotonic() + 0.05)
        ours.sendall(struct.pack("<I", 2**32 - 1))
        with pytest.raises(WireError, match="at most"):
            receive_frame(theirs, time.monotonic() + 5)
        ours.sendall(struct.pack("<I", 50) + b"half")
        ours.close()
        with pytest.raises(WireClosed):
            receive_frame(theirs, time.monotonic() + 5)
