"""Sums the products of codes in int16: three products of large codes are already too many."""

FAILS = {"dot_int8_is_exact"}
# %% int8
def quantize_int8(X):
    scales = (np.abs(X).max(axis=1, initial=0) / 127).astype(np.float32)
    return np.rint(X / np.where(scales > 0, scales, 1)[:, None]).astype(np.int8), scales


def dot_int8(q_codes, q_scale, codes, scales):
    total = codes.astype(np.int16) @ q_codes.astype(np.int16)
    return (total * np.float64(q_scale) * scales).astype(np.float32)
