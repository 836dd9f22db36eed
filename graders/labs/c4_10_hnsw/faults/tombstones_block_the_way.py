"""Does not walk through deleted ids: what lies behind them is lost."""

FAILS = {"search_layer_finds_the_nearest"}

# %% search_layer
def search_layer(distance_to, entry_points, ef, neighbors, deleted=frozenset()):
    visited = set(entry_points)
    candidates = list(zip(distance_to(entry_points).tolist(), entry_points))
    heapq.heapify(candidates)
    nearest = [(-d, i) for d, i in sorted(candidates) if i not in deleted][:ef]
    heapq.heapify(nearest)
    while candidates:
        d, current = heapq.heappop(candidates)
        if len(nearest) >= ef and d > -nearest[0][0]:
            break
        unseen = [i for i in neighbors[current] if i not in visited and i not in deleted]
        if not unseen:
            continue
        visited.update(unseen)
        for d, i in zip(distance_to(unseen).tolist(), unseen):
            if len(nearest) < ef or d < -nearest[0][0]:
                heapq.heappush(candidates, (d, i))
                if i not in deleted:
                    heapq.heappush(nearest, (-d, i))
                    if len(nearest) > ef:
                        heapq.heappop(nearest)
    return sorted((-d, i) for d, i in nearest)
