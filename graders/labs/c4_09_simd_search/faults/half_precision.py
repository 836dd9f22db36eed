"""Rounds the vectors to float16 before multiplying them: BLAS makes it fast, three decimals are all that is left."""

FAILS = {"dot_batch_agrees_with_float64", "dot_agrees_with_float64"}
# %% dot
@njit
def _kernel(a, b):
    total = np.float32(0)
    for t in range(a.shape[0]):
        total += a[t] * b[t]
    return total


def _half(array):
    return array.astype(np.float16).astype(np.float32)


def dot(a, b):
    return _kernel(_half(a), _half(b))
# %% dot_batch
def dot_batch(Q, X):
    return _half(Q) @ _half(X).T
# %% cosine_batch
def inverse_norms(X):
    norms = np.linalg.norm(X, axis=1)
    return np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)


def cosine_batch(Q, X):
    return np.clip(dot_batch(Q, X) * inverse_norms(Q)[:, None] * inverse_norms(X), -1, 1)
# %% cosine_topk
def cosine_topk(Q, X, k):
    cosines = cosine_batch(Q, X)
    ids = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return ids, np.take_along_axis(cosines, ids, axis=1)
