"""Divides by log2(M) in place of ln(M): too few vectors on the upper layers."""

FAILS = {"random_level_follows_the_formula"}

# %% random_level
def random_level(u, M):
    return math.floor(-math.log(u) / math.log2(M))
