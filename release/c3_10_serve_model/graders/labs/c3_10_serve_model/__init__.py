"""Checks of c3_10_serve_model: a histogram, a micro-batcher and the HTTP routes of a model server."""

REQUIRES = ["fastapi>=0.120", "httpx>=0.28", "prometheus-client>=0.22", "aiohttp>=3.12", "uvicorn>=0.38"]
