# SPDX-License-Identifier: GPL-2.0-or-later

PREFIX   ?= /usr/local
DOCDIR   ?= $(PREFIX)/share/doc/remsim
DESTDIR  ?=
FUZZTIME ?= 1m
SCENARIOS ?= 3000
SEED     ?= $(shell date +%s)
CYCLES   ?= 1000
DURATION ?= 60m

# Where pcscd looks for drivers and readers, whatever the prefix of programs is. One that is neither of
# these is no place for the whole system.
PCSC_PREFIX   := $(if $(filter /usr /usr/local,$(PREFIX)),,$(PREFIX))
DRIVERDIR     ?= $(if $(PCSC_PREFIX),$(PCSC_PREFIX),/usr)/lib/pcsc/drivers
READERCONFDIR ?= $(PCSC_PREFIX)/etc/reader.conf.d
BUNDLE        ?= bin/ifd-remsim-client.bundle
# Where udev looks for rules when PREFIX is /usr or /usr/local.
UDEVDIR       ?= $(PREFIX)/lib/udev/rules.d
# Where systemd and polkit look, likewise. The units read /etc/default.
SYSTEMDDIR    ?= $(PREFIX)/lib/systemd/system
SYSUSERSDIR   ?= $(PREFIX)/lib/sysusers.d
DEFAULTDIR    ?= $(PCSC_PREFIX)/etc/default
POLKITDIR     ?= $(if $(PCSC_PREFIX),$(PCSC_PREFIX),/usr)/share/polkit-1/rules.d

# What the programs are built from, for --version: git's commit, and when it was made in seconds. In a tar ball that stands in
# internal/daemon/version.go already; where it isn't known, a Debian package's build knows the date. git is told where the
# repository is, so that it takes no other, nor asks whose it is.
GIT    := git --git-dir=.git --work-tree=.
SOURCE  = $(shell if [ -e .git ]; then $(GIT) log -1 --no-show-signature \
	--format="%H$$(GIT_OPTIONAL_LOCKS=0 $(GIT) status --porcelain -uno | sed -n '1s/.*/-modified/p') %ct"; else \
	sed -n 's/^var source = "$$F.*"/unknown '"$$SOURCE_DATE_EPOCH"'/p' internal/daemon/version.go; fi)
export GOFLAGS := $(GOFLAGS) -buildvcs=false

# How programs for use are built: so that it doesn't matter where, and hardened, also without what dpkg-buildflags says. They are
# linked by the C compiler, as Go's own linker knows not all of that. STRIP=1 leaves out what only debuggers need.
CPPFLAGS ?= -D_FORTIFY_SOURCE=2
CFLAGS   ?= -g -O2 -fstack-protector-strong -Wformat -Werror=format-security
LDFLAGS  ?= -Wl,-z,relro -Wl,-z,now
GOLINK    = -buildid= $(if $(STRIP),-s -w) $(if $(SOURCE),-X "remsim/internal/daemon.source=$(SOURCE)")
GOBUILD   = CGO_ENABLED=1 CGO_CPPFLAGS='$(CPPFLAGS)' CGO_CFLAGS='$(CFLAGS)' \
	go build -trimpath -ldflags='$(GOLINK) -linkmode=external "-extldflags=$(LDFLAGS)"'
# Programs for routers and the like: no library is needed, not even C's, and no room taken for debuggers.
STATIC       := remsim-server remsim-client-shell remsim-apitool
STATIC_ARCHS ?= amd64 arm64 arm riscv64 mips mipsle

.PHONY: help build man programs driver static release deb doc demo test test-faults test-doc test-packages bench lint fuzz soak install install-driver install-units clean

help:
	@echo 'make build    the programs and the PC/SC driver, in bin/, with their manual pages and completions'
	@echo 'make static   programs that need no library, in bin/static/, for STATIC_ARCHS="$(STATIC_ARCHS)"'
	@echo 'make release  tar balls and Debian packages of the last commit for amd64, arm64, armhf, those of make static, SHA256SUMS;'
	@echo '              in bin/release/, each of them started once'
	@echo 'make deb      Debian packages of this tree as it is, in bin/deb/'
	@echo 'make man      the manual pages and completions, and doc/programs.md, from the programs'"'"' help'
	@echo 'make doc      the manual, as HTML and PDF, in bin/doc/'
	@echo 'make demo     a SIM used over the network, all on this computer; PCSC=1: through a real pcscd'
	@echo 'make test     all checks and tests; those in a Debian system with systemd take root'
	@echo 'make test-usb those of them that are on USB, in a virtual computer, with all that they say'
	@echo 'make test-faults  those in which lines are cut, programs killed and disks full, with what they have measured'
	@echo 'make test-doc all commands of the manual and of README.md, as they stand there'
	@echo 'make test-packages  Debian packages: built twice, installed, used, in the C suite'"'"'s place, purged; FRESH=1: each build from nothing'
	@echo 'make lint     the checks of style only'
	@echo 'make bench    how fast it is; WRITE=1: put it into doc/performance.md'
	@echo 'make fuzz     every fuzz target for FUZZTIME=$(FUZZTIME)'
	@echo 'make soak     real programs under a swarm with faults for DURATION=$(DURATION); SCENARIOS=$(SCENARIOS) random ones of'
	@echo '              faults, from SEED=N on; CYCLES=$(CYCLES) times a card is put into a remote PC/SC reader and taken out'
	@echo 'make install  what make build has made, and units for systemd, to DESTDIR=$(DESTDIR) PREFIX=$(PREFIX)'
	@echo 'Debian packages that are missing are installed, by sudo where needed, and named before.'

build man:
	@contrib/install-deps build
	@$(MAKE) --no-print-directory programs driver
	@contrib/manuals

PROGRAMS ?= $(filter-out remsim-ifd,$(notdir $(wildcard cmd/*)))
programs:
	$(GOBUILD) -buildmode=pie -o bin/ $(PROGRAMS:%=./cmd/%)

# The PC/SC driver is a library in a bundle, not a program.
driver:
	$(GOBUILD) -buildmode=c-shared -o '$(BUNDLE)/Contents/Linux/libifd_remsim_client.so' ./cmd/remsim-ifd
	@rm -f '$(BUNDLE)/Contents/Linux/libifd_remsim_client.h'
	@install -m 644 contrib/pcsc/Info.plist contrib/pcsc/PkgInfo '$(BUNDLE)/Contents'

# mips has no PIE in Go, and a static one needs the C library; so these are neither.
static:
	@contrib/install-deps demo
	@set -e; for arch in $(STATIC_ARCHS); do \
		CGO_ENABLED=0 GOOS=linux GOARCH=$$arch GOARM=7 GOMIPS=softfloat go build -trimpath -ldflags='-s -w $(GOLINK)' \
			-o bin/static/$$arch/ $(STATIC:%=./cmd/%); \
	done

# Each of them is started before anybody else does.
release:
	@contrib/install-deps release
	@contrib/release
	REMSIM_RELEASE='$(CURDIR)/bin/release' go test -count=1 -timeout 20m -v -run '^TestArtifacts$$' ./internal/e2e/release

doc:
	@contrib/install-deps doc
	@contrib/book

deb:
	@contrib/install-deps deb
	@contrib/package bin/deb
	@ls bin/deb/*.deb

demo:
	@contrib/install-deps $(if $(PCSC),pcsc,demo)
	@PCSC='$(PCSC)' contrib/demo.sh

# The check isn't run by go run, which would add a line of its own after the last.
test lint:
	@contrib/install-deps test
	@mkdir -p .cache
	@go build -o .cache/check ./.ci/check
	@.cache/check $(filter lint,$@) </dev/null

test-usb:
	@contrib/install-deps test
	go test -count=1 -timeout 20m -v ./internal/e2e/usb </dev/null

test-faults:
	@contrib/install-deps test
	go test -race -count=1 -timeout 20m -v ./internal/e2e/wan ./internal/e2e/faults ./internal/e2e/clock </dev/null

test-doc:
	@contrib/install-deps test
	go test -count=1 -timeout 20m ./internal/e2e/manual </dev/null

test-packages:
	@contrib/install-deps test
	REMSIM_FRESH='$(FRESH)' go test -count=1 -timeout 40m -v ./internal/e2e/machine ./internal/e2e/packages </dev/null

# The figures of doc/performance.md stand below its marker.
bench:
	@contrib/install-deps test
	@mkdir -p .cache
	@{ go run ./internal/e2e/bench && go run ./internal/e2e/usb/bench; } >.cache/bench.md; status=$$?; cat .cache/bench.md; exit $$status
	@if [ -n '$(WRITE)' ]; then \
		sed '/^<!-- make bench/q' doc/performance.md >.cache/performance.md && \
		{ cat .cache/performance.md; echo; cat .cache/bench.md; } >doc/performance.md && \
		go test -count=1 -run '^TestFigures$$' ./internal/e2e/manual -write; \
	fi
	go test -run '^$$' -bench . -benchmem ./internal/rspro ./internal/link ./internal/bankd ./internal/server/...

fuzz:
	@contrib/install-deps build
	@.ci/fuzz $(FUZZTIME)

soak:
	@contrib/install-deps test
	REMSIM_SOAK='$(DURATION)' REMSIM_SEED='$(SEED)' go test -count 1 -timeout 0 -v -run '^TestSoak$$' ./internal/e2e/soak
	go test -race -count 1 -timeout 0 -run '^TestScenarios$$' ./internal/e2e -scenarios '$(SCENARIOS)' -seed '$(SEED)'
	REMSIM_CYCLES='$(CYCLES)' go test -race -count 1 -timeout 0 -v -run '^TestCycles$$' ./internal/e2e/ifd

# Doesn't build: root often has no Go in its PATH.
install: install-driver install-units
	@test -d bin/share || { echo 'make install: nothing in bin/: run make build first' >&2; exit 1; }
	install -d '$(DESTDIR)$(PREFIX)/bin' '$(DESTDIR)$(PREFIX)/share' '$(DESTDIR)$(DOCDIR)/doc' \
		'$(DESTDIR)$(DOCDIR)/event-scripts' '$(DESTDIR)$(DOCDIR)/prometheus' '$(DESTDIR)$(DOCDIR)/grafana' \
		'$(DESTDIR)$(DOCDIR)/wireshark' '$(DESTDIR)$(DOCDIR)/backend' '$(DESTDIR)$(UDEVDIR)'
	install bin/remsim-* '$(DESTDIR)$(PREFIX)/bin'
	@find bin/share -type f | while IFS= read -r file; do \
		install -D -m 644 "$$file" '$(DESTDIR)$(PREFIX)/share'/"$${file#bin/share/}" || exit 1; \
	done
	install -m 644 README.md COPYING CHANGELOG.md '$(DESTDIR)$(DOCDIR)'
	install -m 644 doc/*.md '$(DESTDIR)$(DOCDIR)/doc'
	install contrib/event-scripts/* '$(DESTDIR)$(DOCDIR)/event-scripts'
	install -m 644 contrib/udev/60-remsim.rules '$(DESTDIR)$(UDEVDIR)'
	install -m 644 contrib/prometheus/remsim.rules.yml '$(DESTDIR)$(DOCDIR)/prometheus'
	install -m 644 contrib/grafana/remsim.json '$(DESTDIR)$(DOCDIR)/grafana'
	install -m 644 contrib/wireshark/rspro.lua '$(DESTDIR)$(DOCDIR)/wireshark'
	install contrib/backend/remsim-schedule '$(DESTDIR)$(DOCDIR)/backend'
	install -m 644 contrib/backend/README.md contrib/backend/schedule.toml '$(DESTDIR)$(DOCDIR)/backend'

# Files of the bundle are replaced, not written to, as pcscd may have them loaded. The links are where serial drivers are,
# and where reader files for the C suite's driver look for it, unless that is there. Readers that are set up stay.
install-driver: DRIVERS = $(DESTDIR)$(DRIVERDIR)
install-driver: READERS = $(DESTDIR)$(READERCONFDIR)/remsim-client
install-driver:
	@test -d '$(BUNDLE)' || { echo 'make install: no $(BUNDLE): run make build first' >&2; exit 1; }
	install -d '$(DRIVERS)/ifd-remsim-client.bundle/Contents/Linux' '$(DRIVERS)/serial' '$(DESTDIR)$(READERCONFDIR)'
	install -m 644 '$(BUNDLE)/Contents/Info.plist' '$(BUNDLE)/Contents/PkgInfo' '$(DRIVERS)/ifd-remsim-client.bundle/Contents'
	install -m 644 '$(BUNDLE)/Contents/Linux/libifd_remsim_client.so' '$(DRIVERS)/ifd-remsim-client.bundle/Contents/Linux'
	ln -sfn ../ifd-remsim-client.bundle/Contents/Linux/libifd_remsim_client.so '$(DRIVERS)/serial/libifd_remsim_client.so'
	@if [ -d '$(DRIVERS)/libifd-osmo-remsim-client.bundle' ] && [ ! -L '$(DRIVERS)/libifd-osmo-remsim-client.bundle' ]; then \
		echo "make install: the C suite's driver stays where it is" >&2; \
	else \
		ln -sfn ifd-remsim-client.bundle '$(DRIVERS)/libifd-osmo-remsim-client.bundle'; \
	fi
	@test -e '$(READERS)' || { sed 's,/usr/lib/pcsc/drivers,$(DRIVERDIR),' contrib/pcsc/reader.conf >'$(READERS)' && chmod 644 '$(READERS)'; }

# Files of /etc/default that are there stay. The units answer to the names of the C suite's, unless those are there.
install-units: UNITS = $(DESTDIR)$(SYSTEMDDIR)
install-units: DEFAULTS = $(DESTDIR)$(DEFAULTDIR)
install-units:
	install -d '$(UNITS)' '$(DEFAULTS)' '$(DESTDIR)$(SYSUSERSDIR)' '$(DESTDIR)$(POLKITDIR)' '$(DESTDIR)$(PREFIX)/share/remsim-client-st2'
	@defaults='$(DEFAULTS)'; install -d "$${defaults%/*}/remsim"
	@for unit in contrib/systemd/*.service; do \
		name=$${unit##*/}; sed 's,/usr/bin/remsim,$(PREFIX)/bin/remsim,' "$$unit" >'$(UNITS)'/"$$name" && chmod 644 '$(UNITS)'/"$$name" || exit 1; \
		case $$name in remsim-clients.service) continue;; esac; \
		if [ -e '$(DESTDIR)/lib/systemd/system'/osmo-"$$name" ] && [ ! -L '$(DESTDIR)/lib/systemd/system'/osmo-"$$name" ]; then \
			echo "make install: the C suite's osmo-$$name stays what it is" >&2; \
		else \
			ln -sfn "$$name" '$(UNITS)'/osmo-"$$name" || exit 1; \
		fi; \
	done
	@for file in contrib/default/*; do \
		to='$(DEFAULTS)'/"$${file##*/}"; \
		[ -e "$$to" ] || { sed 's,/usr/share/doc/remsim-client-st2/examples,$(DOCDIR)/event-scripts,' "$$file" >"$$to" && chmod 644 "$$to"; } || exit 1; \
	done
	@for file in contrib/systemd/*.sysusers; do \
		name=$${file##*/}; install -m 644 "$$file" '$(DESTDIR)$(SYSUSERSDIR)'/"$${name%.sysusers}.conf" || exit 1; \
	done
	install -m 644 contrib/polkit/remsim-bankd.rules '$(DESTDIR)$(POLKITDIR)'
	install -m 644 contrib/systemd/event-scripts-as-root.conf '$(DESTDIR)$(PREFIX)/share/remsim-client-st2'

clean:
	rm -rf bin .cache
