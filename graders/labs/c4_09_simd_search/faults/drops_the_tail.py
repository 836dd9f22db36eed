"""Works in whole vectors of eight numbers and forgets the last d mod 8: fast, and right whenever 8 divides d."""

FAILS = {"dot_batch_agrees_with_float64"}
# %% dot_batch
@njit(fastmath=FASTMATH)
def dot_batch(Q, X):
    scores = np.empty((Q.shape[0], X.shape[0]), np.float32)
    for j in range(X.shape[0]):
        for i in range(Q.shape[0]):
            total = np.float32(0)
            for t in range(Q.shape[1] // 8 * 8):
                total += Q[i, t] * X[j, t]
            scores[i, j] = total
    return scores
