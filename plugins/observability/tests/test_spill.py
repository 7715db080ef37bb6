"""What is on disk: whole, torn, flipped, too much, somebody else's."""

import errno
import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gwcore_observability import spill as module
from gwcore_observability.spill import MAGIC, Item, Spill, framed, unframed


def items(n, start=0, size=20):
    return [Item(f"id-{i}", (b"%d" % i).rjust(size, b".")) for i in range(start, start + n)]


def drain(spill, count=7):
    """Everything that is there, in batches, acknowledged."""
    found = []
    while batch := spill.read(count, 1 << 30):
        found += batch
        spill.ack(batch)
    return found


@pytest.fixture
def opened(tmp_path):
    made = []

    def make(cap=1 << 30, folder=tmp_path):
        one = Spill(folder, cap)
        one.open()
        made.append(one)
        return one

    yield make
    for one in made:
        one.close()


def test_what_is_written_is_read_in_order_and_once(opened, tmp_path):
    spill = opened()
    spill.append(items(10))
    assert spill.read(4, 1 << 30) == items(4)
    assert spill.read(4, 1 << 30) == items(4)  # not acknowledged: again
    spill.ack(items(4))
    spill.append(items(5, start=10))
    assert drain(spill) == items(15)[4:]
    assert spill.count == 0 and spill.size == 0 and spill.oldest is None
    assert not list(tmp_path.rglob("*.seg"))


def test_what_is_left_is_there_after_a_restart_and_what_was_settled_is_not(opened):
    before = opened()
    before.append(items(10))
    before.ack(before.read(3, 1 << 30))
    os.close(before._lock)  # killed: nothing is closed in order
    before._lock = None
    after = opened()
    assert drain(after) == items(10)[3:]


def test_a_living_workers_folder_is_left_alone_and_a_dead_ones_is_taken(opened):
    one, other = opened(), opened()
    one.append(items(3))
    other.append(items(3, start=3))
    assert one.adopt() == 0
    os.close(other._lock)
    other._lock = None
    assert one.adopt() == 1
    assert {item.id for item in drain(one)} == {item.id for item in items(6)}


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_costs_what_it_hits_and_nothing_else(data):
    wanted = [
        Item(f"i{n}", body)
        for n, body in enumerate(
            data.draw(st.lists(st.binary(max_size=60) | st.just(MAGIC * 3), min_size=1, max_size=12))
        )
    ]
    frames = [framed(item) for item in wanted]
    whole = bytearray(b"".join(frames))
    flips = data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=3, unique=True))
    for at in flips:
        whole[at] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(whole)))
    hit, start = set(), 0
    for n, frame in enumerate(frames):
        end = start + len(frame)
        if end > cut or any(start <= at < end for at in flips):
            hit.add(n)
        start = end
    found, at, skipped = [], 0, 0
    while True:
        item, at, more = unframed(bytes(whole[:cut]), at)
        skipped += more
        if item is None:
            break
        found.append(item)
    assert found == [item for n, item in enumerate(wanted) if n not in hit]
    assert (skipped > 0) == any(sum(map(len, frames[:n])) < cut for n in hit)


def test_damage_is_counted_and_reading_goes_on(opened, tmp_path):
    spill = opened()
    spill.append(items(9))
    path = next(tmp_path.rglob("*.seg"))
    whole = bytearray(path.read_bytes())
    size = len(framed(items(1)[0]))
    whole[8 + 4 * size + 20] ^= 1
    path.write_bytes(whole[:-3])  # and the last one is torn
    assert [item.id for item in drain(spill)] == [f"id-{n}" for n in range(8) if n != 4]
    assert spill.damaged == 2


def test_a_full_disk_leaves_whole_records(opened, monkeypatch):
    spill = opened()
    spill.append(items(3))
    real, room = os.write, [50]

    def little(descriptor, data):
        if room[0] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = real(descriptor, bytes(data)[: room[0]])
        room[0] -= done
        return done

    monkeypatch.setattr(module.os, "write", little)
    with pytest.raises(OSError, match="space"):
        spill.append(items(3, start=3))
    monkeypatch.undo()
    spill.append(items(1, start=6))
    assert [item.id for item in drain(spill)] == ["id-0", "id-1", "id-2", "id-6"]
    assert spill.damaged == 0


def test_the_cap_takes_the_oldest_and_counts_them(opened, monkeypatch):
    monkeypatch.setattr(module, "SEGMENT", 1000)
    spill = opened(cap=5000)
    for n in range(400):
        spill.append(items(1, start=n))
        assert spill.size <= 5000 + 1100
    left = drain(spill)
    assert [item.id for item in left] == [f"id-{n}" for n in range(400 - len(left), 400)]
    assert spill.lost == 400 - len(left) > 0


def test_the_cap_may_take_what_is_being_sent(opened, monkeypatch):
    monkeypatch.setattr(module, "SEGMENT", 500)
    spill = opened(cap=1500)
    spill.append(items(20))
    under_way = spill.read(5, 1 << 30)
    for n in range(20, 80):
        spill.append(items(1, start=n))
    spill.ack(under_way)
    left = drain(spill)
    assert left[-1].id == "id-79" and not {item.id for item in left} & {item.id for item in under_way}
    assert spill.lost + len(left) == 80


def test_many_writers_and_readers_at_random(opened):
    """Restarts, acks and writes in any order: at least once, and what was acknowledged in a closed run only once."""
    rng = random.Random(7)
    spill, written, seen, n = opened(), set(), set(), 0
    for _ in range(300):
        step = rng.random()
        if step < 0.5:
            batch = items(rng.randint(1, 5), start=n)
            n += len(batch)
            spill.append(batch)
            written |= {item.id for item in batch}
        elif step < 0.9:
            batch = spill.read(rng.randint(1, 8), 1 << 30)
            if rng.random() < 0.7:
                assert not seen & {item.id for item in batch}
                seen |= {item.id for item in batch}
                spill.ack(batch)
        else:
            spill.close()
            spill.open()
    seen |= {item.id for item in drain(spill)}
    assert seen == written
