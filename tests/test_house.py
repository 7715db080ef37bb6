"""The house rules, kept by the suite."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    path
    for top in ("src", "plugins", "examples")
    for path in (ROOT / top).rglob("*.py")
    if ".venv" not in path.parts and "tests" not in path.parts
)
CODE = sorted(
    {
        *SOURCES,
        *(ROOT / "tests").rglob("*.py"),
        *(ROOT / "plugins").rglob("tests/*.py"),
        *(ROOT / "benchmarks").rglob("*.py"),
    }
)
CORE = [path for path in SOURCES if path.is_relative_to(ROOT / "src/gwcore")]
VENDORS = re.compile(
    r"\b(openai|anthropic|gemini|azure|mistral|groq|ollama|bedrock|cohere|voyage|claude|gpt)\b", re.IGNORECASE
)
# imports inside functions: a verb imports what it needs, and optional drivers are dear
LAZY = {
    "assemble.py": "the admin API and its starlette only where somebody decides who may use it",
    "cli.py": "a verb imports what it needs",
    "resources.py": "httpx2 only where a stack asks for it",
}


def test_every_distribution_is_typed():
    typed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    ours = {"src", *(f"plugins/{path.parent.name}/src" for path in (ROOT / "plugins").glob("*/src"))}
    assert set(typed["files"]) == set(typed["mypy_path"].split(":")) == ours


def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def module(path):
    if "src" not in path.parts:
        return path.stem  # a script
    parts = list(path.relative_to(path.parents[len(path.parts) - 2 - path.parts.index("src")]).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def runs(name):
    """The modules that an import of one runs: its packages, and itself."""
    parts = name.split(".")
    return {".".join(parts[:at]) for at in range(1, len(parts) + 1)}


def imports(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def test_there_is_something_to_check():
    assert len(CORE) > 25
    assert "gwcore.call" in {module(path) for path in SOURCES}


def test_no_import_circle():
    names = {module(path): path for path in SOURCES}
    graph = {
        name: {run for i in imports(path) for run in runs(i) - runs(name) if run in names}
        for name, path in names.items()
    }
    done, path_to = set(), []

    def visit(name):
        assert name not in path_to, f"circle: {' -> '.join([*path_to[path_to.index(name) :], name])}"
        if name in done:
            return
        path_to.append(name)
        for other in sorted(graph[name]):
            visit(other)
        path_to.pop()
        done.add(name)

    for name in sorted(graph):
        visit(name)


@pytest.mark.parametrize("path", CODE, ids=lambda p: str(p.relative_to(ROOT)))
def test_size(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{node.name} is {node.end_lineno - node.lineno + 1} lines"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_import_inside_a_function(path):
    if path.name in LAZY:
        return
    for function in ast.walk(tree(path)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            # an optional driver or server says so on the line
            lines = path.read_text(encoding="utf-8").splitlines()
            inner = [
                n
                for n in ast.walk(function)
                if isinstance(n, ast.Import | ast.ImportFrom) and "PLC0415 - an optional" not in lines[n.lineno - 1]
            ]
            assert not inner, f"{function.name} imports"


# what a user of the template changes shows an example
@pytest.mark.parametrize("path", [p for p in CORE if p.name != "template.py"], ids=lambda p: str(p.relative_to(ROOT)))
def test_core_names_no_vendor_in_code(path):
    """Docstrings and comments may; strings and names may not."""
    code = tree(path)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(code)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    attribute_docs = {
        id(n.value) for n in ast.walk(code) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)
    }
    allowed = {"openai.chat"} if path.name == "cli.py" else {"anthropic-version"} if path.name == "show.py" else set()
    for node in ast.walk(code):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in docstrings | attribute_docs
        ):
            assert node.value in allowed or not VENDORS.search(node.value), node.value


@pytest.mark.parametrize("path", CORE, ids=lambda p: str(p.relative_to(ROOT)))
def test_who_imports_what(path):
    found = set(imports(path))
    if path.name not in {"catalog.py", "hookspecs.py", "assemble.py"} and "testing" not in path.parts:
        assert "pluggy" not in found
    assert not any(name.startswith("gwcore_") for name in found)
    assert not {n.partition(".")[0] for n in found} & {"openai", "anthropic", "google", "httpx"}


def test_plugins_import_only_the_core_and_themselves():
    for path in (p for p in SOURCES if "plugins" in p.relative_to(ROOT).parts):
        own = module(path).partition(".")[0]
        strangers = {n.partition(".")[0] for n in imports(path) if n.startswith("gwcore_")} - {own}
        assert not strangers, f"{path.name} imports {strangers}"


def test_nothing_names_this_machine():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    marks = [str(ROOT), "/" + "root/", ".lib" + "rary/"]
    for name in listed:
        file = ROOT / name
        if name.endswith(".lock") or not file.is_file():
            continue
        text = file.read_text(encoding="utf-8", errors="ignore")
        assert not [mark for mark in marks if mark in text], name


# ── the static rules of the security checks ──────────────────────────────────────────────────────────────────────────

RUNS_CODE = {"eval", "exec", "compile", "__import__"}
BANNED_MODULES = {"code", "dill", "jinja2", "marshal", "pickle", "pty", "shelve", "subprocess", "yaml"}
BANNED_NAMES = {"literal_eval", "BaseHTTPMiddleware", "create_subprocess_exec", "create_subprocess_shell"}
SECRET = re.compile(r"(secret|digest|proof|signature|password)$")
HANDED = {"bedrock/credentials.py": {"create_subprocess_exec"}}  # credential_process of the operator's own AWS profile
HINTS = {"feed.py"}  # of the store's changes: whatever ails them, what is cached runs out and is refused


def said(node):
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def breaches(code):
    """What no line of ours may do."""
    for node in ast.walk(code):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [n.name for n in node.names]
            modules = names if isinstance(node, ast.Import) else [node.module or ""]
            yield from BANNED_MODULES & {name.partition(".")[0] for name in modules} | BANNED_NAMES & set(names)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield from RUNS_CODE & {node.func.id}
        elif isinstance(node, ast.Attribute):
            yield from BANNED_NAMES & {node.attr}
            if said(node.value) == "os" and node.attr.startswith(("exec", "popen", "spawn", "system")):
                yield f"os.{node.attr}"


def laxities(code):
    """What no line may do beside that which decides who may."""
    for node in ast.walk(code):
        if isinstance(node, ast.Attribute) and node.attr == "url" and said(node.value) == "request":
            yield "request.url"  # a client's Host header is part of it
        elif isinstance(node, ast.ExceptHandler) and (node.type is None or "Exception" in ast.dump(node.type)):
            caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            yield from {
                "except Exception" for one in caught if one is None or said(one) in {"Exception", "BaseException"}
            }
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Eq | ast.NotEq):
            yield from {"== of secrets" for side in (node.left, *node.comparators) if SECRET.search(said(side))}


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if "examples" not in p.relative_to(ROOT).parts], ids=lambda p: str(p.relative_to(ROOT))
)
def test_static_rules(path):
    code = tree(path)
    assert set(breaches(code)) <= HANDED.get("/".join(path.parts[-2:]), set())
    if path.is_relative_to(ROOT / "plugins/auth/src") and path.name not in HINTS:
        assert not set(laxities(code))


@pytest.mark.parametrize(
    "line",
    [
        "eval('1')",
        "import pickle",
        "import yaml",
        "from subprocess import run",
        "from starlette.middleware.base import BaseHTTPMiddleware",
        "os.system('x')",
        "ast.literal_eval(x)",
        "asyncio.create_subprocess_exec('x')",
        "request.url.path",
        "try: x\nexcept Exception: y",
        "try: x\nexcept (OSError, Exception): y",
        "try: x\nexcept: y",
        "row.digest == found",
    ],
)
def test_control_the_static_rules_see_it(line):
    code = ast.parse(line)
    assert [*breaches(code), *laxities(code)]
