# make demo   set up and watch the main job: record, lose the network, deliver everything
# make test   set up and run everything that CI runs

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= --constraint constraints.txt
BIN = $(VENV)/bin

# Hundreds of processes import the same modules, so their byte code is kept, whatever the environment says.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test ready all-tests check packaged foreign lint debian wheel deb release apt-repo clean

demo: $(VENV)/.installed
	$(BIN)/telemetry-agent demo

test: debian all-tests lint

# The Python packages that the tests need, and the byte code of the tests, which each of the six
# workers would compile otherwise. The run reports tests that cannot be collected.
ready: node_modules/.installed-test $(VENV)/.installed-test
	@$(BIN)/python -m pytest --collect-only -qq tests >/dev/null || true

# Six at a time on two processors: most tests wait for a network, a disk or a receiver.
PARALLEL = -n 6 --dist worksteal

# The tests of check and packaged together: a container that boots leaves the processors to others.
all-tests: node_modules/.installed-test tests/apps/node_modules/.installed $(VENV)/.installed-test
	@$(call run_tests,$(PARALLEL) --durations 10,tests)

# SELECT='-m "not once"' leaves out the tests that are run on one Python only (tests/once.py).
check: node_modules/.installed-test tests/apps/node_modules/.installed $(VENV)/.installed-test
	@$(call run_tests,$(PARALLEL) --durations 10 $(SELECT),tests --ignore tests/packages)

# The packages, installed in Debian systems that boot. The first run makes their root file systems,
# which takes some minutes, and keeps them (tests/packages/roots.py).
packaged: node_modules/.installed-test $(VENV)/.installed-test
	@$(call run_tests,-n 2 --dist worksteal --durations 5,tests/packages)

# run_tests OPTIONS,TESTS: hundreds of tests start real servers, browsers and networks, which share
# this machine. A test that failed beside others runs once more, alone, and is named at the end, as
# a fault to mend. A test that fails both times fails the run.
define run_tests
$(BIN)/python -m pytest $(1) $(2) || { [ $$? = 1 ] || exit 1; \
  printf '\nThese failed beside others. Each runs once more, by itself:\n'; \
  $(BIN)/python -m pytest -vv -x --last-failed --last-failed-no-failures none $(2) && \
  printf 'UNSTEADY: they passed by themselves. Mend them (CONTRIBUTING.md, "Tests that wait").\n'; }
endef

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# Wheel and sdist in dist/, complete: without the page's libraries this fails. Every file in them
# has the date of the commit, so that the same commit gives the same bytes.
wheel: node_modules/.installed-test $(VENV)/.installed-test
	TELEMETRY_AGENT_RELEASE=1 SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) \
	  $(BIN)/python -m hatchling build -d dist

# The packages for armhf and arm64 under an emulator, which takes 15 minutes and needs the folder of
# recordings in TELEMETRY_AGENT_CORPUS; not in CI.
foreign: node_modules/.installed-test $(VENV)/.installed-test
	@dpkg -s qemu-user-static >/dev/null 2>&1 || apt-get install -y -qq qemu-user-static
	$(BIN)/python -m pytest -rP tests/packages/foreign.py

# The Debian packages, from the wheel: release/build_debs.py.
deb: wheel
	$(BIN)/python release/build_debs.py dist/telemetry_agent-$$($(BIN)/python release/version.py)-*.whl dist

# Everything that is published of this commit: release/make_release.py makes it twice and compares.
release: node_modules/.installed-test $(VENV)/.installed-test
	rm -rf dist
	$(BIN)/python release/make_release.py dist

# A repository for apt in dist/apt, signed: make apt-repo KEY=releases@example.com, after a release.
apt-repo:
	@if [ -z "$(KEY)" ]; then echo 'name your key: make apt-repo KEY=… (gpg --list-secret-keys)' >&2; exit 2; fi
	$(BIN)/python release/apt_repo.py dist dist/apt "$(KEY)"

# The packages of npm that the tests of the page need. The wheel takes the page's libraries from
# them; without them it fetches only those.
node_modules/.installed-test: package-lock.json
	@if command -v npm >/dev/null; then npm ci --ignore-scripts --loglevel=error && touch $@; \
	elif [ -n "$$CI" ]; then echo 'Node 20 with npm is missing' >&2; exit 1; \
	else echo 'without Node 20 and npm the page is not tested, and has no map' >&2; fi

# Servers of other people, for tests/servers.
tests/apps/node_modules/.installed: tests/apps/package.json
	@if command -v npm >/dev/null; then \
	cd tests/apps && npm install --ignore-scripts --no-package-lock --no-audit --no-fund --loglevel=error && touch node_modules/.installed; \
	elif [ -n "$$CI" ]; then echo 'Node 20 with npm is missing' >&2; exit 1; \
	else echo 'without Node 20 and npm the tests of Express and Node-RED are skipped' >&2; fi

# The pictures of the page in docs/pictures, as the browser tests take them.
.PHONY: pictures
pictures: debian node_modules/.installed-test $(VENV)/.installed-test
	TELEMETRY_AGENT_PICTURES=docs/pictures $(BIN)/python -m pytest \
	  tests/page/test_browser.py tests/page/test_health.py -k "amber or contact or worst"

# The page in Debian's firefox-esr, which CI does not have.
.PHONY: firefox
firefox: node_modules/.installed-test $(VENV)/.installed-test
	TELEMETRY_AGENT_FIREFOX=firefox-esr $(BIN)/python -m pytest tests/page/test_firefox.py

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

# In Debian, venv is a package apart from Python.
.PHONY: python-venv
python-venv:
	@if [ "$$(id -u)" = 0 ]; then apt-get update -qq && apt-get install -y -qq python3-venv; \
	else echo 'Python has no venv here: sudo apt-get install python3-venv' >&2; exit 1; fi

# Programs that tests start. Without root they are named to the user; in CI they must be installed.
DEBIAN_PACKAGES = btrfs-progs caddy chromium clickhouse-server debootstrap gnupg gpsd gpsd-clients influxdb \
  iproute2 lintian nginx-light openssl php-cli postgresql prometheus sqlite3 strace \
  systemd systemd-container victoria-metrics zookeeper
debian:
	@missing=''; for p in $(DEBIAN_PACKAGES); do dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ]; then apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing; \
	else echo "some tests need: sudo apt-get install$$missing" >&2; fi

clean:
	rm -rf .venv .venv-* dist node_modules tests/apps/node_modules telemetry_agent/page/static/vendor .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
