"""Hypothesis strategies that the labs share: finite float32 data with zeros, repeats and odd sizes."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

ODD_SIZES = (0, 1, 7, 8, 9, 127, 128, 129)

Size = int | st.SearchStrategy[int]


def sizes(*, smallest: int = 0, largest: int = 129) -> st.SearchStrategy[int]:
    """Lengths around the widths of vector registers, where tails go wrong, and others in between."""
    odd = [size for size in ODD_SIZES if smallest <= size <= largest]
    return st.one_of(st.sampled_from(odd), st.integers(smallest, largest)) if odd else st.integers(smallest, largest)


def floats32(bound: float = 100.0) -> st.SearchStrategy[float]:
    """Finite float32 values in [−bound, bound], without subnormals."""
    return st.floats(-bound, bound, width=32, allow_subnormal=False)


def _size(draw: st.DrawFn, size: Size) -> int:
    return size if isinstance(size, int) else draw(size)


@st.composite
def vectors(draw: st.DrawFn, d: Size, bound: float = 100.0) -> np.ndarray:
    """Vectors of shape (d,), float32."""
    return draw(hnp.arrays(np.float32, (_size(draw, d),), elements=floats32(bound)))


@st.composite
def matrices(draw: st.DrawFn, n: Size, d: Size, bound: float = 100.0) -> np.ndarray:
    """Matrices of shape (n, d), float32; `n` and `d` are ints or strategies of ints."""
    shape = (_size(draw, n), _size(draw, d))
    return draw(hnp.arrays(np.float32, shape, elements=floats32(bound)))


@st.composite
def queries_and_rows(draw: st.DrawFn, m: Size, n: Size, d: Size, bound: float = 100.0) -> tuple[np.ndarray, np.ndarray]:
    """A pair of shapes (m, d) and (n, d) that share d, float32."""
    dimension = _size(draw, d)
    return draw(matrices(m, dimension, bound)), draw(matrices(n, dimension, bound))
