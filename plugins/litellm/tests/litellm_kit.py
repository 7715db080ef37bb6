"""A ``config.yaml`` as text, and what is made of it."""

import re
import secrets
import textwrap

import yaml

from gwcore.assemble import assemble
from gwcore.catalog import Catalog
from gwcore.resources import Resources
from gwcore_litellm.importer import imported, variables

_VALUES = {
    r"DATABASE_URL": "postgresql://gwcore:pw@db/gwcore",
    r"REDIS.*PORT": "6379",
    r"REDIS.*URL": "redis://hot:6379/0",
    r"REDIS.*HOST": "hot",
    r"BASE|URL|ENDPOINT|HOST": "http://127.0.0.1:1",
    r"LOCATION|REGION": "us-east-1",
    r"PROJECT": "project-1",
}


def environment(text):
    """A sound value for each variable that a stack file needs."""
    found = {}
    for name in variables(text):
        known = (value for pattern, value in _VALUES.items() if re.search(pattern, name))
        found[name] = next(known, secrets.token_hex(32))
    return found


def made(folder, text, name="config.yaml"):
    """The stack file as data, and what is said of each key by its path; the stack file assembles."""
    file = folder / name
    file.write_text(textwrap.dedent(text))
    written, findings = imported(file)
    stack = folder / "stack.yaml"
    stack.write_text(written)
    assemble(stack, Catalog(), Resources(), environment(written))
    said = {}
    for finding in findings:
        said.setdefault(finding.where, []).append((str(finding.status), finding.said))
    return yaml.safe_load(written), said


def entry(stack, name, section="stack"):
    """The settings of a plugin in a stack file; ``None`` where it is not in it."""
    for one in stack[section]:
        if one == name:
            return {}
        if isinstance(one, dict) and name in one:
            return one[name]
    return None


def statuses(said, where):
    """What status the findings about a path have."""
    return [status for status, _ in said[where]]
