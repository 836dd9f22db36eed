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
        ids = [i for i in range(len(self.levels)) if i not in self.deleted]
        if not ids:
            return [], []
        found = sorted(zip(self.distance_to(query)(ids).tolist(), ids))[:k]
        return [i for _, i in found], [d for d, _ in found]

    def delete(self, id):
        if not 0 <= id < len(self.levels) or id in self.deleted:
            raise KeyError(id)
        self.deleted.add(id)
