"""Estimates a call's tokens from its text's bytes, by a ratio learned per model, and from the length of past answers.

Bytes per token vary less than characters per token (1.5 to 7.5, English 4.1), and counting them is free: no tokenizer
is loaded. The usage that the upstream reports then corrects the charge and trains the next estimate.
"""

from __future__ import annotations

import re
from typing import Any, Final, TypeVar

from gwcore.call import Call

K = TypeVar("K")
FIRST_RATIO: Final = 3.5
"""Bytes per token of a model not seen yet."""
ANSWER: Final = 1000
"""Tokens of an answer without a length limit, from a model not seen yet."""
MEDIA: Final = 1000
"""Tokens of an image, a file or a sound."""
_READ: Final = frozenset(
    {"chat", "completions", "compact", "embeddings", "batch_embeddings", "moderations", "rerank", "predict"}
    | {"image_generation", "speech"}
)
"""Operations whose input is text that costs tokens."""
_WRITTEN: Final = frozenset({"chat", "completions", "compact", "predict"})
"""Operations whose answer costs tokens."""
BY_TOKENS: Final = _WRITTEN | {"embeddings", "batch_embeddings"}
"""Operations billed by tokens alone, whose cost a token estimate covers."""
_MARKS: Final = (b"base64", b'"data"', b"inline_data", b"inlineData", b"image", b"input_audio", b"file")
_BLOB: Final = re.compile(r"(?:data:[^,]{0,100},)?[A-Za-z0-9+/_=-]{256}")
_SMALL: Final = 2048
_SLOWLY: Final = 0.1
_MOST: Final = 10_000


class Learned:
    """What is learned about one model, or one model and key.

    Attributes:
        ratio: bytes per token of input.
        answer: tokens that 95 of 100 answers stay below.
    """

    __slots__ = ("_mean", "answer", "ratio")

    def __init__(self, ratio: float, answer: float) -> None:
        self.ratio = ratio
        self.answer = answer
        self._mean = 0.0

    def was_read(self, size: int, read: int) -> None:
        """``size`` bytes of text came to ``read`` tokens."""
        ratio = size / read
        if not 0.5 < ratio < 20.0:
            ratio = min(max(ratio, 0.5), 20.0)
        self.ratio += _SLOWLY * (ratio - self.ratio)

    def was_written(self, written: int) -> None:
        """An answer came to ``written`` tokens."""
        mean = self._mean
        if not mean:
            self._mean = float(written)
            self.answer = 1.5 * written
            return
        self._mean = mean = mean + _SLOWLY * (written - mean)
        # the 95th percentile by stochastic approximation: up in one case of twenty, down in the others
        self.answer += mean * (0.5 * 0.95 if written > self.answer else -0.5 * 0.05)


class Estimator:
    """Learns per model and key, a bounded number of each; until taught, it estimates as for an unseen model.

    Args:
        output: tokens expected of an answer before a model's own are known.
        media: tokens expected of an image, a file or a sound.
    """

    def __init__(self, *, output: int = ANSWER, media: int = MEDIA) -> None:
        self._first = Learned(FIRST_RATIO, output)
        self._media = media
        self._models: dict[str | None, Learned] = {}
        self._keys: dict[tuple[str | None, str | None], Learned] = {}

    def size(self, call: Call) -> tuple[int, int]:
        """Bytes of text and number of images, files and sounds in a call's body."""
        if call.document is None or call.operation not in _READ:
            return 0, 0
        raw = call.raw
        if len(raw) < _SMALL or not any(raw.find(mark) >= 0 for mark in _MARKS):
            return len(raw), 0
        blobs, count = _blobs(call.document)
        return max(0, len(raw) - blobs), count

    def estimate(
        self, call: Call, key: str | None = None, size: tuple[int, int] | None = None, *, model: str | None = None
    ) -> tuple[int, int]:
        """Tokens in, tokens out.

        Args:
            call: whose document says how long and how many answers may be.
            key: id of the credential, whose answers may have a length of their own.
            size: what :meth:`size` says of the call, if that is known.
            model: to estimate for, instead of the call's own.
        """
        if model is None:
            model = call.model
        learned = self._models.get(model, self._first)
        text, media = size or self.size(call)
        read = -int(-text // learned.ratio)
        if media:
            read += media * self._media
        if call.operation not in _WRITTEN or call.document is None:
            return read, 0
        answer = self._keys.get((model, key), learned).answer
        most, times = ceiling(call)
        return read, int(answer if most is None or answer < most else most) * times

    def learn(self, model: str | None, key: str | None, size: tuple[int, int], used: tuple[int, int]) -> None:
        """Learn from a call's actual usage, tokens in and tokens out."""
        text, media = size
        read, written = used
        learned = self._models.get(model) or self._new(self._models, model)
        if read and text and not media:
            learned.was_read(text, read)
        if not written:
            return
        learned.was_written(written)
        if key is not None:
            (self._keys.get((model, key)) or self._new(self._keys, (model, key))).was_written(written)

    def _new(self, known: dict[K, Learned], name: K) -> Learned:
        if len(known) >= _MOST:
            known.clear()
        learned = known[name] = Learned(FIRST_RATIO, self._first.answer)
        return learned


def ceiling(call: Call) -> tuple[int | None, int]:
    """The token limit per answer, and the number of answers requested."""
    most, times = call.wanted()
    return most or None, min(times, 128) if times else 1


def _blobs(document: Any) -> tuple[int, int]:
    """Bytes and number of long base64 strings, at any depth, and of image references by URL."""
    size = count = 0
    todo = [document]
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            if node.get("type") in ("image_url", "input_image") and not _inline(node):
                count += 1
            todo.extend(node.values())
        elif isinstance(node, list):
            todo.extend(node)
        elif isinstance(node, str) and len(node) > 512 and _BLOB.match(node):
            size += len(node)
            count += 1
    return size, count


def _inline(node: dict[str, Any]) -> bool:
    address = node.get("image_url")
    if isinstance(address, dict):
        address = address.get("url")
    return isinstance(address, str) and address.startswith("data:")
