# Every target sets up what it needs; a second run finds it there. All paths are relative, because
# make cannot name a target with a space in it, and this folder may stand under such a path.

PYTHON ?= python3
# The oldest Python that is supported, for test-oldest.
PYTHON_OLDEST ?= python3.11
VENV ?= .venv
VENV_OLDEST ?= .venv-oldest
# ArcticDB holds pandas back, so it has an environment of its own.
export VENV_ARCTICDB ?= .venv-arcticdb
PORT ?= 9000
PYTEST_ARGS ?=
# Tests mostly wait. What minds company is kept together: tests/conftest.py.
SIDE_BY_SIDE = --numprocesses=2 --dist=loadgroup
BENCH_ARGS ?=

PIP_INSTALL = -m pip --disable-pip-version-check --quiet install

.PHONY: run test test-oldest lint bench bench-peers bench-wire soak crash hostile faults push warm-start yahoo yahoo-faults systemd clean

run: $(VENV)/.run
	$(VENV)/bin/twistd -n --pidfile= quoteshm --port $(PORT) --synthetic

test: $(VENV)/.dev
	$(VENV)/bin/python -m pytest $(SIDE_BY_SIDE) $(PYTEST_ARGS)

# The lowest versions that pyproject.toml promises to work with.
test-oldest: $(VENV_OLDEST)/.dev
	$(VENV_OLDEST)/bin/python -m pytest $(SIDE_BY_SIDE) $(PYTEST_ARGS)

lint: $(VENV)/.dev
	$(VENV)/bin/python -m ruff check
	$(VENV)/bin/python -m ruff format --check
	$(VENV)/bin/python -m mypy

# Every question of bench/README.md, next to what users would pick instead: some twelve minutes. The
# figures and the chart go to .cache; BENCH_ARGS="--chart docs" draws the README's own.
bench: bench-peers
	mkdir -p .cache
	$(VENV)/bin/python -m bench --json .cache/bench.json --chart .cache $(BENCH_ARGS)

# What is measured next to ours. A peer that cannot be installed is a row that says so.
bench-peers: $(VENV)/.dev
	$(VENV)/bin/python -m bench.programs
	-@$(MAKE) --no-print-directory $(VENV_ARCTICDB)/.ready

# The wire next to Redis, which apt-get installs where it is missing: bench/README.md.
bench-wire: $(VENV)/.dev
	$(VENV)/bin/python -m bench.wire --install-redis

# A minute of reading in every way, while a daemon publishes 100 batches a second and is killed.
soak: $(VENV)/.dev
	$(VENV)/bin/python -m tests.campaigns.soak

# 1,500 kills of the daemon, at random and at each named step, under readers of all kinds.
crash: $(VENV)/.dev
	$(VENV)/bin/python -m tests.campaigns.crash

# Clients that mean no good, at a daemon that is to mind none of them; the last minute all at once.
hostile: $(VENV)/.dev
	$(VENV)/bin/python -m tests.campaigns.hostile

# 1,000 subscribers to 500 tickers ten times a second; some are slow or die, and so does the daemon.
push: $(VENV)/.dev
	$(VENV)/bin/python -m tests.campaigns.push

# Every system call fails in turn, bits flip, disks are full, clocks jump; takes gcc.
faults: $(VENV)/.dev
	$(VENV)/bin/python -m tests.campaigns.faults

# 5,000 tickers of 2,520 bars after a kill, and out of the archive after a reboot: how soon they are back.
warm-start: $(VENV)/.dev
	$(VENV)/bin/python -m tests.campaigns.warm_start

# An hour of trading of 500 tickers at a local Yahoo, a fast clock, a storm in the middle.
yahoo: $(VENV)/.dev
	$(VENV)/bin/python -m tests.campaigns.yahoo

# A daemon for each of Yahoo's bad days: what is healthy, readable, said, asked for and blocked.
yahoo-faults: $(VENV)/.dev
	$(VENV)/bin/python -m tests.campaigns.yahoo_faults

# The units of deploy/ under a systemd of its own, in namespaces; takes root and systemd.
systemd: $(VENV)/.dev
	$(VENV)/bin/python -m tests.campaigns.systemd

clean:
	rm -rf $(VENV) $(VENV_OLDEST) $(VENV_ARCTICDB) .cache dist build _trial_temp* .pytest_cache .mypy_cache \
	  .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is written last, so that an interrupted set-up is begun again.
$(VENV)/.pip:
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python $(PIP_INSTALL) --upgrade "pip>=25.1"
	touch $@

$(VENV)/.run: $(VENV)/.pip pyproject.toml
	$(VENV)/bin/python $(PIP_INSTALL) --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.pip pyproject.toml
	$(VENV)/bin/python $(PIP_INSTALL) --editable . --group test --group lint
	touch $@

$(VENV_OLDEST)/.dev: pyproject.toml Makefile
	$(PYTHON_OLDEST) -m venv --clear $(VENV_OLDEST)
	$(VENV_OLDEST)/bin/python $(PIP_INSTALL) --upgrade "pip>=25.1"
	$(VENV_OLDEST)/bin/python $(PIP_INSTALL) --editable . --group test --group oldest
	touch $@

$(VENV_ARCTICDB)/.ready: pyproject.toml
	$(PYTHON) -m venv --clear $(VENV_ARCTICDB)
	$(VENV_ARCTICDB)/bin/python $(PIP_INSTALL) --upgrade "pip>=25.1"
	$(VENV_ARCTICDB)/bin/python $(PIP_INSTALL) --group arcticdb
	touch $@
