"""The reply's four states."""

import asyncio

import pytest

from gwcore.reply import Reply, ReplyMisuse
from gwcore.testing.fakes import RecordingSend


async def test_commit_write_end():
    send = RecordingSend()
    reply = Reply(send)
    await reply.commit(200, [(b"a", b"b")])
    await reply.write(b"1")
    await reply.end(b"2")
    assert (send.status, send.headers, send.chunks, send.ended) == (200, [(b"a", b"b")], [b"1", b"2"], True)
    assert reply.sent == 2


async def test_misuse_is_an_error():
    reply = Reply(RecordingSend())
    with pytest.raises(ReplyMisuse):
        await reply.write(b"x")
    with pytest.raises(ReplyMisuse):
        await reply.end()
    await reply.commit(200, [])
    with pytest.raises(ReplyMisuse):
        await reply.commit(200, [])
    await reply.end()
    with pytest.raises(ReplyMisuse):
        await reply.write(b"x")


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: b", b"a\nb", b"a\rb", b"a\0b"])
async def test_no_header_of_a_plugin_brings_another(value):
    reply = Reply(RecordingSend())
    with pytest.raises(ValueError, match="CR, LF or NUL"):
        reply.add_header(b"x-a", value)
    assert reply.added() == []


async def test_held_leaves_nothing_until_released():
    send = RecordingSend()
    reply = Reply(send)
    async with reply.hold() as held:
        await reply.commit(200, [])
        await reply.write(b"draft")
        await reply.end()
        assert not reply.committed and send.status == 0
        held.status, held.body = 201, [b"final"]
        await held.release()
    assert (send.status, send.body, send.ended) == (201, b"final", True)


async def test_held_is_released_by_a_clean_exit_and_dropped_by_an_exception():
    send = RecordingSend()
    reply = Reply(send)
    with pytest.raises(ValueError):
        async with reply.hold():
            await reply.commit(500, [])
            raise ValueError
    assert send.status == 0
    async with reply.hold():
        await reply.commit(200, [])
        await reply.write(b"a")
    assert send.status == 200 and not send.ended
    await reply.end(b"b")
    assert send.body == b"ab"


async def test_several_layers_hold_one_behind_the_other():
    send = RecordingSend()
    reply = Reply(send)
    async with reply.hold() as outer:
        async with reply.hold() as inner:
            await reply.commit(200, [(b"content-length", b"5"), (b"x", b"y")])
            await reply.end(b"draft")
            assert not outer.status
            inner.body = [b"final draft"]
        assert (outer.status, outer.body, outer.ended, send.status) == (200, [b"final draft"], True, 0)
        outer.body = [b"final"]
    assert (send.body, send.headers) == (b"final", [(b"content-length", b"5"), (b"x", b"y")])


async def test_what_an_inner_layer_drops_an_outer_one_never_saw():
    send = RecordingSend()
    reply = Reply(send)
    async with reply.hold() as outer:
        with pytest.raises(ValueError):
            async with reply.hold():
                await reply.commit(500, [])
                raise ValueError
        assert not outer.status
        await reply.commit(200, [])
        await reply.end(b"b")
    assert (send.status, send.body) == (200, b"b")


async def test_a_body_of_another_length_is_said_so():
    send = RecordingSend()
    reply = Reply(send)
    async with reply.hold() as held:
        await reply.commit(200, [(b"content-length", b"6")])
        await reply.end(b"secret")
        held.body = [b"[hidden]"]
    assert send.headers == [(b"content-length", b"8")]


async def test_attempts_that_race_do_not_hold_together():
    reply = Reply(RecordingSend())

    async def second():
        with pytest.raises(ReplyMisuse):
            async with reply.hold():
                pass

    async with reply.hold():
        await asyncio.create_task(second())


async def test_a_second_answer_takes_the_place_of_one_that_broke_while_it_was_held():
    send = RecordingSend()
    reply = Reply(send)
    async with reply.hold():
        await reply.commit(200, [])
        await reply.write(b"half an ans")  # and its upstream broke: nothing has left, so another is asked
        await reply.commit(200, [])
        await reply.end(b"answer")
    assert send.body == b"answer"


async def test_hold_after_commit_is_refused():
    reply = Reply(RecordingSend())
    await reply.commit(200, [])
    with pytest.raises(ReplyMisuse):
        async with reply.hold():
            pass


async def test_headers_of_plugins_join_every_response():
    send = RecordingSend()
    reply = Reply(send)
    reply.add_header(b"x-a", b"1")
    reply.before_commit = lambda status, headers: headers.append((b"x-status", b"%d" % status))
    await reply.commit(404, [])
    assert send.headers == [(b"x-a", b"1"), (b"x-status", b"404")]
