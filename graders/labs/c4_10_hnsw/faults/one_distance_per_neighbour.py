"""Right, but measures one id a call, in the walk and in the heuristic: the slow-but-right solution."""

FAILS = {"build_is_fast", "search_is_fast", "search_layer_asks_once_for_all_links_of_a_node"}

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
        unseen = [i for i in neighbors[current] if i not in visited]
        if not unseen:
            continue
        visited.update(unseen)
        for i in unseen:
            d = float(distance_to([i])[0])
            if len(nearest) < ef or d < -nearest[0][0]:
                heapq.heappush(candidates, (d, i))
                if i not in deleted:
                    heapq.heappush(nearest, (-d, i))
                    if len(nearest) > ef:
                        heapq.heappop(nearest)
    return sorted((-d, i) for d, i in nearest)

# %% select_neighbors_heuristic
def select_neighbors_heuristic(candidates, M, vectors, distance=l2_squared):
    chosen = []
    for d, i in candidates:
        if len(chosen) == M:
            break
        if all(d <= distance(vectors[i], vectors[[j]])[0] for j in chosen):
            chosen.append(i)
    return chosen
