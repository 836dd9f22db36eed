"""After one exception of `predict` every later request raises it again."""

FAILS = {"batcher_contains_a_failure"}

# %% micro_batcher
class MicroBatcher:
    def __init__(self, predict, max_batch, max_wait_ms):
        self.predict = predict
        self.max_batch = max_batch
        self.max_wait_s = max_wait_ms / 1000
        self.waiting = []
        self.timer = None
        self.draining = False
        self.broken = None

    async def predict_one(self, row):
        if self.broken is not None:
            raise self.broken
        if self.draining:
            raise RuntimeError("the batcher is draining and takes no new requests")
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self.waiting.append((row, future))
        if len(self.waiting) >= self.max_batch:
            self.flush()
        elif self.timer is None:
            self.timer = loop.call_later(self.max_wait_s, self.flush)
        return await future

    async def drain(self):
        self.draining = True
        self.flush()

    def flush(self):
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        batch = [(row, future) for row, future in self.waiting if not future.done()]
        self.waiting = []
        if not batch:
            return
        try:
            outputs = self.predict([row for row, _ in batch])
            if len(outputs) != len(batch):
                raise ValueError(f"predict returned {len(outputs)} outputs for {len(batch)} rows")
        except Exception as error:
            self.broken = error
            for _, future in batch:
                future.set_exception(error)
            return
        for (_, future), output in zip(batch, outputs):
            future.set_result(output)
