"""Shared fixtures and helpers."""

import gc
import gzip
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis.strategies import none

RECORDINGS = Path(os.environ.get("GWCORE_RECORDINGS") or "/nonexistent")


def pytest_report_header():
    if not (RECORDINGS / "dev.jsonl.gz").is_file():
        return "gwcore: NO RECORDINGS (GWCORE_RECORDINGS is unset): only the goldens of our own writing run"
    return f"gwcore: recordings from {os.environ['GWCORE_RECORDINGS']}"


def pytest_collection_finish():
    """Freeze the garbage collector: thousands of collected tests live to the end and need not be scanned repeatedly.

    Hypothesis makes its random numbers with its first test, and warns if it finds no object that refers to them; in what
    is frozen, none can be found.
    """
    given(none())(lambda _: None)()
    gc.collect()
    gc.freeze()


def load_recordings():
    """All recorded exchanges; empty if there are none."""
    file = RECORDINGS / "dev.jsonl.gz"
    if not file.is_file():
        return []
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="session")
def recordings():
    found = load_recordings()
    if not found:
        pytest.skip("GWCORE_RECORDINGS is unset: recorded traffic was NOT tested")
    return found
