"""Takes four queries at a time but keeps every sum strict: four chains overlap, three times the speed, and still one number an instruction."""

FAILS = {"dot_batch_is_vectorised", "dot_batch_reuses_what_it_loads", "cosine_topk_is_blocked"}
# %% permission
FASTMATH = set()
