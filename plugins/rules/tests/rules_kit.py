"""A stack with rules, its plugin, and what one call becomes."""

import asyncio
import textwrap

from gwcore.assemble import assemble
from gwcore.call import Outcome
from gwcore.catalog import Catalog
from gwcore.resources import Resources
from gwcore.testing.fakes import call

STACK = """\
gwcore: 1
upstreams:
  up:
    provider: openai-compatible
    base_url: http://127.0.0.1:1/v1
    prices:
      small: {input: $0.1/M, output: $0.4/M}
      middle: {input: $1/M, output: $5/M}
      tiny: {input: $0.005/M, output: $0.02/M, context_window: 8000, max_output: 4000}
      large: {input: $3/M, output: $15/M}
  free: {provider: openai-compatible, base_url: "http://127.0.0.1:1/v1"}
models:
  small: up/small
  middle: up/middle
  tiny: up/tiny
  large: up/large
  vision: up/large
  code: up/middle
  unpriced: free/m
  both: [up/small, up/large]
stack:
  - rules:
      rules:
"""


def plugin_of(rules, clock=None):
    """The plugin of a stack with these rules."""
    text = STACK + textwrap.indent(textwrap.dedent(rules).strip("\n"), " " * 8) + "\n"
    stack = assemble(text, Catalog(), Resources(), {})
    plugin = stack.placed[0].plugin
    if clock is not None:
        plugin.clock = clock
    return plugin


def asked(text="hi", *, model="auto", headers=None, principal=None, tags=(), operation=None, **fields):
    made = call(text, model=model, **fields)
    made.asked = model
    made.headers = [*made.headers, *((name.encode(), value.encode()) for name, value in (headers or {}).items())]
    made.principal = principal
    made.tags = frozenset(tags)
    made.operation = operation or made.operation
    return made


def chosen(plugin, made):
    """The call as it comes out of the layer."""

    async def inner(x):
        return Outcome(200)

    asyncio.run(plugin.call_layer(inner)(made))
    return made


def rule_of(made):
    """The rule that the answer will name."""
    return dict(made.reply.added()).get(b"x-gwcore-rule", b"").decode()
