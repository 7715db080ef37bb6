"""What is logged is JSON and quotes nobody, whoever logs it."""

import asyncio
import json
import logging
import subprocess
import sys

from gwcore import log

LIBRARIES = """
import asyncio, gc, logging
from gwcore import log

log.setup()

async def fails():
    raise ValueError("canary-of-a-prompt")

async def main():
    task = asyncio.create_task(fails())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    del task
    gc.collect()
    future = asyncio.get_running_loop().create_future()
    future.set_result("canary-of-a-prompt")
    asyncio.get_running_loop().call_exception_handler({"message": "odd", "future": future})

asyncio.run(main())
logging.getLogger("driver").warning("the key %s is odd\\nand more", "sk-proj-abcdefgh12345678")
logging.getLogger("driver").info("not of interest")
try:
    fails_too = {}["canary-of-a-prompt"]
except KeyError:
    logging.getLogger("driver").exception("it broke")
"""


def test_what_libraries_log_is_a_line_of_ours_without_values():
    told = subprocess.run([sys.executable, "-c", LIBRARIES], capture_output=True, text=True, timeout=60, check=True)
    lines = [json.loads(line) for line in told.stderr.splitlines()]
    assert [(line["logger"], line["level"], line["event"], line.get("error")) for line in lines] == [
        ("asyncio", "error", "Task exception was never retrieved", "ValueError"),
        ("asyncio", "error", "odd", None),
        ("driver", "warning", "the key [redacted] is odd\nand more", None),
        ("driver", "error", "it broke", "KeyError"),
    ]
    assert "canary" not in told.stderr and "fails" in lines[0]["at"][-1] and not told.stdout


def test_where_an_exception_was_raised_is_told_by_file_line_and_function():
    async def deep():
        raise LookupError("canary")

    try:
        asyncio.run(deep())
    except LookupError as error:
        places = log.places(error)
    assert len(places) <= 4 and places[-1].endswith(" deep") and __file__ in places[-1] and "canary" not in str(places)


def test_the_threshold_is_a_name_of_a_level(monkeypatch):
    monkeypatch.setenv("GWCORE_LOG_LEVEL", "warning")
    assert (log.threshold(), log.threshold("debug"), log.threshold("odd")) == (30, 10, logging.INFO)
