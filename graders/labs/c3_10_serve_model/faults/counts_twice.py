"""A request is counted when its answer starts and again when it ends."""

FAILS = {"metrics_count_every_request_once"}

# %% application
COUNTED_PATHS = {"/v1/models", "/v1/predict", "/v1/completions", "/v1/chat/completions"}

request_counts = Counter()
request_seconds = Histogram([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5])
batch_sizes = Histogram([1, 2, 4, 8, 16, 32])


def classify_counted(rows):
    batch_sizes.observe(len(rows))
    return classify(rows)


@asynccontextmanager
async def lifespan(app):
    app.state.batcher = MicroBatcher(classify_counted, max_batch=32, max_wait_ms=0)
    yield
    await app.state.batcher.drain()


class CountRequests:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" or scope["path"] not in COUNTED_PATHS:
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def send_and_remember(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                request_counts[scope["path"], status] += 1
            await send(message)

        try:
            await self.app(scope, receive, send_and_remember)
        finally:
            request_counts[scope["path"], status] += 1
            request_seconds.observe(time.perf_counter() - started)


app = FastAPI(lifespan=lifespan)
app.add_middleware(CountRequests)


@app.get("/health")
async def health():
    return {"status": "ok"}


@app.get("/metrics")
async def metrics():
    lines = ["# TYPE requests_total counter"]
    lines += [f'requests_total{{path="{path}",status="{status}"}} {n}' for (path, status), n in request_counts.items()]
    text = "\n".join(lines) + "\n" + request_seconds.render("request_duration_seconds") + batch_sizes.render("predict_batch_size")
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")
