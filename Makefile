# SPDX-License-Identifier: GPL-2.0-or-later

PREFIX   ?= /usr/local
DOCDIR   ?= $(PREFIX)/share/doc/remsim
DESTDIR  ?=
FUZZTIME ?= 1m

# The version is a constant of the programs, so git isn't asked.
export GOFLAGS := $(GOFLAGS) -buildvcs=false

.PHONY: help build man demo test bench lint fuzz install clean

help:
	@echo 'make build    the programs, in bin/, with their manual pages and completions'
	@echo 'make man      the manual pages and completions, and doc/manual.md, from the programs'"'"' help'
	@echo 'make demo     a SIM used over the network, all on this computer; PCSC=1: through a real pcscd'
	@echo 'make test     all checks and tests'
	@echo 'make lint     the checks of style only'
	@echo 'make bench    how fast it is; WRITE=1: put it into doc/performance.md'
	@echo 'make fuzz     every fuzz target for FUZZTIME=$(FUZZTIME)'
	@echo 'make install  what make build has made, to DESTDIR=$(DESTDIR) PREFIX=$(PREFIX)'
	@echo 'Debian packages that are missing are installed, by sudo where needed, and named before.'

build man:
	@contrib/install-deps build
	CGO_ENABLED=1 go build -o bin/ ./cmd/...
	@contrib/manuals

demo:
	@contrib/install-deps $(if $(PCSC),pcsc,demo)
	@PCSC='$(PCSC)' contrib/demo.sh

# The check isn't run by go run, which would add a line of its own after the last.
test lint:
	@contrib/install-deps test
	@mkdir -p .cache
	@go build -o .cache/check ./.ci/check
	@.cache/check $(filter lint,$@) </dev/null

# The figures of doc/performance.md stand below its marker.
bench:
	@contrib/install-deps test
	@mkdir -p .cache
	@go run ./internal/e2e/bench >.cache/bench.md; status=$$?; cat .cache/bench.md; exit $$status
	@if [ -n '$(WRITE)' ]; then \
		sed '/^<!-- make bench/q' doc/performance.md >.cache/performance.md && \
		{ cat .cache/performance.md; echo; cat .cache/bench.md; } >doc/performance.md; \
	fi
	go test -run '^$$' -bench . -benchmem ./internal/rspro ./internal/link ./internal/bankd ./internal/server/...

fuzz:
	@contrib/install-deps build
	@.ci/fuzz $(FUZZTIME)

# Doesn't build: root often has no Go in its PATH.
install:
	@test -d bin/share || { echo 'make install: nothing in bin/: run make build first' >&2; exit 1; }
	install -d '$(DESTDIR)$(PREFIX)/bin' '$(DESTDIR)$(PREFIX)/share' '$(DESTDIR)$(DOCDIR)/doc'
	install bin/remsim-* '$(DESTDIR)$(PREFIX)/bin'
	cp -R bin/share/. '$(DESTDIR)$(PREFIX)/share'
	install -m 644 README.md COPYING CHANGELOG.md '$(DESTDIR)$(DOCDIR)'
	install -m 644 doc/*.md '$(DESTDIR)$(DOCDIR)/doc'

clean:
	rm -rf bin .cache
