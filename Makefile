# vzpy: `make demo` and `make test` set up all they need on Debian 12 or newer, as root.
# `make install` puts the tools into PREFIX; PYTHON is the interpreter they will start with.

PYTHON  ?= /usr/bin/python3
PREFIX  ?= /usr
DESTDIR ?=

VENV    := .venv
READY   := $(VENV)/ready
TOOLS   := vzctl vzlist vzpid vzpkg vz vzeventd vz-fdkeep vzcalc vzcfgscale vzcfgvalidate vzcpucheck vzmemcheck vznetaddbr vznetcfg vznetstat vzoversell vzsplit vzubc vzquota vzdqcheck vzdqdump vzdqload vzdump vzrestore
LIB     := $(PREFIX)/lib/vzpy
MAN     := $(PREFIX)/share/man
COMP    := $(PREFIX)/share/bash-completion/completions
UNITS   := $(PREFIX)/lib/systemd/system

.PHONY: help demo test test-fast test-vm test-long lint format docs bench install uninstall clean

help:
	@echo 'make demo       the life of a VPS on this machine, in ./demo.run'
	@echo 'make test       everything: linters, unit, node and VM suites'
	@echo 'make test-fast  linters, unit tests and the heart of the node suite'
	@echo 'make test-vm    all of the node suite in the virtual machine (up to an hour)'
	@echo 'make test-long  a thousand rounds of a life, five hundred in eight threads'
	@echo 'make lint       ruff, mypy --strict, shellcheck, the floors'
	@echo 'make docs       man pages and completions, from the tables'
	@echo 'make bench      figures against crun, runc, lxc and podman'
	@echo 'make install    into PREFIX (/usr), below DESTDIR; make uninstall takes it away'

# --- set-up ---------------------------------------------------------------------------------

$(READY): pyproject.toml tools/need.sh
	tools/need.sh run
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: $(READY)
	tools/demo.sh

# --- tests ----------------------------------------------------------------------------------

lint: $(READY)
	$(VENV)/bin/pytest tests/test_linters.py tests/test_floors.py

test: $(READY)
	tools/need.sh test
	tools/test.sh $(VENV)/bin/pytest

test-fast: $(READY)
	$(VENV)/bin/pytest tests/unit tests/test_floors.py tests/test_linters.py \
		tests/node/test_lifecycle.py tests/node/test_inside.py tests/node/test_exec.py tests/node/test_enter.py \
		-m 'not slow and not network'

test-vm: $(READY)
	tools/need.sh test
	VZ_TEST_VM_ALL=1 $(VENV)/bin/pytest tests/vm

test-long: $(READY)
	VZ_TEST_ROUNDS=1000 $(VENV)/bin/pytest -k rounds tests/node/test_lifecycle.py tests/node/test_threads.py

bench: $(READY)
	tools/need.sh bench
	@for bench in lifecycle density disk network; do \
		echo "== $$bench"; began=$$(date +%s); \
		PYTHONPATH=. $(VENV)/bin/python tests/bench/$$bench.py || [ $$? = 77 ] || exit 1; \
		echo "== $$bench: $$(($$(date +%s) - began)) s"; \
	done

docs: $(READY)
	$(VENV)/bin/python -m vzpy.manpages docs completions

# --- installation ---------------------------------------------------------------------------

install: $(READY)
	rm -rf $(DESTDIR)$(LIB)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-compile \
		--target $(DESTDIR)$(LIB) .
	rm -rf $(DESTDIR)$(LIB)/bin
	$(PYTHON) -m compileall -q -s "$(DESTDIR)" -p / $(DESTDIR)$(LIB)
	$(PYTHON) -ISX no_debug_ranges $(DESTDIR)$(LIB)/vzpy/bundling.py $(DESTDIR)$(LIB)/vzpy $(LIB)/vzpy
	install -d $(DESTDIR)$(PREFIX)/sbin $(DESTDIR)$(MAN)/man8 $(DESTDIR)$(MAN)/man5 \
		$(DESTDIR)$(COMP) $(DESTDIR)$(UNITS) $(DESTDIR)/etc/init.d
	for tool in $(TOOLS); do \
		sed -e '1s|.*|#!$(PYTHON) -IS|' -e 's|@LIB@|$(LIB)|' \
			tools/launcher.in > $(DESTDIR)$(PREFIX)/sbin/$$tool; \
		chmod 755 $(DESTDIR)$(PREFIX)/sbin/$$tool; \
	done
	for page in docs/man/*.[58]; do \
		install -m 644 $$page $(DESTDIR)$(MAN)/man$${page##*.}/; \
	done
	install -m 644 completions/* $(DESTDIR)$(COMP)/
	for unit in vz vzeventd; do \
		sed 's|@SBIN@|$(PREFIX)/sbin|' templates/system/$$unit.service \
			> $(DESTDIR)$(UNITS)/$$unit.service; \
	done
	sed 's|@SBIN@|$(PREFIX)/sbin|' templates/system/vz.init > $(DESTDIR)/etc/init.d/vz
	chmod 755 $(DESTDIR)/etc/init.d/vz
ifeq ($(DESTDIR),)
	$(PREFIX)/sbin/vz setup
	! $(PREFIX)/sbin/vzeventd --status >/dev/null || $(PREFIX)/sbin/vzeventd --replace
	! [ -d /run/systemd/system ] || systemctl daemon-reload
endif

uninstall:
ifeq ($(DESTDIR),)
	! [ -x $(PREFIX)/sbin/vzeventd ] || $(PREFIX)/sbin/vzeventd --stop || true
	! [ -x $(PREFIX)/sbin/vz ] || $(PREFIX)/sbin/vz setup --remove
endif
	for tool in $(TOOLS); do \
		rm -f $(DESTDIR)$(PREFIX)/sbin/$$tool $(DESTDIR)$(COMP)/$$tool; \
	done
	for page in docs/man/*.[58]; do \
		rm -f $(DESTDIR)$(MAN)/man$${page##*.}/$${page##*/}; \
	done
	rm -f $(DESTDIR)$(UNITS)/vz.service $(DESTDIR)$(UNITS)/vzeventd.service $(DESTDIR)/etc/init.d/vz
	rm -rf $(DESTDIR)$(LIB)
	-rmdir -p --ignore-fail-on-non-empty $(DESTDIR)$(COMP) $(DESTDIR)$(UNITS) 2>/dev/null

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
