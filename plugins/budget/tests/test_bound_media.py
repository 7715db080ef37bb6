"""What is held for pictures, sound and what has no document: forms, speech, answers that were spoken; and what costs nothing."""

import pytest

from gwcore.call import Attempt
from gwcore.dialect import Route
from gwcore.errors import BadRequest
from gwcore.prices import MILLION, PriceCard
from gwcore.testing import fakes
from gwcore_budget.bound import FRAME, IMAGE, IMAGE_OUT, PROMPT, bound

DOLLARS = 10**9
PICTURES = PriceCard(
    "m", {name: ((0, price * DOLLARS),) for name, price in {"input": 5, "image_in": 10, "output": 40}.items()}
)


def form(operation, parts, card):
    raw = (
        b"".join(b'--b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % part for part in parts)
        + b"--b--\r\n"
    )
    call = fakes.call("")
    call.document, call.operation, call.raw = None, operation, raw
    call.headers = [(b"content-type", b"multipart/form-data; boundary=b")]
    return call, bound(Attempt(call, call.targets[0]), card, 1_000)


@pytest.mark.parametrize("operation", ["transcription", "translation"])
def test_a_recording_is_held_by_the_second_whatever_its_fields_are_called(operation):
    """The field of the sound is called file, which in a document stands for what the gateway does not see."""
    minute = PriceCard("whisper-1", {"audio_seconds": ((0, 100 * DOLLARS),)})
    call, terms = form(operation, [(b'file"; filename="a.mp3', b'"file_id" \xff' * 2_000), (b"model", b"m")], minute)
    assert terms.amount == (len(call.raw) // 500 + 1) * 100 * DOLLARS // MILLION


def test_sound_is_held_at_its_own_price_where_no_word_says_that_it_is_sound():
    card = PriceCard(
        "m", {"input": ((0, DOLLARS),), "audio_in": ((0, 6 * DOLLARS),), "output": ((0, 0),)}, context_window=2_000
    )
    _, terms = form("transcription", [(b'file"; filename="a', b"\0" * 5_000)], card)
    assert terms.amount == 2_000 * 6 * DOLLARS // MILLION


@pytest.mark.parametrize(
    ("said", "count"), [([], 1), ([(b"n", b"3")], 3), ([(b"n", b"2.0")], 2), ([(b"n", "１０".encode())], 10)]
)
def test_a_photograph_to_change_is_a_picture_and_not_a_token_per_byte(said, count):
    big = (b'image"; filename="a.png', b"\x89 FileName=x " * 300_000)
    _, terms = form("image_edit", [big, *said], PICTURES)
    assert terms.amount == ((PROMPT + IMAGE) * 10 + count * IMAGE_OUT * 40) * DOLLARS // MILLION
    small, least = form("image_edit", [(b'image"; filename="a.png', b"\x89"), *said], PICTURES)
    assert least.amount == ((len(small.raw) + FRAME) * 10 + count * IMAGE_OUT * 40) * DOLLARS // MILLION


@pytest.mark.parametrize("said", [b"+ADEAMA-", b"1\x000\x00", b"0xA", b"-1"])
def test_a_number_of_pictures_that_only_others_could_read_is_refused(said):
    """As UTF-7, say, which the charset of a content-type may ask for."""
    with pytest.raises(BadRequest, match="'n' must be a number"):
        form("image_edit", [(b'image"; filename="a.png', b"\x89"), (b"n", said)], PICTURES)


def test_speech_of_a_model_whose_card_prices_output_alone_is_bounded():
    """As the catalogue has gpt-4o-mini-tts."""
    call = fakes.call("", input="Hello")
    call.operation = "speech"
    card = PriceCard("gpt-4o-mini-tts", {"input": ((0, 600_000_000),), "output": ((0, 12 * DOLLARS),)})
    assert bound(Attempt(call, call.targets[0]), card, 1_000).amount > 4 * len(call.raw) * 12 * DOLLARS // MILLION


VOICE = PriceCard(
    "m", {name: ((0, price * DOLLARS),) for name, price in {"input": 2, "audio_in": 30, "image_in": 9, "output": 1}.items()},
    context_window=1_000_000, max_output=1,
)  # fmt: skip


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "audio": {"id": "audio_1"}},
        {"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]},
        {"role": "user", "parts": [{"inlineData": {"mimeType": "video/mp4", "data": "AA=="}}]},
    ],
)
def test_what_is_not_in_the_request_is_a_whole_window_at_the_dearest_price(message):
    call = fakes.call("hi", messages=[message, {"role": "user", "content": "go on"}])
    assert bound(Attempt(call, call.targets[0]), VOICE, 1_000).amount >= 1_000_000 * 30 * DOLLARS // MILLION


def test_the_voice_that_an_answer_shall_have_is_no_such_thing():
    call = fakes.call("hi", modalities=["text", "audio"], audio={"voice": "alloy", "format": "wav"})
    assert bound(Attempt(call, call.targets[0]), VOICE, 1_000).amount < 1_000 * 30 * DOLLARS // MILLION


@pytest.mark.parametrize("operation", ["batches", "cached_contents", "files"])
def test_who_deletes_needs_no_price(operation):
    call = fakes.call("hi")
    call.route, call.operation, call.method = (
        Route("DELETE", "/x/{id}", operation, model="none", body="none"),
        operation,
        "DELETE",
    )
    assert bound(Attempt(call, call.targets[0]), None, 1_000).amount == 0
