"""The bodies that the checks send: rows, prompts, and everything that is neither."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from graders.labs.c3_10_serve_model.oracle import SUCCESSORS

features = st.one_of(st.floats(0, 100, allow_subnormal=False), st.sampled_from([0, 100, 5, 1.5]))
iris_rows = st.lists(st.lists(features, min_size=4, max_size=4), min_size=1, max_size=8)

not_a_feature = st.sampled_from(
    ["null", '"a"', "NaN", "Infinity", "-Infinity", "1e999", "-1", "100.5", "1" + "0" * 400, "[1]", "{}", '"\\ud800"']
)
not_rows = st.one_of(
    st.sampled_from(
        ["[]", "[[]]", "{}", "3", '"rows"', "[null]", "[[1, 2, 3]]", "[[1, 2, 3, 4, 5]]", "[[1, 2, 3, 4], 5]", "[[1, 2, 3, 4], [1]]"]
    ),
    st.tuples(not_a_feature, st.integers(0, 3)).map(
        lambda pair: "[[" + ", ".join(pair[0] if k == pair[1] else "1" for k in range(4)) + "]]"
    ),
).map(lambda rows: f'{{"rows": {rows}}}')
not_json = st.sampled_from(["", "{", "]", "null", "[]", "12", "NaN", '"rows"', "{}", "[" * 3000, '{"rows"}', "rows=1"])
not_predict = st.one_of(not_json, not_rows, st.just('{"row": [1, 2, 3, 4], "rows": [[1, 2, 3, 4]]}'), st.just('{"row": [1, 2, 3]}'))
not_max_tokens = st.sampled_from(["0", "-1", '"x"', "1.5", "4097", "NaN", "1" + "0" * 30]).map(lambda n: f', "max_tokens": {n}')
not_completion = st.one_of(
    not_json,
    st.sampled_from(['{"model": "bigram"}', '{"prompt": "a"}', '{"model": "bigram", "prompt": 5}', '{"model": "bigram", "prompt": null}']),
    not_max_tokens.map(lambda extra: f'{{"model": "bigram", "prompt": "a"{extra}}}'),
)
not_messages = st.sampled_from(
    ["[]", "null", '"hi"', "[1]", "[{}]", '[{"role": "user"}]', '[{"content": "a"}]', '[{"role": "user", "content": 7}]']
)
not_chat = st.one_of(
    not_json,
    not_messages.map(lambda messages: f'{{"model": "bigram", "messages": {messages}}}'),
    not_max_tokens.map(lambda extra: f'{{"model": "bigram", "messages": [{{"role": "user", "content": "a"}}]{extra}}}'),
)
bad_requests = st.lists(
    st.one_of(
        st.tuples(st.just("/v1/predict"), not_predict),
        st.tuples(st.just("/v1/completions"), not_completion),
        st.tuples(st.just("/v1/chat/completions"), not_chat),
    ),
    min_size=1,
    max_size=12,
)
# Whether these are mistakes may be argued; that they are no reason for a 500 may not.
ODD_REQUESTS = (
    ("/v1/predict", b"\xff\xfe{}"),
    ("/v1/predict", b'{"row": [true, false, 1, 1]}'),
    ("/v1/completions", b'{"model": "bigram", "prompt": "\\ud800"}'),
    ("/v1/completions", b'{"model": "\\ud800", "prompt": ""}'),
    ("/v1/chat/completions", b'{"model": "bigram", "messages": [{"role": "\\udfff", "content": "a"}]}'),
)

words = st.lists(st.sampled_from([*SUCCESSORS, ".", "why", "Größe"]), max_size=6).map(" ".join)
text_requests = st.lists(st.tuples(words, st.one_of(st.none(), st.integers(1, 8))), min_size=1, max_size=4)


def text_body(prompt: str, max_tokens: int | None, chat: bool) -> dict[str, Any]:
    """A request body whose whole prompt is `prompt`; a chat spreads it over two messages where it can."""
    body: dict[str, Any] = {"model": "bigram"} | ({} if max_tokens is None else {"max_tokens": max_tokens})
    if not chat:
        return body | {"prompt": prompt}
    head, _, tail = prompt.partition(" ")
    turns = [("system", head), ("user", tail)] if tail else [("user", prompt)]
    return body | {"messages": [{"role": role, "content": content} for role, content in turns]}
