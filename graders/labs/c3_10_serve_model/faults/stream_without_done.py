"""The stream just stops after the last chunk."""

FAILS = {"stream_equals_the_whole"}

# %% text_routes
serial = itertools.count(1)
MaxTokens = Annotated[int, Field(ge=1, le=4096, strict=True)]


class CompletionBody(BaseModel):
    model: str
    prompt: str
    max_tokens: MaxTokens = 16
    stream: bool = False


class Message(BaseModel):
    role: str
    content: str


class ChatBody(BaseModel):
    model: str
    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: MaxTokens = 16
    stream: bool = False


def completion_choice(text, finish_reason, whole):
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}


def chat_choice(text, finish_reason, whole):
    message = {"role": "assistant", "content": text} if text or whole else {}
    return {"index": 0, "message" if whole else "delta": message, "finish_reason": finish_reason}


def answer(body, prompt, id_prefix, whole_object, chunk_object, choice):
    if body.model != "bigram":
        error = {"message": "there is no such model", "type": "invalid_request_error", "param": None, "code": "model_not_found"}
        return JSONResponse({"error": error}, status_code=404)
    head = {"id": f"{id_prefix}-{next(serial)}", "object": whole_object, "created": int(time.time()), "model": body.model}
    if body.stream:
        return StreamingResponse(events(prompt, body.max_tokens, {**head, "object": chunk_object}, choice), media_type="text/event-stream")
    tokens = list(itertools.islice(continue_text(prompt), body.max_tokens))
    n_prompt = len(prompt.split())
    usage = {"prompt_tokens": n_prompt, "completion_tokens": len(tokens), "total_tokens": n_prompt + len(tokens)}
    return JSONResponse({**head, "choices": [choice("".join(tokens), reason_for(tokens[-1]), True)], "usage": usage})


def reason_for(last_token):
    return "stop" if last_token.endswith(".") else "length"


async def events(prompt, max_tokens, head, choice):
    for token in itertools.islice(continue_text(prompt), max_tokens):
        yield event({**head, "choices": [choice(token, None, False)]})
    yield event({**head, "choices": [choice("", reason_for(token), False)]})


def event(payload):
    return f"data: {json.dumps(payload)}\n\n"


@app.get("/v1/models")
async def models():
    rows = [{"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "course"} for name in ("bigram", "iris")]
    return {"object": "list", "data": rows}


@app.post("/v1/completions")
async def completions(body: CompletionBody):
    return answer(body, body.prompt, "cmpl", "text_completion", "text_completion", completion_choice)


@app.post("/v1/chat/completions")
async def chat_completions(body: ChatBody):
    prompt = " ".join(message.content for message in body.messages)
    return answer(body, prompt, "chatcmpl", "chat.completion", "chat.completion.chunk", chat_choice)
