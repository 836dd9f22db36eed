"""Offers every block with ids from 0: right as long as the rows fit one block."""

FAILS = {"cosine_topk_finds_the_nearest"}
# %% cosine_topk
@njit(fastmath=FASTMATH)
def cosine_topk(Q, X, k):
    k = min(k, X.shape[0])
    ids, best = np.empty((Q.shape[0], k), np.int64), np.empty((Q.shape[0], k), np.float32)
    filled = np.zeros(Q.shape[0], np.int64)
    for start in range(0, X.shape[0], 512):
        cosines = cosine_batch(Q, X[start : start + 512])
        for i in range(Q.shape[0]):
            filled[i] = offer(cosines[i], 0, ids[i], best[i], filled[i])
    return ids, best
