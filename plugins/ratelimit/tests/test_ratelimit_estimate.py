"""The token estimate: bytes by a learned ratio, media by their number, answers by what answers were."""

import base64
import random

from gwcore.estimate import Estimator
from gwcore.testing.fakes import call


def estimator():
    return Estimator(output=1000, media=800)


def estimated(e, made, key=None):
    return e.estimate(made, key, e.size(made))


def test_it_learns_the_ratio_of_each_model():
    e = estimator()
    made = call("слово " * 500, model="fake/ru")
    true = len(made.raw) // 7
    first = estimated(e, made)[0]
    for _ in range(60):
        e.learn("fake/ru", None, e.size(made), (true, 0))
    assert abs(estimated(e, made)[0] - true) < 0.02 * true < abs(first - true)
    assert estimated(e, call("слово " * 500))[0] > 1.5 * true  # another model


def test_it_learns_how_long_answers_are_per_model_and_key():
    e = estimator()
    random_ = random.Random(1)
    sizes = [random_.randint(50, 150) for _ in range(400)]
    for size in sizes:
        e.learn("fake/m", "short", (100, 0), (30, size))
        e.learn("fake/m", "long", (100, 0), (30, 20 * size))
    p95 = sorted(sizes)[380]
    assert 0.7 * p95 < estimated(e, call(), "short")[1] < 1.4 * p95
    assert 14 * p95 < estimated(e, call(), "long")[1] < 28 * p95
    assert estimated(e, call(max_tokens=10), "long")[1] == 10
    assert estimated(e, call(max_completion_tokens=7, n=3), "long")[1] == 21
    assert estimated(e, call(settings={"max_tokens": 5}), "long")[1] == 5
    assert estimated(e, call(model="fake/new"), "long")[1] == 1000


def test_media_count_by_number_and_not_by_bytes():
    e = estimator()
    blob = base64.b64encode(random.Random(1).randbytes(60_000)).decode()
    content = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{blob}"}},
        {"type": "image", "source": {"type": "base64", "data": blob}},
        {"inline_data": {"mime_type": "image/png", "data": blob}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "text", "text": "what is it? " * 100},
    ]
    read, _ = estimated(e, call(content=content))
    assert 4 * 800 < read < 4 * 800 + 700


def test_text_that_only_mentions_files_is_text():
    e = estimator()
    assert e.size(call("read the file, the base64 and the image " * 200))[1] == 0


def test_bodies_that_are_no_text_cost_nothing_until_they_are_metered():
    e = estimator()
    made = call()
    made.operation = "files"
    assert estimated(e, made) == (0, 0)
    made = call()
    made.document = None
    assert estimated(e, made) == (0, 0)


def test_memory_is_bounded():
    e = estimator()
    for n in range(10_050):
        e.learn(f"m{n}", f"k{n}", (10, 0), (3, 0))
    assert len(e._models) <= 10_000 and len(e._keys) <= 10_000
