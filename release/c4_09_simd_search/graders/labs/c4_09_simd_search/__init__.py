"""The checks of the lab "SIMD similarity search"."""
