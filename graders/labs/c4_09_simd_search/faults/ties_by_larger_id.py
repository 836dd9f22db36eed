"""Reverses an ascending sort: of equal scores the larger id comes first, and may push the smaller one out."""

FAILS = {"topk_ranks_with_ties_by_id"}
# %% topk
@njit
def offer(scores, first_id, ids, best, filled):
    for j in range(scores.shape[0]):
        place = filled
        while place > 0 and best[place - 1] <= scores[j]:
            place -= 1
        if place < ids.shape[0]:
            filled = min(filled + 1, ids.shape[0])
            for later in range(filled - 1, place, -1):
                best[later], ids[later] = best[later - 1], ids[later - 1]
            best[place], ids[place] = scores[j], first_id + j
    return filled


def topk(scores, k):
    ids = np.argsort(scores, kind="stable")[::-1][:k]
    return ids, scores[ids]
