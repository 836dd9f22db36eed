"""Tosses a coin for the level, 0 or 1: half of the vectors on layer 1, and no layer above."""

FAILS = {"levels_of_an_index_are_geometric"}

# %% hnsw
class HNSW(Graph):
    def descend(self, distance_to, level):
        entry = [self.entry_point]
        for layer in range(self.levels[self.entry_point], level, -1):
            entry = [search_layer(distance_to, entry, 1, self.neighbors[layer])[0][1]]
        return entry

    def link(self, node, new, layer):
        links = self.neighbors[layer][node]
        links.append(new)
        if len(links) > self.max_degree(layer):
            distances = self.distance_to(self.vectors[node])(links).tolist()
            candidates = sorted(zip(distances, links))
            self.neighbors[layer][node] = select_neighbors_heuristic(candidates, self.max_degree(layer), self.vectors, self.distance)

    def add(self, vector):
        """Insert `vector`, shape (dim,), and return its id."""
        level = int(self.rng.integers(2))
        new = self.new_id(vector, level)
        if self.entry_point is None:
            self.entry_point = new
            return new
        top = self.levels[self.entry_point]
        distance_to = self.distance_to(vector)
        entry = self.descend(distance_to, level)
        for layer in range(min(level, top), -1, -1):
            found = search_layer(distance_to, entry, self.ef_construction, self.neighbors[layer])
            chosen = select_neighbors_heuristic(found, self.M, self.vectors, self.distance)
            self.neighbors[layer][new] = chosen
            for node in chosen:
                self.link(node, new, layer)
            entry = [i for _, i in found]
        if level > top:
            self.entry_point = new
        return new

    def search(self, query, k, ef):
        """Return the ids of the `k` nearest and their squared distances, two lists, nearest first."""
        if self.entry_point is None:
            return [], []
        distance_to = self.distance_to(query)
        entry = self.descend(distance_to, 0)
        found = search_layer(distance_to, entry, max(ef, k), self.neighbors[0], self.deleted)[:k]
        return [i for _, i in found], [d for d, _ in found]

    def delete(self, id):
        """Never return `id` again; raise KeyError if it is not there."""
        if not 0 <= id < len(self.levels) or id in self.deleted:
            raise KeyError(id)
        self.deleted.add(id)
