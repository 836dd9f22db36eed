"""Takes four queries at a time and leaves the last m mod 4 rows of the result at zero."""

FAILS = {"dot_batch_agrees_with_float64"}
# %% dot_batch
@njit(fastmath=FASTMATH)
def dot_batch(Q, X):
    scores = np.zeros((Q.shape[0], X.shape[0]), np.float32)
    for j in range(X.shape[0]):
        for i in range(0, Q.shape[0] // 4 * 4, 4):
            s0 = s1 = s2 = s3 = np.float32(0)
            for t in range(Q.shape[1]):
                x = X[j, t]
                s0 += Q[i, t] * x
                s1 += Q[i + 1, t] * x
                s2 += Q[i + 2, t] * x
                s3 += Q[i + 3, t] * x
            scores[i, j], scores[i + 1, j], scores[i + 2, j], scores[i + 3, j] = s0, s1, s2, s3
    return scores
