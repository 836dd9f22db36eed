"""The checks of the lab "HNSW: the graph behind vector search"."""
