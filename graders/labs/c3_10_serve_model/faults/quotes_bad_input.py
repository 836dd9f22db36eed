"""Keeps FastAPI's own 422, which quotes `NaN` and so becomes a 500."""

FAILS = {"bad_bodies_are_refused"}

# %% predict_route
Feature = Annotated[float, Field(ge=0, le=100, strict=True, allow_inf_nan=False)]
Row = Annotated[list[Feature], Field(min_length=4, max_length=4)]


class PredictBody(BaseModel):
    rows: Annotated[list[Row], Field(min_length=1, max_length=256)] | None = None
    row: Row | None = None


@app.post("/v1/predict")
async def predict(body: PredictBody):
    if (body.row is None) == (body.rows is None):
        raise HTTPException(422, "give exactly one of `row` and `rows`")
    predict_one = app.state.batcher.predict_one
    if body.row is not None:
        return JSONResponse({"predictions": [await predict_one(body.row)]})
    return JSONResponse({"predictions": await asyncio.gather(*map(predict_one, body.rows))})
