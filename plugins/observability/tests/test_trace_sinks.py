"""otel, langfuse, helicone: what their endpoints receive, decoded and compared with what was served."""

import asyncio
import base64
import gzip
import json
from decimal import Decimal
from pathlib import Path

import httpx2
import orjson
import pytest
import structlog
from obs_world import ask, gateway, ok, plugin_of, streamed
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from gwcore.testing.conformance import PluginConformance
from gwcore.testing.upstream import Answer, FakeUpstream
from gwcore.units import exact_usd
from gwcore_observability.helicone import Helicone
from gwcore_observability.langfuse import Langfuse
from gwcore_observability.otel import Otel

DOCS = Path(__file__).parent.parent / "docs"
PAIR = {"public_key": "pk-lf-1", "secret_key": "sk-lf-secret"}
NOWHERE = "http://127.0.0.1:9"


class TestOtel(PluginConformance):
    kind = Otel
    config = {"endpoint": NOWHERE, "outbox": {"flush": 0}}
    readme = DOCS / "otel.md"


class TestLangfuse(PluginConformance):
    kind = Langfuse
    config = {**PAIR, "base_url": NOWHERE, "outbox": {"flush": 0}}
    readme = DOCS / "langfuse.md"


class TestHelicone(PluginConformance):
    kind = Helicone
    config = {"api_key": "sk-helicone-1", "base_url": NOWHERE, "outbox": {"flush": 0}}
    readme = DOCS / "helicone.md"


def plain(value):
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(one) for one in value.array_value.values]
    return getattr(value, kind)


class Collector(FakeUpstream):
    """An OTLP/HTTP endpoint that decodes what it is sent, as the specification says."""

    def bodies(self, path, kind):
        for seen in self.requests:
            if seen.target == path:
                assert seen.header("content-type") == "application/x-protobuf"
                yield kind.FromString(gzip.decompress(seen.body))

    @property
    def spans(self):
        return {
            span.span_id.hex(): (span, {a.key: plain(a.value) for a in span.attributes})
            for path in ("/v1/traces", "/api/public/otel/v1/traces")
            for body in self.bodies(path, ExportTraceServiceRequest)
            for resource in body.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        }

    async def until(self, count, within=10.0):
        async with asyncio.timeout(within):
            while len(self.spans) < count:
                await asyncio.sleep(0.01)


def sink(name, folder, **settings):
    outbox = {"folder": str(folder) if folder else None, "backoff": "200ms"}
    return f"  - {name}: " + orjson.dumps({"outbox": outbox, **settings}).decode()


TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_a_call_and_its_attempt_are_spans_of_the_clients_trace(tmp_path):
    async with FakeUpstream(ok()) as up, Collector() as place:
        async with gateway(up, sink("otel", tmp_path, endpoint=place.url)) as (url, _):
            answer = await ask(url, headers={"traceparent": TRACEPARENT, "x-session-id": "s-1"})
            await place.until(2)
        (server, call), (client, attempt) = sorted(place.spans.values(), key=lambda pair: pair[0].kind)
    assert server.trace_id.hex() == client.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert server.parent_span_id.hex() == "b7ad6b7169203331" and client.parent_span_id == server.span_id
    assert call["gwcore.request.id"] == answer.headers["x-gwcore-request-id"]
    assert call["gen_ai.conversation.id"] == "s-1" and call["http.response.status_code"] == 200
    assert attempt["gen_ai.request.model"] == "m" and attempt["gwcore.upstream"] == "up"
    assert (attempt["server.address"], f":{attempt['server.port']}") == ("127.0.0.1", up.url[len("http://127.0.0.1") :])
    assert attempt["gen_ai.usage.input_tokens"] == 11 and attempt["gen_ai.usage.output_tokens"] == 7
    assert attempt["gen_ai.usage.cache_read.input_tokens"] == 4
    # 7 at $1, 4 at $0.5, 7 at $2 a million
    assert attempt["gwcore.cost.nano_usd"] == call["gwcore.cost.nano_usd"] == 7000 + 2000 + 14000
    assert server.start_time_unix_nano <= client.start_time_unix_nano <= client.end_time_unix_nano
    assert client.end_time_unix_nano <= server.end_time_unix_nano
    # W3C out: the upstream was told the attempt's span, not the client's
    assert up.requests[0].header("traceparent") == f"00-{client.trace_id.hex()}-{client.span_id.hex()}-01"


async def test_every_attempt_is_a_span_and_a_traceparent_of_its_own(tmp_path):
    stack = "stack: [{fallback: {models: {fast: {fallbacks: [up/n]}}, retry: {per_target: 1}}}]"
    async with FakeUpstream(Answer(503), ok()) as up, Collector() as place:
        async with gateway(up, sink("otel", tmp_path, endpoint=place.url), stack=stack) as (url, _):
            assert (await ask(url)).status_code == 200
            await place.until(3)
        spans = list(place.spans.values())
    failed, good = sorted((pair for pair in spans if pair[0].kind == 3), key=lambda pair: pair[0].start_time_unix_nano)
    assert failed[1]["http.response.status_code"] == 503 and failed[0].status.code == 2
    assert good[1]["gen_ai.request.model"] == "n" and good[0].status.code == 0
    told = [seen.header("traceparent").split("-")[2] for seen in up.requests]
    assert told == [failed[0].span_id.hex(), good[0].span_id.hex()]


async def test_nothing_is_told_upstream_where_it_shall_not(tmp_path):
    async with FakeUpstream(ok()) as up, Collector() as place:
        async with gateway(up, sink("otel", tmp_path, endpoint=place.url, propagate=False)) as (url, _):
            await ask(url, headers={"traceparent": TRACEPARENT})
            await place.until(2)
        assert not up.requests[0].header("traceparent")


async def test_metrics_are_histograms_of_the_attempts(tmp_path):
    async with FakeUpstream(ok(), ok(), streamed()) as up, Collector() as place:
        async with gateway(up, sink("otel", tmp_path, endpoint=place.url)) as (url, _):
            for stream in (False, False, True):
                await ask(url, stream=stream)
            await place.until(6)
        metrics = [
            metric
            for body in place.bodies("/v1/metrics", ExportMetricsServiceRequest)
            for resource in body.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]
    points = {}
    for metric in metrics:
        assert metric.histogram.aggregation_temporality == 1  # delta
        for point in metric.histogram.data_points:
            kind = {a.key: plain(a.value) for a in point.attributes}.get("gen_ai.token.type", "")
            count, total = points.get((metric.name, kind), (0, 0))
            points[metric.name, kind] = (count + point.count, total + point.sum)
            assert sum(point.bucket_counts) == point.count
    assert points["gen_ai.client.token.usage", "input"] == (3, 33)
    assert points["gen_ai.client.token.usage", "output"] == (3, 21)
    assert points["gen_ai.client.operation.duration", ""][0] == 3
    assert points["gen_ai.client.operation.time_to_first_chunk", ""][0] == 1


async def test_a_collector_that_takes_no_metrics_has_each_span_once(tmp_path):
    """Jaeger has no /v1/metrics: its 404 sent the spans again, for ever."""

    def jaeger(seen):
        return Answer(404 if seen.target == "/v1/metrics" else 200, body=b"")

    async with FakeUpstream() as up, Collector() as place:
        up.default, place.default = ok(), jaeger
        with structlog.testing.capture_logs() as logged:
            async with gateway(up, sink("otel", tmp_path, endpoint=place.url)) as (url, made):
                outbox = plugin_of(made, "otel").outbox
                for n in range(3):
                    await ask(url)
                    async with asyncio.timeout(10):
                        while outbox.sent <= n:
                            await asyncio.sleep(0.01)
        assert [seen.target for seen in place.requests] == ["/v1/traces", "/v1/metrics"] * 3
    assert [one["reason"] for one in logged if one["event"] == "the collector takes no metrics"] == ["http_404"]


async def test_the_intervals_of_deltas_follow_each_other_and_each_writer_has_a_name(tmp_path):
    """A call that began before another ended: whoever makes sums of deltas drops what begins in the past."""

    def answer(seen):
        return Answer(body=ok().body, delay_head=late if b"long" in seen.body else 0)

    late = asyncio.Event()
    async with FakeUpstream() as up, Collector() as place:
        up.default = answer
        async with gateway(up, sink("otel", tmp_path, endpoint=place.url)) as (url, _):
            long = asyncio.create_task(ask(url, "long"))
            await up.received(1)
            await ask(url, "short")
            await place.until(2)
            late.set()
            await long
            await place.until(4)
        said = [r for body in place.bodies("/v1/metrics", ExportMetricsServiceRequest) for r in body.resource_metrics]
    points = [
        point
        for resource in said
        for metric in resource.scope_metrics[0].metrics
        if metric.name == "gen_ai.client.operation.duration"
        for point in metric.histogram.data_points
    ]
    first, second = ((point.start_time_unix_nano, point.time_unix_nano) for point in points)
    assert first[0] < first[1] == second[0] < second[1]
    names = {a.key: plain(a.value) for resource in said for a in resource.resource.attributes}
    assert names["service.name"] == "gwcore" and len(names["service.instance.id"]) == 36


async def test_a_4xx_is_no_error_of_the_servers_span_but_a_5xx_is(tmp_path):
    async with FakeUpstream(Answer(400, body=b"{}"), Answer(500, body=b"{}")) as up, Collector() as place:
        async with gateway(up, sink("otel", tmp_path, endpoint=place.url, metrics=False)) as (url, _):
            assert [(await ask(url)).status_code for _ in range(2)] == [400, 500]
            await place.until(4)
        told = {
            (span.kind, said["http.response.status_code"]): (span.status.code, said["error.type"])
            for span, said in place.spans.values()
        }
    error = "upstream_refused"
    assert told == {(2, 400): (0, error), (3, 400): (2, error), (2, 500): (2, error), (3, 500): (2, error)}


async def test_a_span_that_the_collector_refuses_is_a_dead_letter_and_the_others_arrive(tmp_path):
    def collector(seen):
        if seen.target == "/v1/metrics":
            return Answer(body=b"")
        body = ExportTraceServiceRequest.FromString(gzip.decompress(seen.body))
        spans = [s for r in body.resource_spans for scope in r.scope_spans for s in scope.spans]
        bad = sum(plain(a.value) == "poison" for s in spans for a in s.attributes if a.key == "gen_ai.request.model")
        said = ExportTraceServiceResponse(partial_success=ExportTracePartialSuccess(rejected_spans=bad))
        return Answer(body=said.SerializeToString())

    async with FakeUpstream() as up, Collector() as place:
        up.default, place.default = ok(), collector
        async with gateway(up, sink("otel", tmp_path, endpoint=place.url)) as (url, made):
            await asyncio.gather(*(ask(url, model="poison" if n == 3 else "fast") for n in range(8)))
            outbox = made.stack.placed[-1].plugin.outbox
            async with asyncio.timeout(10):
                while outbox.sent + outbox.rejected < 8:
                    await asyncio.sleep(0.01)
            assert (outbox.sent, outbox.rejected) == (7, 1)


# ── langfuse ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def known_names():
    from langfuse import LangfuseOtelSpanAttributes

    return {value for name, value in vars(LangfuseOtelSpanAttributes).items() if not name.startswith("_")}


async def test_a_trace_and_its_generation_as_the_sdk_writes_them(tmp_path):
    known = known_names()
    settings = {**PAIR, "base_url": "{}", "environment": "prod", "release": "r7", "content": "full"}
    async with FakeUpstream(streamed()) as up, Collector() as place:
        settings["base_url"] = place.url
        async with gateway(up, sink("langfuse", tmp_path, **settings)) as (url, _):
            headers = {"x-session-id": "s-1", "x-gwcore-tags": "blue"}
            await ask(url, "why?", stream=True, headers=headers, temperature=0.5)
            await place.until(2)
        seen = place.requests[0]
        (_, trace), (_, generation) = sorted(place.spans.values(), key=lambda pair: pair[0].kind)
    assert seen.header("authorization") == "Basic " + base64.b64encode(b"pk-lf-1:sk-lf-secret").decode()
    assert seen.header("x-langfuse-ingestion-version") == "4"
    for said in (trace, generation):
        names = {
            name for name in said if not name.startswith(("langfuse.trace.metadata.", "langfuse.observation.metadata."))
        }
        assert names <= known, names - known
        assert said["session.id"] == "s-1" and said["langfuse.trace.tags"] == ["blue"]
        assert said["langfuse.environment"] == "prod" and said["langfuse.release"] == "r7"
    assert generation["langfuse.observation.type"] == "generation"
    assert generation["langfuse.observation.model.name"] == "m"
    assert orjson.loads(generation["langfuse.observation.usage_details"]) == {"input": 11, "output": 7}
    assert generation["langfuse.observation.cost_details"] == (
        '{"input":0.000011000,"output":0.000014000,"total":0.000025000}'
    )
    assert orjson.loads(generation["langfuse.observation.completion_start_time"]).endswith("Z")
    assert orjson.loads(generation["langfuse.observation.model.parameters"]) == {"temperature": 0.5}
    assert orjson.loads(trace["langfuse.observation.input"])["messages"][0]["content"] == "why?"
    assert "hello" in trace["langfuse.observation.output"]


async def test_buckets_are_disjoint_and_their_names_sum_by_side(tmp_path):
    async with FakeUpstream(ok()) as up, Collector() as place:
        async with gateway(up, sink("langfuse", tmp_path, **PAIR, base_url=place.url)) as (url, _):
            await ask(url)
            await place.until(2)
        usage = [said["langfuse.observation.usage_details"] for _, said in place.spans.values() if len(said) and
                 "langfuse.observation.usage_details" in said]  # fmt: skip
        assert "langfuse.observation.input" not in {name for _, said in place.spans.values() for name in said}
    (details,) = map(orjson.loads, usage)
    assert details == {"input": 7, "input_cache_read": 4, "output": 7}
    assert sum(count for name, count in details.items() if "input" in name) == 11
    (costs,) = [said["langfuse.observation.cost_details"] for _, said in place.spans.values() if
                "langfuse.observation.cost_details" in said]  # fmt: skip
    nano = {name: int(Decimal(dollars) * 10**9) for name, dollars in json.loads(costs, parse_float=str).items()}
    assert nano == {"input": 7000, "input_cache_read": 2000, "output": 14000, "total": 23000}
    assert nano.keys() - {"total"} == details.keys()


async def test_the_vendors_own_figure_has_no_parts(tmp_path):
    """OpenRouter bills by its reply; parts by other prices would not sum to it."""
    async with (
        FakeUpstream(ok(usage={"prompt_tokens": 11, "completion_tokens": 7, "cost": 0.5})) as up,
        Collector() as place,
    ):
        async with gateway(up, sink("langfuse", tmp_path, **PAIR, base_url=place.url), provider="openrouter") as (
            url,
            _,
        ):
            await ask(url, model="up/other")
            await place.until(2)
        costs = [said.get("langfuse.observation.cost_details") for _, said in place.spans.values()]
    assert sorted(map(str, costs)) == ["None", '{"total":0.500000000}']


@pytest.mark.parametrize(("nano", "text"), [(0, "0.000000000"), (1, "0.000000001"), (12_345_678_901, "12.345678901")])
def test_dollars_are_exact(nano, text):
    assert exact_usd(nano) == text and orjson.loads(text) == nano / 1e9


async def test_the_sdks_own_generation_has_the_same_shape():
    """The SDK writes to the same stand-in; what both write under one name is of one form."""
    from langfuse import Langfuse as Sdk
    from opentelemetry.sdk.trace import TracerProvider

    async with Collector() as place:
        provider = TracerProvider()
        sdk = Sdk(**PAIR, base_url=place.url, tracer_provider=provider, should_export_span=lambda _: True, timeout=5)

        def write():
            with sdk.start_as_current_observation(as_type="generation", name="g", model="m", input={"a": 1}) as one:
                one.update(usage_details={"input": 1, "output": 2}, cost_details={"total": 0.5})
            sdk.flush()
            sdk.shutdown()

        await asyncio.to_thread(write)
        await place.until(1)
        ((_, said),) = place.spans.values()
        paths = {seen.target for seen in place.requests}
    assert "/api/public/otel/v1/traces" in paths
    assert said["langfuse.observation.type"] == "generation"
    assert orjson.loads(said["langfuse.observation.usage_details"]) == {"input": 1, "output": 2}
    assert orjson.loads(said["langfuse.observation.cost_details"]) == {"total": 0.5}
    assert orjson.loads(said["langfuse.observation.input"]) == {"a": 1}


# ── helicone ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def check_log(document):
    """The documented shape of a custom log."""
    assert set(document) == {"providerRequest", "providerResponse", "timing"}
    request, response, timing = document["providerRequest"], document["providerResponse"], document["timing"]
    assert set(request) == {"url", "json", "meta"} and isinstance(request["json"], dict)
    assert all(isinstance(value, str) for value in request["meta"].values())
    assert set(response) <= {"json", "textBody", "status", "headers"} and isinstance(response["status"], int)
    for end in ("startTime", "endTime"):
        assert set(timing[end]) == {"seconds", "milliseconds"} and 0 <= timing[end]["milliseconds"] < 1000
    return request, response, timing


async def test_each_call_is_one_log_with_an_id_that_stays(tmp_path):
    async with FakeUpstream(ok(), streamed()) as up, FakeUpstream(Answer(500), Answer(200)) as place:
        settings = {"api_key": "sk-helicone-1", "base_url": place.url, "properties": {"site": "eu"}}
        async with gateway(up, sink("helicone", tmp_path, **settings)) as (url, _):
            await ask(url, headers={"x-session-id": "s-1", "helicone-session-path": "/a/b"})
            await place.received(2)
            await ask(url, stream=True)
            await place.received(3)
    first, again, third = place.requests
    assert {seen.target for seen in place.requests} == {"/custom/v1/log"}
    assert first.header("authorization") == "Bearer sk-helicone-1"
    assert first.document == again.document  # sent twice, one id
    request, response, _ = check_log(first.document)
    assert request["meta"]["Helicone-Session-Id"] == "s-1" and request["meta"]["Helicone-Session-Path"] == "/a/b"
    assert request["meta"]["Helicone-Property-site"] == "eu"
    assert request["meta"]["Helicone-Property-cost_nano_usd"] == "23000"
    assert response["json"]["usage"]["total_tokens"] == 18 and response["status"] == 200
    *_, timing = check_log(third.document)
    assert timing["timeToFirstToken"] >= 0
    assert third.document["providerRequest"]["meta"]["Helicone-Request-Id"] != request["meta"]["Helicone-Request-Id"]


async def test_content_goes_to_helicone_in_the_dialect_it_reads(tmp_path):
    async with FakeUpstream(ok()) as up, FakeUpstream() as place:
        settings = {"api_key": "sk-helicone-1", "base_url": place.url, "content": "full"}
        async with gateway(up, sink("helicone", tmp_path, **settings)) as (url, _):
            await ask(url, "why?")
            await place.received(1)
    assert place.requests[0].target == "/oai/v1/log"
    request, response, _ = check_log(place.requests[0].document)
    assert request["json"]["messages"][0]["content"] == "why?"
    assert response["json"]["choices"][0]["message"]["content"] == "hello"


@pytest.mark.parametrize(("sent", "share", "told"), [
    (f"{TRACEPARENT[:-2]}00", 1.0, False), (TRACEPARENT, 0.0, True), (None, 0.0, False), (None, 1.0, True),
])  # fmt: skip
async def test_spans_are_sampled_as_their_parent_and_all_are_measured(tmp_path, sent, share, told):
    headers = {"traceparent": sent} if sent else {}
    async with FakeUpstream(ok()) as up, Collector() as place:
        async with gateway(up, sink("otel", tmp_path, endpoint=place.url, sample=share)) as (url, made):
            assert (await ask(url, headers=headers)).status_code == 200
            await until_sent(made)
        assert len(place.spans) == (2 if told else 0)
        (measured,) = place.bodies("/v1/metrics", ExportMetricsServiceRequest)
        assert measured.resource_metrics[0].scope_metrics[0].metrics[0].histogram.data_points[0].count == 1
        assert up.requests[0].header("traceparent").endswith("-01" if told else "-00")


async def until_sent(made, count=1):
    async with asyncio.timeout(10):
        while plugin_of(made, "otel").outbox.sent < count:
            await asyncio.sleep(0.01)


async def test_a_trace_that_is_neither_told_nor_measured_is_not_queued(tmp_path):
    async with FakeUpstream(ok()) as up, Collector() as place:
        async with gateway(up, sink("otel", tmp_path, endpoint=place.url, sample=0, metrics=False)) as (url, made):
            await ask(url, headers={"tracestate": "a=1"})
            await ask(url, headers={"traceparent": TRACEPARENT})
            await until_sent(made)
        assert len(place.spans) == 2 and not up.requests[0].header("tracestate")


async def test_tracestate_goes_on_with_the_trace_and_baggage_nowhere(tmp_path):
    long = ",".join(f"v{n}={'x' * 40}" for n in range(20))
    headers = [("traceparent", TRACEPARENT), ("tracestate", "dd=s:1"), ("tracestate", long), ("baggage", "user=ada")]
    two = sink("otel", tmp_path, endpoint=NOWHERE, outbox={"folder": None, "flush": 0})  # says nothing a second time
    async with FakeUpstream(ok()) as up, Collector() as place:
        async with gateway(up, sink("otel", tmp_path, endpoint=place.url) + "\n" + two) as (url, _):
            await ask(url, headers=headers)
            await place.until(2)
        state = up.requests[0].header("tracestate")
        assert state.startswith("dd=s:1,v0=x") and state.endswith("x" * 40) and 460 < len(state) <= 512
        assert {span.trace_state for span, _ in place.spans.values()} == {state}
        assert [name for name, _ in up.requests[0].headers].count("traceparent") == 1
        assert not up.requests[0].header("baggage")


async def test_a_list_is_told_by_its_own_method_and_names_no_model(tmp_path):
    to = tmp_path / "calls.log"
    lines = f"\n  - access_log: {{to: {to}}}"
    async with FakeUpstream(Answer(body=b'{"object":"list","data":[]}')) as up, Collector() as place:
        watch = sink("otel", tmp_path, endpoint=place.url) + lines
        async with gateway(up, watch) as (url, _), httpx2.AsyncClient() as client:
            assert (await client.get(f"{url}/v1/files")).status_code == 200
            await place.until(2)
    said = orjson.loads(to.read_bytes())
    assert (said["method"], said["route"]) == ("GET", "/files") and "served_model" not in said
    (server, call), (client, attempt) = sorted(place.spans.values(), key=lambda pair: pair[0].kind)
    assert call["http.request.method"] == "GET" and "gen_ai.request.model" not in attempt
    assert server.name == client.name == "files"
