# make demo   set up and watch the main job: record, lose the network, deliver everything
# make test   set up and run everything that CI runs

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= --constraint constraints.txt
BIN = $(VENV)/bin

.PHONY: demo test check lint debian clean

demo: $(VENV)/.installed
	$(BIN)/telemetry-agent demo

test: debian check lint

# Four at a time: most tests wait for a network, a disk or a receiver, not for a processor.
check: node_modules/.installed-test $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 4 --dist worksteal

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# What the tests of the page drive a browser with; before Python's side, which takes from it, or
# fetches for itself what an installation needs, and no more.
node_modules/.installed-test: package-lock.json
	@if command -v npm >/dev/null; then npm ci --ignore-scripts --loglevel=error && touch $@; \
	elif [ -n "$$CI" ]; then echo 'Node 20 with npm is missing' >&2; exit 1; \
	else echo 'without Node 20 and npm the page is not tested, and has no map' >&2; fi

# The pictures of the page in docs/pictures, as the browser tests take them.
.PHONY: pictures
pictures: debian node_modules/.installed-test $(VENV)/.installed-test
	TELEMETRY_AGENT_PICTURES=docs/pictures $(BIN)/python -m pytest tests/page/test_browser.py -k amber

$(BIN)/python:
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); $(MAKE) python-venv && $(PYTHON) -m venv $(VENV); }

$(VENV)/.installed: $(BIN)/python pyproject.toml package-lock.json
	$(BIN)/pip install --quiet --editable '.[page]'
	@touch $@

$(VENV)/.installed-test: $(BIN)/python pyproject.toml package-lock.json constraints.txt
	$(BIN)/pip install --quiet $(CONSTRAINTS) --editable '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: $(VENV)/.installed-test
	$(BIN)/pip install --quiet $(CONSTRAINTS) --editable '.[dev]'
	@touch $@

# Debian ships venv apart from Python.
.PHONY: python-venv
python-venv:
	@if [ "$$(id -u)" = 0 ]; then apt-get update -qq && apt-get install -y -qq python3-venv; \
	else echo 'Python has no venv here: sudo apt-get install python3-venv' >&2; exit 1; fi

# Programs that tests start. Without root they are asked for, and in CI they must be there.
DEBIAN_PACKAGES = caddy chromium clickhouse-server gpsd gpsd-clients influxdb iproute2 nginx-light \
  openssl postgresql prometheus systemd victoria-metrics
debian:
	@missing=''; for p in $(DEBIAN_PACKAGES); do dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ]; then apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing; \
	else echo "some tests need: sudo apt-get install$$missing" >&2; fi

clean:
	rm -rf .venv .venv-* node_modules telemetry_agent/page/static/vendor .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
