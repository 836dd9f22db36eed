"""Finds the right set with argpartition and returns it in whatever order that leaves."""

FAILS = {"topk_ranks_with_ties_by_id"}
# %% topk
@njit
def offer(scores, first_id, ids, best, filled):
    k = ids.shape[0]
    for j in range(scores.shape[0]):
        if filled < k:
            best[filled], ids[filled] = scores[j], first_id + j
            filled += 1
        elif k > 0 and scores[j] > best.min():
            worst = best.argmin()
            best[worst], ids[worst] = scores[j], first_id + j
    return filled


def topk(scores, k):
    k = min(k, len(scores))
    ids = np.argpartition(-scores, k)[:k] if k < len(scores) else np.arange(k)
    return ids, scores[ids]
