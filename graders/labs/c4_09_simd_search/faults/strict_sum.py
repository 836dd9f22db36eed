"""Leaves the sums strict: every result is right, and no loop over floats is vectorised."""

FAILS = {"dot_batch_is_vectorised", "dot_batch_reuses_what_it_loads", "cosine_topk_is_blocked"}
# %% permission
FASTMATH = set()
