"""``Gateway``: the ASGI application. Ingress, the life of a call, lifespan, reload by swapping one reference."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import structlog

from gwcore.admin import State, answer
from gwcore.assemble import assemble, package_owners
from gwcore.browsers import website
from gwcore.call import Call, Outcome
from gwcore.catalog import Catalog
from gwcore.dialect import Dialect
from gwcore.errors import Forbidden, GatewayError, NotServed, PluginFault
from gwcore.ids import new_id
from gwcore.ingest import ClientGone, Receive, ingest
from gwcore.ingress import Match
from gwcore.keepalive import keep_alive, wanted
from gwcore.lifespan import FAILED, STARTED, STOPPED, Message, beside
from gwcore.memory import for_bodies
from gwcore.reply import ENDED, Reply, Send
from gwcore.resources import Lease, Resources
from gwcore.respond import as_fault, error_headers, fail, named, plain_error, stamp
from gwcore.stack import Stack
from gwcore.stackfile import Source, StackSource, load
from gwcore.taps import tell
from gwcore.wire.transport import Headers

Scope = MutableMapping[str, Any]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
DISCONNECT = "gwcore.disconnect"
SETTLE = 2.0
"""Seconds that calls cancelled at the end of a drain have to finish."""
_CLOSING = 2.0
"""Seconds that an upstream has to close its stream after the last event, if the client hangs up on that event."""
_OTHER_LOOP = (
    "the gateway was started in another event loop, and what it opened belongs to that: enter `async with gateway:` in the host "
    "application's lifespan; of Starlette's TestClient, `with TestClient(app) as client:` runs it"
)
_NO_WEBSITE = "this gateway asks for no key, so it answers no website; add auth to stack, or set server.open: true if something else guards it"
_JSON: Headers = [(b"content-type", b"application/json")]

_log = structlog.get_logger("gwcore")


class Gateway:
    """An ASGI application made from a stack file.

    ``Gateway("stack.yaml")`` runs alone, mounted (``Mount("/llm", gateway)``) or, with ``fallthrough``, in front of
    another application, which receives lifespan events and every request that the gateway does not serve. A mounted
    application receives no lifespan: enter ``async with gateway:`` in the host's; otherwise the first request starts
        the
    stack. It serves only in the event loop that started it; after a shutdown it may be started again.

    Args:
        stack: path of the stack file, or its text (anything with a line break).
        fallthrough: an ASGI application for what the gateway does not serve.
        catalog: what is installed; the entry points of this environment by default.
        env: environment for ``${VAR}``; ``os.environ`` by default.
        serve_admin: serve the admin API's routes too, as ``gwcore run`` does. A mounted gateway serves inference only;
            mount ``gateway.admin`` where you want it.
        begin: source to start with, if the file may have changed meanwhile; a reload reads the file.
        check: called before a reload, which is rejected if it raises; repeats the start's checks of the file and its
            place.

    Raises:
        gwcore.errors.AssemblyError: at start, naming every problem of the stack file.
    """

    def __init__(
        self,
        stack: str | Path,
        *,
        fallthrough: ASGIApp | None = None,
        catalog: Catalog | None = None,
        env: MutableMapping[str, str] | None = None,
        serve_admin: bool = False,
        begin: StackSource | None = None,
        check: Callable[[], object] | None = None,
    ) -> None:
        self.source = stack
        self.fallthrough = fallthrough
        self.catalog = catalog or Catalog()
        self.env = os.environ if env is None else env
        self.serve_admin = serve_admin
        self.begin = begin
        self.check = check
        self.state = State()
        self.resources = Resources()
        self.load = self.resources.load
        self.stack: Stack | None = None
        self._owners: dict[str, str] = {}
        self._starting = asyncio.Lock()
        self._drains: set[asyncio.Task[None]] = set()
        self._drains_since = 0.0
        self._app: ASGIApp = self.serve
        self._open = False
        self._loop: asyncio.AbstractEventLoop | None = None

    # ── life ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def startup(self) -> None:
        """Assemble and start the stack; a no-op if it is running."""
        async with self._starting:
            if self.stack is None:
                self.state.draining = False  # left over from an earlier shutdown
                self._install(await self._build(self.begin or self.source))
            self._at_home()

    def _at_home(self) -> None:
        """Reject use in another event loop: connections, timers and tasks of an ended loop fail or hang for ever."""
        if self._loop is not asyncio.get_running_loop():
            raise RuntimeError(_OTHER_LOOP)

    async def shutdown(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - the drain's own deadline
        """Drain and close everything; ``timeout`` defaults to what is left of ``server.drain``."""
        self.drain()
        self.load.stop()
        stack, self.stack = self.stack, None
        if stack is None:
            return
        left = self._left_of(stack.server.drain) if timeout is None else timeout
        ends = time.monotonic() + left
        await stack.drain(left)
        if self._drains:  # streams of stacks replaced by a reload
            _, late = await asyncio.wait(self._drains, timeout=max(SETTLE, ends - time.monotonic()))
            for task in late:
                task.cancel()

    async def __aenter__(self) -> Self:
        await self.startup()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.shutdown()

    def drain(self) -> None:
        """Begin to drain: readiness returns 503 from now on, and the time of ``server.drain`` starts to run."""
        if not self.state.draining:
            self.state.draining = True
            self._drains_since = time.monotonic()

    def _left_of(self, drain: float) -> float:
        """The drain time left, after the server's own wait for its connections; at least ``SETTLE``."""
        return max(SETTLE, drain - (time.monotonic() - self._drains_since))

    async def reload(self) -> bool:
        """Assemble, start, swap, drain the old stack. A failure before the swap changes nothing and shows in health."""
        async with self._starting:
            try:
                if self.check is not None:
                    await asyncio.to_thread(self.check)
                fresh = await self._build(self.source)
            except GatewayError as error:
                self.state.reload_error = error.message
                _log.error("reload refused", problem=error.message)
                return False
            except Exception as error:  # a plugin's start may raise anything; the running stack must survive it
                self.state.reload_error = f"{type(error).__name__} while starting"
                _log.error("reload failed", error=type(error).__name__)
                return False
            old = self.stack
            self._install(fresh)
        if old is not None:
            # streams of the old stack may run for a long time; the reload does not wait for them
            task = asyncio.create_task(old.drain(None))
            self._drains.add(task)
            task.add_done_callback(self._drains.discard)
        return True

    async def _build(self, source: Source) -> Stack:
        # off the loop, since a file with thousands of keys takes seconds: the running stack goes on serving
        source = await asyncio.to_thread(load, source)
        lease = Lease(self.resources)
        try:
            stack = assemble(source, self.catalog, self.resources, self.env, lease)
            await stack.start()
        except BaseException:
            await lease.release()
            raise
        return stack

    def _install(self, stack: Stack) -> None:
        self._owners = package_owners(stack)
        app: ASGIApp = self.serve
        for middleware in reversed(stack.asgi):
            app = middleware.wrap(app)
        self.stack, self._app, self._loop = stack, app, asyncio.get_running_loop()
        # when mounted, the host application decides who may call
        self._open = self.serve_admin and stack.door is None and not stack.server.open
        self.load.limit(stack.server.max_inflight, stack.server.max_lag, for_bodies(stack.server.body_memory))
        self.load.start()
        self.state.generation += 1
        self.state.reload_error = None

    # ── ASGI ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI 3."""
        kind = scope["type"]
        if kind == "http":
            if self.stack is None:
                await self._late_start()
            else:
                self._at_home()
            await self._app(scope, receive, send)
        elif kind == "lifespan":
            await self._lifespan(scope, receive, send)
        elif self.fallthrough is not None:
            await self.fallthrough(scope, receive, send)
        elif kind == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})

    async def admin(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI 3: the running stack's admin API, to be mounted explicitly: ``Mount("/admin", gateway.admin)``."""
        if scope["type"] != "http":
            return
        if self.stack is None:
            await self._late_start()
        else:
            self._at_home()
        id_ = new_id()
        if self.stack is None or self.stack.admin is None:
            error = NotServed("no plugin of this stack decides who may use an admin API; add auth to stack")
            await _answer(named(send, id_), error.status, plain_error(error, id_))
            return
        await self.stack.admin(scope, receive, named(send, id_))

    async def _late_start(self) -> None:
        if self.state.draining:  # it was shut down, and nobody would shut it down again
            return
        _log.warning("started by the first request; enter `async with gateway:` in the host application's lifespan")
        await self.startup()

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.startup()
        except GatewayError as error:  # the stack cannot be built, or a store does not answer
            await send({"type": FAILED, "message": f"cannot start: {error.message}"})
            return
        except Exception as error:  # without this message servers assume an application without lifespan, and serve
            await send({"type": FAILED, "message": f"cannot start: {type(error).__name__}"})
            raise
        last: Message = {"type": STOPPED}
        if self.fallthrough is None:
            await send({"type": STARTED})
            await receive()
        else:
            last = await beside(self.fallthrough, scope, receive, send)
        await self.shutdown()
        await send(last)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one HTTP request, inside the ``asgi`` middlewares of the stack file."""
        stack = self.stack
        path: str = scope["path"]
        root = scope.get("root_path")
        if root and path.startswith(root):
            path = path[len(root) :]
        found = stack.ingress.find(scope["method"], path, scope["headers"]) if stack is not None else None
        if stack is None or found is None:
            await self._elsewhere(path, scope, receive, send)
            return
        load = self.load
        if load.full():
            await _shed(found[0], send, load.refusal())
            return
        if self._open and website(scope["headers"]):
            await _shed(found[0], send, Forbidden(_NO_WEBSITE))
            return
        load.inflight += 1
        stack.inflight += 1
        try:
            await self._call(stack, self._new_call(found, path, scope, send), scope, receive)
        finally:
            load.inflight -= 1
            stack.left()

    @staticmethod
    def _new_call(found: Match, path: str, scope: Scope, send: Send) -> Call:
        dialect, route, params = found
        reply = Reply(send if DISCONNECT in scope.get("extensions", ()) else _deaf(send))
        client = scope.get("client")
        call = Call(
            id=new_id(),
            dialect=dialect,
            route=route,
            reply=reply,
            headers=[],
            path=path,
            query=scope.get("query_string", b""),
            params=params,
            client=client[0] if client else None,
        )
        reply.before_commit = partial(stamp, call)
        return call

    async def _call(self, stack: Stack, call: Call, scope: Scope, receive: Receive) -> None:
        """The life of one call. Whatever happens, ``call_ended`` fires exactly once."""
        outcome = Outcome(0)
        watch = None
        try:
            await ingest(call, scope, receive, stack.server, self.load, door=stack.door)
            watch = _watch_client(call, scope, receive)
            outcome = await _run(stack, call)
            outcome.cancelled = outcome.cancelled or call.left  # was read to its end after the client left
        except asyncio.CancelledError:
            outcome = Outcome(call.reply.status, cancelled=True)
            if not call.left:
                raise  # cancelled by the server, not by the client
            _uncancel()
        except ClientGone:
            outcome = Outcome(0, cancelled=True)
        except Exception as error:  # the one place where errors become answers
            named = error if isinstance(error, GatewayError) else as_fault(error, self._owners)
            outcome = Outcome(named.status, named)
            await fail(call, named)
        finally:
            call.left = True
            if watch is not None:
                watch.cancel()
            if stack.taps.call_ended:
                tell(stack.taps.call_ended, call, outcome)
            self.load.release(call)
            call.part(outcome)

    async def _elsewhere(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        api = self.stack.admin if self.stack is not None else None
        full = path == "/health" and (api is None or await api.knows(scope))
        said = answer(scope["method"], path, self.stack, self.state, full=full)
        id_ = new_id()
        if said is not None:
            await _answer(named(send, id_), *said, head=scope["method"] == "HEAD")
        elif api is not None and self.serve_admin and api.serves(scope):
            await api(scope, receive, named(send, id_))
        elif self.fallthrough is not None:
            await self.fallthrough(scope, receive, send)
        else:
            await _answer(named(send, id_), NotServed.status, _not_served(self.stack, path, scope, id_))


def _not_served(stack: Stack | None, path: str, scope: Scope, request_id: str) -> bytes:
    """The body of a 404: what to fix and, where it can be guessed, in the client's dialect."""
    said = f"{scope['method']} {path[:200]} is not served"
    if stack is None:
        return plain_error(NotServed(said), request_id)
    if others := stack.ingress.methods(path):
        return plain_error(NotServed(f"{said}; this address takes {', '.join(others)}"), request_id)
    meant = stack.ingress.meant(scope["method"], path, scope["headers"])
    if meant is None:
        return plain_error(NotServed(said), request_id)
    (dialect, _, _), end = meant
    over = path[: -len(end)] if path.endswith(end) else ""
    mend = f": leave {over[:200]} out of the client's base URL" if over.strip("/") else ""
    return dialect.error_body(NotServed(f"{said}, but {end[:200]} is{mend}"), request_id)


async def _run(stack: Stack, call: Call) -> Outcome:
    """Run a call through the pipeline to the end of its reply."""
    service = stack.answers.get(call.route, stack.listing) if call.route.local else stack.service
    if stack.taps.call_started:
        tell(stack.taps.call_started, call)
    keepalive = stack.server.keepalive
    if keepalive is None or not wanted(call):
        outcome = await service(call)
    else:
        pings = asyncio.create_task(keep_alive(call, keepalive))
        try:
            outcome = await service(call)
        finally:
            pings.cancel()
    if call.reply.state != ENDED:
        _log.error(
            "a layer ended a call without an answer; write: return await inner(call)", got=type(outcome).__name__
        )
        raise PluginFault
    if not isinstance(outcome, Outcome):
        _log.error("a layer returned no Outcome; write: return await inner(call)", got=type(outcome).__name__)
        return Outcome(call.reply.status)
    return outcome


def _deaf(send: Send) -> Send:
    """Discards what is sent to a client that has left: other servers may raise ``OSError`` then (ASGI, HTTP 2.4)."""

    async def sent(message: MutableMapping[str, Any]) -> None:
        with suppress(OSError):
            await send(message)

    return sent


def _watch_client(call: Call, scope: Scope, receive: Receive) -> asyncio.Task[None] | None:
    """Cancel the call when its client disconnects.

    ``gwcore run`` offers a callback in the scope, which saves a task per request; any other server reports it through
    ``receive()``.
    """
    task = asyncio.current_task()
    assert task is not None

    left = partial(_left, call, task)
    register = scope.get("extensions", {}).get(DISCONNECT)
    if register is not None:
        register(left)
        return None

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        left()

    return asyncio.create_task(watch())


def _left(call: Call, task: asyncio.Task[Any]) -> None:
    """The client has disconnected; some, such as Codex, do so at a stream's last event, having their answer."""
    if call.stream and call.dialect.closed(call.operation, call.reply.last):
        _later(task, _CLOSING, partial(_leave, call, task))
    else:
        _leave(call, task)


def _leave(call: Call, task: asyncio.Task[Any]) -> None:
    if call.left or call.reply.state == ENDED:
        return
    call.left = True
    seconds = call.linger() if call.linger is not None else 0.0
    if seconds > 0:
        # writes to the server are now discarded; the call reads on, and completes its start/end pairs as usual
        _later(task, seconds, task.cancel)
    else:
        task.cancel()


def _later(task: asyncio.Task[Any], seconds: float, act: Callable[[], object]) -> None:
    timer = task.get_loop().call_later(seconds, act)
    task.add_done_callback(lambda _task: timer.cancel())


def _uncancel() -> None:
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()


async def _shed(dialect: Dialect, send: Send, error: GatewayError) -> None:
    """Reject a call before anything of it is read."""
    request_id = new_id()
    headers = [(b"x-gwcore-request-id", request_id.encode()), *error_headers(error)]
    await _answer(send, error.status, dialect.error_body(error, request_id), headers)


async def _answer(send: Send, status: int, body: bytes, headers: Headers = _JSON, *, head: bool = False) -> None:
    headers = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else body})
