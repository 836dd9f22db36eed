"""The naive server: plain FastAPI, one call of the model for each row, no batching, no metrics.

`MicroBatcher` and `app` have the names that the lab asks for. Nothing here waits and nothing is shared:
right, simple, and as slow as one call a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel

LABELS = ("setosa", "versicolor", "virginica")
WEIGHTS = np.array([[-0.424, 0.535, -0.11], [0.966, -0.32, -0.646], [-2.516, -0.207, 2.723], [-1.082, -0.943, 2.025]])
BIAS = np.array([9.855, 2.234, -12.089])


def classify(rows: list[list[float]]) -> list[dict[str, Any]]:
    """Predict rows (a list of n lists of 4 numbers); return n dicts {"label": str, "probabilities": [3 floats]}."""
    logits = np.asarray(rows, dtype=np.float64) @ WEIGHTS + BIAS
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = odds / odds.sum(axis=1, keepdims=True)
    return [{"label": LABELS[int(p.argmax())], "probabilities": p.tolist()} for p in probabilities]


class MicroBatcher:
    """Batches nothing: each request is a call of `predict` with one row."""

    def __init__(self, predict: Callable[[list[Any]], list[Any]], max_batch: int, max_wait_ms: float) -> None:
        self.predict = predict

    async def predict_one(self, row: Any) -> Any:
        """Return the output of `row`."""
        return self.predict([row])[0]

    async def drain(self) -> None:
        """Nothing ever waits here."""


class PredictBody(BaseModel):
    """One row or several, not validated any further."""

    rows: list[list[float]] | None = None
    row: list[float] | None = None


app = FastAPI()
batcher = MicroBatcher(classify, max_batch=1, max_wait_ms=0)


@app.get("/health")
async def health() -> dict[str, str]:
    """Say that the server is up."""
    return {"status": "ok"}


@app.post("/v1/predict")
async def predict(body: PredictBody) -> dict[str, Any]:
    """Predict each row by itself."""
    rows = body.rows if body.rows is not None else [body.row]
    return {"predictions": [await batcher.predict_one(row) for row in rows]}
