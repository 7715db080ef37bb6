# One verb each. On a fresh Debian with python3 (>= 3.11), git and make, `make run` and `make test` install all they need.
PYTHON ?= python3
PORT ?= 4000
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export UV_PROJECT_ENVIRONMENT := $(VENV)
# useradd is there: PostgreSQL refuses to run as root, and the suite makes a user for it
export PATH := $(PATH):/usr/sbin
# the operating system's trust store, as pip does: company proxies have certificates of their own
export UV_SYSTEM_CERTS ?= true
# the suite starts hundreds of processes: without cached bytecode each of them compiles all it imports, for a second
export PYTHONDONTWRITEBYTECODE :=
# most tests wait for processes of their own: five at a time keep two cores busy
WORKERS ?= 5
# tests write to memory where it has room and may run programs: a disk that others keep busy is not what they are about
SCRATCH = $(shell $(PYTHON) -c "import os; s = os.statvfs('/dev/shm'); print('/dev/shm' if s.f_bavail * s.f_frsize > 2 << 30 and not s.f_flag & os.ST_NOEXEC else '')" 2>/dev/null)

.PHONY: install run test check lint types bench bench-translation docs new-plugin clean crash drill outage hang slow overload saturation node-sdks revocation bench-layers bench-added bench-refusals bench-books campaign stutter properties

install: $(STAMP)

# Debian ships python3 without ensurepip; python3-venv brings it. uv itself comes from the package index into a venv of its own.
.uv/bin/uv:
	$(PYTHON) -m venv .uv || { rm -rf .uv; apt-get update -qq && apt-get install -y -qq python3-venv && $(PYTHON) -m venv .uv; }
	.uv/bin/python -m pip install --quiet "uv>=0.9,<0.14"

$(STAMP): uv.lock pyproject.toml $(wildcard plugins/*/pyproject.toml) $(wildcard examples/*/pyproject.toml) | .uv/bin/uv
	.uv/bin/uv sync --quiet --frozen --all-packages --all-extras --python $(PYTHON)
	touch $@

run: install
	$(BIN)/gwcore run examples/quickstart/stack.yaml --port $(PORT)

# a minimal Debian 14 has no useradd
test: install
	@[ "$$(id -u)" != 0 ] || command -v useradd >/dev/null || { apt-get update -qq && apt-get install -y -qq passwd; }
	TMPDIR=$(or $(SCRATCH),$(TMPDIR),/tmp) $(BIN)/python -m pytest -n $(WORKERS) -q

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

check: lint types test

clean:
	rm -rf $(VENV) .uv dist

# nginx (package nginx-light) is measured beside us where it is installed; other gateways with --peer, see benchmarks/bench.py
bench: install
	$(BIN)/python benchmarks/bench.py $(BENCH)

# what translation between dialects costs, pair by pair
bench-translation: install
	$(BIN)/python benchmarks/translation.py

# the official Node SDKs, for tests/fidelity/test_node_sdks.py, which skips without them
node-sdks:
	npm install --prefix tests/node --no-audit --no-fund

# the router and each home of the limits, alone
bench-layers: install
	$(BIN)/python benchmarks/layers.py

# what the watch list, and what keys, limits and money add to a call, on the request path and off it
bench-added: install
	$(BIN)/python benchmarks/added.py $(BENCH)

# whether the time of a 401 tells an unknown id, a wrong secret and a revoked key apart (S2)
bench-refusals: install
	$(BIN)/python benchmarks/refusals.py

# a ledger of ten million attempts: verify, reports, and what `retain` closes, beside calls
bench-books: install
	$(BIN)/python benchmarks/books.py $(BENCH)

# the suite while each test is stopped once for GWCORE_STUTTER seconds (0.6), as a busy machine does: some ten minutes
stutter: install
	$(BIN)/python -m pytest -p tests.stutter -n 6 -q

# every property and state machine with examples of its own, over and over: those of `make test` are the same each time
properties: install
	for run in $$(seq $(RUNS)); do GWCORE_RANDOM=1 $(BIN)/python -m pytest -n $(WORKERS) -q -m hypothesis || exit 1; done

# what needs a machine of its own: redis killed for 20 s under four workers (L7), and no call waits for it (L8)
campaign: install
	GWCORE_CAMPAIGN=1 $(BIN)/python -m pytest -q -s plugins/ratelimit/tests/test_ratelimit_share.py plugins/ratelimit/tests/test_ratelimit_outage.py

# an upstream dies under 100 calls a second: nobody may notice
drill: install
	$(BIN)/python examples/outage_drill/drill.py $(DRILL)

docs: install
	$(BIN)/python docs/generate.py
	@if [ -n "$$GWCORE_RECORDINGS" ]; then $(BIN)/python -m tests.fidelity.table; else echo "docs/fidelity.md needs GWCORE_RECORDINGS: left as it is"; fi
	$(BIN)/python plugins/fallback/tests/fallback_faults.py > docs/reference/faults.md

# an upstream that is down for 30 s under 200 requests a second, and one of two that always fails for 60 s
outage: install
	$(BIN)/python plugins/fallback/tests/outage_campaign.py $(OUTAGE)

# make crash RUNS=20: workers killed under load, on SQLite and PostgreSQL; the upstream's own log is the judge
RUNS ?= 20
crash: install
	$(BIN)/python plugins/budget/tests/crash_campaign.py --runs $(RUNS) $(CRASH)

# make hang DURATION=60: a sink that hangs for so many seconds at 200 calls a second, and gateways killed meanwhile: what callers notice, what is lost
DURATION ?= 600
hang: install
	$(BIN)/python plugins/observability/tests/hang_campaign.py --seconds $(DURATION) $(HANG)

# 10,000 clients that never finish their heads, and one that asks
slow: install
	$(BIN)/python tests/server/slow_campaign.py $(SLOW)

# five times the calls that a worker can serve: it serves as many as before, and refuses the rest at once
overload: install
	$(BIN)/python tests/server/overload_campaign.py $(OVERLOAD)

# one worker, and more clients than it can serve at once: no refusal, no connection left waiting, complete books
saturation: install
	$(BIN)/python tests/stacks/saturation_campaign.py $(SATURATION)

# keys revoked under load on two gateways of two workers: every worker refuses them within a second
revocation: install
	GWCORE_REVOCATION_BOUND=1 $(BIN)/python -m pytest -q -s -n 0 plugins/auth/tests/test_auth_revocation.py -k s4

# make new-plugin NAME=stamp
new-plugin: install
	$(BIN)/gwcore new plugin $(NAME)
