"""Benchmarks of the reference implementations against the best library for the same job: `python -m bench.<topic>`."""
