"""Stores the vectors and compares every query with all of them: perfect recall, no graph."""

FAILS = {"layer_0_is_connected", "searches_measure_few_distances"}

# %% hnsw
class HNSW(Graph):
    def add(self, vector):
        level = random_level(1.0 - self.rng.random(), self.M)
        new = self.new_id(vector, level)
        if self.entry_point is None or level > self.levels[self.entry_point]:
            self.entry_point = new
        return new

    def search(self, query, k, ef):
        n = len(self.levels)
        if n == len(self.deleted):
            return [], []
        distances = np.array(self.distance(np.asarray(query, dtype=np.float32), self.vectors[:n]))
        distances[list(self.deleted)] = np.inf
        ids = np.argsort(distances)[: min(k, n - len(self.deleted))]
        return ids.tolist(), distances[ids].tolist()

    def delete(self, id):
        if not 0 <= id < len(self.levels) or id in self.deleted:
            raise KeyError(id)
        self.deleted.add(id)
