"""What stands beside a reply and hears it."""

from gwcore.testing.fakes import call
from gwcore_cache.record import Record


async def test_a_second_answer_behind_a_layer_that_holds_is_recorded_alone():
    made = call()
    record = Record(made, limit=100)
    async with made.reply.hold():
        with made.reply.record(record):
            await made.reply.commit(200, [])
            await made.reply.write(b"half an")  # broke: another target is asked
            await made.reply.commit(200, [])
            await made.reply.end(b"answer")
    assert (record.body, record.size, record.ended) == (b"answer", 6, True)
