"""Types for configuration models of plugins and the core: from what people write to what code needs.

========== ==================================== ===================================
type       written as                           becomes
========== ==================================== ===================================
Duration   ``250ms`` ``30s`` ``1h30m`` ``7d``   ``float`` seconds
Rate       ``600/min`` ``200k/day`` ``5/10s``   :class:`Rate` (amount, per)
Money      ``$12.50`` ``12.50 USD`` ``12.5``    ``int`` nano-dollars
Price      ``$2.50/M`` ``$10/k`` ``$0.04/1``    ``int`` nano-dollars per million units
Size       ``20MB`` (10⁶) ``16MiB`` (2²⁰)       ``int`` bytes
StoreRef   a name of ``stores``                 ``str``, checked against ``stores``
FileRef    a path, from the stack file's folder ``str``, of a file that exists
AdminSecret 32 characters or more, no example   ``SecretStr``
========== ==================================== ===================================

No message of this module contains the rejected value, which may have come from ``${VAR}``.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    PlainSerializer,
    SecretStr,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

STORES: Final = "stores"
"""Key of the validation context: the names of the stack file's stores, for :data:`StoreRef`."""

FOLDER: Final = "folder"
"""Key of the validation context: the folder of the stack file."""

DOLLAR: Final = 1_000_000_000
"""Nano-dollars in a dollar."""

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhdw]))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")
_PLAIN = re.compile(r"\d+(?:\.\d+)?")
_PERIODS = {
    **dict.fromkeys(("s", "sec", "second"), 1.0),
    **dict.fromkeys(("m", "min", "minute"), 60.0),
    **dict.fromkeys(("h", "hour"), 3600.0),
    **dict.fromkeys(("d", "day"), 86400.0),
}
_SCALE = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmg]?)\s*/\s*(\d*)\s*([a-z]+)", re.IGNORECASE)
_BYTES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmg]?i?b?)", re.IGNORECASE)
_MONEY = re.compile(r"\$?\s*(\d[\d_]*(?:\.\d+)?)(?:\s*USD)?", re.IGNORECASE)

_PRICE = re.compile(r"\$?\s*(\d[\d_]*(?:\.\d+)?)(?:\s*USD)?\s*/\s*(M|k|1|s|min|h)")
_UNITS = {"M": 10**6, "k": 10**3, "1": 1, "s": 1, "min": 60, "h": 3600}

_MIN_SECRET, _MIN_DISTINCT = 32, 8
# Searched anywhere in the value, ignoring case, dashes, underscores and spaces: a padded example is still an example.
_EXAMPLES = (
    "sk1234", "changeme", "changethis", "replaceme", "yourapikey", "yourkey", "yoursecret", "yourmaster", "apikeyhere",
    "example", "placeholder", "password", "insertkey", "masterkey", "12345678", "abcdefgh", "xxxxxxxx", "secret",
)  # fmt: skip


def fault(message: str, mend: str) -> PydanticCustomError:
    """An error for a validator to raise: what is wrong, and what to write instead. Neither may contain the value."""
    return PydanticCustomError("gwcore", "{message}", {"message": message, "mend": mend})


def first_fault(error: ValidationError) -> str:
    """The first pydantic error: location, message, and for a :func:`fault` what to write instead. Contains no value."""
    first = error.errors(include_url=False, include_input=False)[0]
    mend = first.get("ctx", {}).get("mend")
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}" + (f"; {mend}" if mend else "")


def suggest(word: str, among: Iterable[str], otherwise: str) -> str:
    """``did you mean …?`` if there is a close match, else ``otherwise``."""
    close = difflib.get_close_matches(word, list(among), n=2)
    return f"did you mean {' or '.join(close)}?" if close else otherwise


def _number(value: Any) -> float | None:
    """A finite number that is not negative, or ``None``. Booleans are not numbers here."""
    fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    return value if fits else None


def parse_duration(value: Any) -> float:
    """Seconds of ``250ms``, ``1h30m`` or a bare number of seconds. Raises ``PydanticCustomError``."""
    number = _number(value)
    if number is not None:
        return float(number)
    text = value.replace(" ", "") if isinstance(value, str) else ""
    if _PLAIN.fullmatch(text):
        return float(text)
    if _DURATION.fullmatch(text):
        return math.fsum(float(n) * _SECONDS[unit] for n, unit in _DURATION_PART.findall(text))
    raise fault("is not a duration", "write a number and a unit, such as 250ms, 30s, 10m, 1h30m or 7d")


def parse_size(value: Any) -> int:
    """Bytes of ``20MB``, ``16MiB`` or a bare number of bytes. Raises ``PydanticCustomError``."""
    number = _number(value)
    if number is not None and number == int(number):
        return int(number)
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    factor = _BYTES.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise fault("is not a size", "write a number and a unit, such as 512KiB, 20MB or 1GB")
    return int(Decimal(match[1]) * factor)


def parse_money(value: Any) -> int:
    """Nano-dollars of ``$12.50``, ``12.50 USD`` or a bare number of dollars. Raises ``PydanticCustomError``."""
    text = str(value) if _number(value) is not None else value
    try:
        match = _MONEY.fullmatch(text.strip())
        dollars = Decimal(match[1] if match else text)
    except (InvalidOperation, AttributeError):
        dollars = Decimal("NaN")
    if not dollars.is_finite() or dollars < 0:
        raise fault("is not an amount of money", "write dollars, such as $5, 12.50 or 0.002 USD")
    nano = dollars * DOLLAR
    if nano != nano.to_integral_value():
        raise fault("is finer than a nano-dollar", "write at most nine decimals")
    return int(nano)


def parse_price(value: Any) -> int:
    """Nano-dollars per million units of ``$2.50/M``, ``$10/k``, ``$0.04/1`` or ``$0.36/h`` (of seconds); 0 is free.

    Raises ``PydanticCustomError``.
    """
    text = str(value) if _number(value) is not None else value
    if isinstance(text, str) and text.strip().lstrip("$").strip() in {"0", "0.0"}:
        return 0
    match = _PRICE.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise fault("is not a price", "write dollars per so many units: $2.50/M, $10/k, $0.04/1, or $0.36/h of audio")
    nano = Decimal(match[1]) * DOLLAR * 10**6 / _UNITS[match[2]]
    if nano != nano.to_integral_value() and match[2] not in {"min", "h"}:
        raise fault("is finer than a nano-dollar per million", "write at most nine decimals of dollars per million")
    return int(nano)


@dataclass(frozen=True, slots=True)
class Rate:
    """``amount`` per ``per`` seconds: ``600/min``, ``200k/min``, ``1.5M/day``, ``5/10s``."""

    amount: int
    per: float  # whole

    @classmethod
    def parse(cls, value: Any) -> Rate:
        """Parse a value of a stack file. Raises ``PydanticCustomError``."""
        if isinstance(value, Rate):
            return value
        match = _RATE.fullmatch(value.strip()) if isinstance(value, str) else None
        period = _PERIODS.get(match[4].lower()) if match else None
        if match is None or period is None:
            raise fault("is not a rate", "write an amount, a slash and a period, such as 10/s, 600/min or 200k/day")
        amount, count = Decimal(match[1]) * _SCALE[match[2].lower()], int(match[3] or 1)
        if amount != int(amount) or amount < 1 or count < 1:
            raise fault("is not a whole amount of at least 1", "choose a longer period: 30/min instead of 0.5/s")
        return cls(int(amount), count * period)

    def __str__(self) -> str:
        return f"{self.amount}/{int(self.per)}s"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(
            cls.parse,
            core_schema.is_instance_schema(cls),
            json_schema_input_schema=core_schema.str_schema(),
            serialization=core_schema.to_string_ser_schema(),
        )


def _known_store(name: str, info: ValidationInfo) -> str:
    stores = (info.context or {}).get(STORES)
    if stores is not None and name not in stores:
        mend = suggest(name, stores, f"use one of: {', '.join(stores)}; or add it under stores")
        raise fault("names a store that does not exist", mend)
    return name


def strong(secret: SecretStr, least: int = _MIN_SECRET) -> SecretStr:
    """The secret; raises a :func:`fault` if it is too short, an example, or has too few different characters."""
    value = secret.get_secret_value()
    mend = "make one with: openssl rand -hex 32"
    flat = re.sub(r"[-_\s]", "", value.lower())
    if any(example in flat for example in _EXAMPLES):
        raise fault("is an example, not a secret", mend)
    if len(value) < least:
        raise fault(f"is too short for a secret: at least {least} characters", mend)
    if len(set(value)) < _MIN_DISTINCT:
        raise fault("has too few different characters to be a secret", mend)
    return secret


def exact_usd(nano: int) -> str:
    """Nano-dollars as dollars, a JSON number with nine decimals: ``0.000000125``. A float would not be exact."""
    return (b"%d.%09d" % divmod(nano, DOLLAR)).decode()


def _as_price(nano: int) -> str:
    return f"{Decimal(nano) / DOLLAR:f} USD/M"


def _as_dollars(nano: int) -> str:
    return f"{Decimal(nano) / DOLLAR:f} USD"


Duration = Annotated[float, BeforeValidator(parse_duration, json_schema_input_type=float | str)]
"""Seconds. A bare number is seconds."""

Size = Annotated[int, BeforeValidator(parse_size, json_schema_input_type=int | str)]
"""Bytes. ``MB`` is 10⁶, ``MiB`` is 2²⁰; a bare number is bytes."""

Money = Annotated[
    int, BeforeValidator(parse_money, json_schema_input_type=float | str), PlainSerializer(_as_dollars, return_type=str)
]
"""Nano-dollars, exact. A bare number is dollars; dumped as ``5 USD``, so that a dump can be parsed again."""

Price = Annotated[
    int, BeforeValidator(parse_price, json_schema_input_type=float | str), PlainSerializer(_as_price, return_type=str)
]
"""Nano-dollars per million units, exact; dumped as ``2.5 USD/M``. Only 0 may be written without a unit."""

StoreRef = Annotated[str, AfterValidator(_known_store), Field(validate_default=True)]
"""The name of a store. Names not in ``stores`` are rejected when the stack file is read, including defaults."""


def _known_store_if_any(name: str | None, info: ValidationInfo) -> str | None:
    return None if name is None else _known_store(name, info)


OptionalStoreRef = Annotated[str | None, AfterValidator(_known_store_if_any)]
"""The name of a store, or none."""


def _readable(path: str, info: ValidationInfo) -> str:
    file = (info.context or {}).get(FOLDER, Path()) / path
    if not file.is_file():
        raise fault("names a file that does not exist", "correct the path; it starts from the stack file's folder")
    return str(file)


FileRef = Annotated[str, AfterValidator(_readable)]
"""The path of an existing file; relative paths start from the stack file's folder."""

AdminSecret = Annotated[SecretStr, AfterValidator(strong)]
"""A secret that protects the gateway itself: at least 32 characters, and no value found in examples."""
