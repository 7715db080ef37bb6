"""The reply's four states."""

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
