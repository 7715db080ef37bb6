"""Questions that mean the same (G4): only within one tenant, model, system prompt and set of tools, and only if it is asked for."""

import json

import pytest
from cache_world import WIRES, state, until, world
from pydantic import ValidationError
from test_cache_calls import WHO

from gwcore.testing.upstream import Answer
from gwcore_cache.config import CacheConfig

VECTORS = {
    "What is the capital of France?": [1.0, 0.0, 0.0],
    "Capital of France?": [0.999, 0.03, 0.0],
    "What is the capital of Spain?": [0.9, 0.43, 0.0],
    "Tell me a joke": [0.0, 0.0, 1.0],
}
ONE, ALIKE, OTHER = list(VECTORS)[:3]
MODELS = {"m": ["a/m"], "n": ["a/n"], "embed": ["a/embed"]}
SEMANTIC = {"semantic": {"model": "embed", "similarity": 0.98}}


def upstream(seen):
    if seen.target.endswith("/embeddings"):
        text = seen.document["input"]
        text = text[0] if isinstance(text, list) else text
        data = [{"object": "embedding", "index": 0, "embedding": VECTORS[text]}]
        return Answer(
            body=json.dumps(
                {"object": "list", "data": data, "model": "e", "usage": {"prompt_tokens": 3, "total_tokens": 3}}
            ).encode()
        )
    return WIRES["openai.chat"].answer(
        seen.document.get("stream", False), f"about {seen.document['messages'][-1]['content']}"
    )


def said(text, system="be brief", **more):
    return {"messages": [{"role": "system", "content": system}, {"role": "user", "content": text}], **more}


async def ask(w, text, stream=False, **more):
    seen = await w.ask(stream, who=more.pop("who", None), headers=more.pop("headers", ()), **said(text, **more))
    await w.settled()
    await until(lambda: not w.gateway.stack.detached.running)
    return seen


def chats(w):
    return [seen for seen in w.up.requests if not seen.target.endswith("/embeddings")]


async def test_the_same_question_in_other_words():
    async with world(cache=SEMANTIC, models=MODELS) as w:
        w.up.default = upstream
        first = await ask(w, ONE)
        assert state(first) == "miss"
        alike = await ask(w, ALIKE)
        assert (state(alike), alike.body) == ("hit", first.body)
        assert float(alike.headers["x-gwcore-cache-similarity"]) > 0.98
        other = await ask(w, OTHER)
        assert (state(other), b"Spain" in other.body) == ("miss", True)
        assert state(await ask(w, ONE)) == "hit"
        assert len(chats(w)) == 2
        use = next(call.cache for call, _ in w.ended if call.cache and call.cache.status == "hit/semantic")
        assert use.saved.nano == 13_000
        # a stream of the same answer
        streamed = await ask(w, ALIKE, stream=True)
        assert (state(streamed), b"[DONE]" in streamed.body, len(chats(w))) == ("hit", True, 2)


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize(
    "more",
    [
        {"who": "b1"}, {"who": "n1"}, {"model": "n"}, {"system": "be long"}, {"tools": [TOOL]}, {"temperature": 1}, {"seed": 7},
        {"cache": {"namespace": "x"}}, {"response_format": {"type": "json_object"}}, {"x_new": 1},
        {"headers": [("x-gwcore-tags", "eu")]},
    ],
)  # fmt: skip
async def test_nothing_else_may_differ(more):
    async with world(cache=SEMANTIC, models=MODELS, who=WHO) as w:
        w.up.default = upstream
        await ask(w, ONE, who="a1")
        assert state(await ask(w, ALIKE, who="a2")) == "hit"
        assert state(await ask(w, ALIKE, **{"who": "a1", **more})) == "miss"
        assert len(chats(w)) == 2


async def test_nor_may_the_history():
    async with world(cache=SEMANTIC, models=MODELS) as w:
        w.up.default = upstream

        async def talk(before, text):
            turns = [
                {"role": "user", "content": before},
                {"role": "assistant", "content": "ok"},
                {"role": "user", "content": text},
            ]
            seen = await w.ask(messages=turns)
            await w.settled()
            await until(lambda: not w.gateway.stack.detached.running)
            return state(seen)

        assert [await talk("a", ONE), await talk("a", ALIKE), await talk("b", ALIKE)] == ["miss", "hit", "miss"]


async def test_control_a_partition_without_the_system_prompt_leaks(monkeypatch):
    from gwcore_cache.key import Keyer

    exact = Keyer.partition

    def careless(self, call, scope, namespace, by):
        found = exact(self, call, scope, namespace, by)
        return found and (b"p" * 32, found[1])

    monkeypatch.setattr(Keyer, "partition", careless)
    async with world(cache=SEMANTIC, models=MODELS, who=WHO) as w:
        w.up.default = upstream
        await ask(w, ONE, who="a1")
        assert state(await ask(w, ALIKE, who="b1", system="be long")) == "hit"


@pytest.mark.parametrize("header", ["x-gwcore-cache-similarity", "x-bf-cache-threshold", "x-gwcore-cache-threshold"])
async def test_no_request_lowers_the_similarity(header):
    async with world(cache=SEMANTIC, models=MODELS) as w:
        w.up.default = upstream
        await ask(w, ONE)
        assert state(await ask(w, OTHER, headers=[(header, "0.1")])) == "miss"
        assert (await w.ask(cache={"similarity": 0.1})).status == 400


async def test_wishes_hold_here_too():
    async with world(cache=SEMANTIC, models=MODELS) as w:
        w.up.default = upstream
        await ask(w, ONE)
        for wish in ("no-cache", "no-store", "max-age=0"):
            assert state(await ask(w, ALIKE, headers=[("cache-control", wish)])) != "hit"
            from gwcore_cache.shelf import Wanted

            await w.plugin.home.purge(Wanted())
            await ask(w, ONE)
        assert (await ask(w, ALIKE, headers=[("cache-control", "only-if-cached")])).status == 504


async def test_off_by_default():
    async with world(models=MODELS) as w:
        w.up.default = upstream
        await ask(w, ONE)
        assert state(await ask(w, ALIKE)) == "miss"
        assert len(w.up.requests) == 2


@pytest.mark.parametrize(
    "answer", [Answer(500, body=b"{}"), Answer(body=b'{"data": []}'), Answer(body=b'{"data":[{"embedding":[0,0]}]}')]
)
async def test_without_an_embedding_it_is_a_miss(answer):
    async with world(cache=SEMANTIC, models=MODELS) as w:
        w.up.default = lambda seen: answer if seen.target.endswith("/embeddings") else upstream(seen)
        for text in (ONE, ALIKE):
            assert (await ask(w, text)).status == 200
        assert len(chats(w)) == 2
        assert w.plugin.counts["not_embedded"] >= 1
        assert state(await ask(w, ONE)) == "hit"


async def test_the_embedding_is_paid_for_once_and_by_who_asks():
    async with world(cache=SEMANTIC, models=MODELS, who=WHO) as w:
        w.up.default = upstream
        await ask(w, ONE, who="a1")
        await ask(w, ALIKE, who="a1")
        await ask(w, ALIKE, who="a1")
        texts = [seen.document["input"] for seen in w.up.requests if seen.target.endswith("/embeddings")]
        assert texts == [ONE, ALIKE]
        paid = [
            call for call, outcome in w.ended if call.operation == "embeddings" and outcome.cost and outcome.cost.nano
        ]
        assert {call.principal.id for call in paid} == {"a1"}
        assert len(paid) == 2


async def test_a_purge_forgets_it():
    async with world(cache=SEMANTIC, models=MODELS, who=WHO) as w:
        w.up.default = upstream
        from gwcore_cache.shelf import Wanted

        await ask(w, ONE, who="a1")
        await w.plugin.home.purge(Wanted(scope="organisation:o1"))
        assert state(await ask(w, ALIKE, who="a1")) == "miss"


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_in_a_store_and_sealed(kind, redis_url, tmp_path):
    import uuid

    url = redis_url if kind == "redis" else f"sqlite:///{tmp_path}/cache.db"
    cache = {
        **SEMANTIC,
        "store": "hot",
        "timeout": 5,
        "namespace": f"t{uuid.uuid4().hex}",
        "seal": "kX9#mQ2$vL7@pR4!wT6&zB1^cN8*fD3%",
    }
    async with world(cache=cache, stores={"hot": url}, models=MODELS) as w:
        w.up.default = upstream
        await ask(w, ONE)
        assert state(await ask(w, ALIKE)) == "hit"
        assert state(await ask(w, OTHER)) == "miss"


@pytest.mark.parametrize("other", [{"model": "embed2"}, {"dimensions": 64}])
async def test_what_another_embedding_model_said_is_not_compared(other):
    """Vectors of as many numbers, in a store that outlives a reload."""
    async with world(cache=SEMANTIC, models={**MODELS, "embed2": ["a/other"]}) as w:
        w.up.default = upstream
        await ask(w, ONE)
        assert state(await ask(w, ALIKE)) == "hit"
        w.plugin.nearest._config = w.plugin.nearest._config.model_copy(update=other)
        assert state(await ask(w, ALIKE)) == "miss"


def test_the_operators_floor():
    with pytest.raises(ValidationError):
        CacheConfig.model_validate({"semantic": {"model": "e", "similarity": 0.5}})
