"""Each bucket counts its own observations only."""

FAILS = {"histogram_agrees_with_numpy"}

# %% histogram
class Histogram:
    def __init__(self, buckets):
        self.buckets = [float(bound) for bound in buckets]
        if not all(np.isfinite(self.buckets)) or any(low >= high for low, high in itertools.pairwise(self.buckets)):
            raise ValueError("buckets must be finite and strictly ascending")
        self.counts = [0] * (len(self.buckets) + 1)
        self.sum = 0.0

    def observe(self, x):
        self.counts[bisect_left(self.buckets, x)] += 1
        self.sum += x

    def render(self, name):
        lines = [f"# TYPE {name} histogram"]
        total = 0
        for bound, count in zip([*self.buckets, "+Inf"], self.counts):
            total += count
            lines.append(f'{name}_bucket{{le="{bound}"}} {count}')
        lines += [f"{name}_sum {float(self.sum)!r}", f"{name}_count {total}"]
        return "\n".join(lines) + "\n"
