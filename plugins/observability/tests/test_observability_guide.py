"""The sink that the guide shows is a sink."""

import re
import sys
import types
from pathlib import Path

from obs_world import STACK, ask, ok

from gwcore.catalog import Catalog
from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream

GUIDE = Path(__file__).parents[3] / "docs/guide/observability.md"


async def test_the_sink_of_the_guide(tmp_path):
    code = next(c for c in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL) if "class Bill(" in c)
    module = types.ModuleType("gwcore_bill")
    sys.modules["gwcore_bill"] = module
    exec(code, module.__dict__)
    try:
        async with FakeUpstream(ok(), Answer(500)) as up, FakeUpstream() as accounting:
            watch = f'  - bill: {{url: "{accounting.url}/bills", outbox: {{folder: {tmp_path}}}}}'
            made = Gateway(STACK.format(up=up.url, stack="", watch=watch), catalog=Catalog(module), env={})
            async with running(made) as url:
                await ask(url)
                await ask(url)
                await accounting.received(1)
        (seen,) = accounting.requests
        assert seen.document == {"who": None, "nano_usd": 23000}
    finally:
        del sys.modules["gwcore_bill"]
