# SPDX-License-Identifier: EUPL-1.2
# The two commands that matter: `make run` starts a box on this machine, `make test` proves it.

TAGS    := sqlite_fts5,sqlite_omit_load_extension,netgo,osusergo
export GOFLAGS := -tags=$(TAGS)
export CGO_ENABLED := 1
VERSION := $(shell git describe --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -linkmode external -extldflags -static -s -w -X main.version=$(VERSION)
SEED    ?= 1
RATE    ?= 1200
N       ?= 20000
ACTIONS ?= 5000
DAYS    ?= 8
EVENTS  ?= 10000
ROOMS   ?= 20
LINK    ?= 1000000
KILLS   ?= 0
ROUNDS  ?= 1
DATA    ?= data
ONLY    ?=
FUZZTIME ?= 20s
BOXES   ?= 1000
NODES   ?= 1
WITH    ?= hub
SLOW    ?= 1
CORES   ?= 0
BOARD   ?=
KEY     ?=
LIKE    ?=
IMAGES  ?= bin/image

PACK    := go run ./tools/pack -out $(IMAGES) $(if $(BOARD),-board $(BOARD)) $(if $(KEY),-key $(KEY)) $(if $(LIKE),-like $(LIKE))

.PHONY: hub image image-test image-smoke image-modules image-repro all build run test demo bench chaos homecoming hubsim lab check dendrite pebble oracle vet staticcheck fuzz vuln clean

all: build

# check says at once what the system itself must bring, and the one command that brings it.
check:
	@command -v go >/dev/null 2>&1 || { echo "Go is missing. Install Go 1.26 or newer from your system's packages or the Go project, then run make again."; exit 1; }
	@command -v cc >/dev/null 2>&1 && echo 'int main(void){return 0;}' | cc -x c -static -o /dev/null - 2>/dev/null || { \
	  echo "A C compiler with the static C library is missing (SQLite needs it). Install it with:"; \
	  echo "    sudo apt-get install -y gcc libc6-dev"; exit 1; }

build: check
	@mkdir -p bin
	go build -trimpath -ldflags '$(LDFLAGS)' -o bin/hallig ./cmd/hallig

# hub is the post office beside the central server, one static program like the box.
hub: check
	@mkdir -p bin
	go build -trimpath -ldflags '$(LDFLAGS)' -o bin/hallig-hub ./cmd/hallig-hub

run: build
	./bin/hallig serve --data $(DATA) --listen 127.0.0.1:8008

# dendrite is the central server of the tests: a program nobody here wrote, in a module of its own, never linked.
dendrite: check
	$(MAKE) -C tools/dendrite build

# pebble is the certificate authority of the tests, likewise.
pebble: check
	@$(MAKE) --no-print-directory -C tools/pebble build

vet: check
	go vet ./...

staticcheck: check
	go tool staticcheck ./...

test: check vet staticcheck dendrite pebble
	@command -v direwolf >/dev/null || echo "Dire Wolf is missing, so the test with a real TNC is skipped. Install it with: sudo apt-get install -y direwolf"
	@ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || echo "PostgreSQL is missing, so the tests of a hub with several nodes are skipped. Install it with: sudo apt-get install -y postgresql"
	go test -shuffle=on -timeout 20m ./...
	@$(MAKE) --no-print-directory -C tools/oracle test SEED=$(SEED)

# oracle plays N random rooms and compares our law with two libraries and with a literal transcription of the specification.
oracle: check
	@$(MAKE) --no-print-directory -C tools/oracle run N=$(N) SEED=$(SEED)

# demo plays the main job over a line of RATE bit/s: about two minutes at 1200, ten at 300.
demo: build dendrite
	go run ./tools/demo -hallig bin/hallig -rate $(RATE) -seed $(SEED)

# chaos lets two boxes and Dendrite live through a random schedule of ACTIONS with partitions and crashes, and compares them.
chaos: build dendrite
	go run ./tools/chaos -hallig bin/hallig -seed $(SEED) -actions $(ACTIONS)

# homecoming has people write EVENTS on each side of a cut in ROOMS rooms, 21 days by the box's clock, and joins the link at LINK bit/s: against Dendrite, and against a Synapse where
# HALLIG_SYNAPSE names one. No box's clock is behind its program, so the program is built with an older date. HUB=1 puts the box behind a hub. KILLS=3 ROUNDS=10 kills either server, or
# the hub, now and then.
homecoming: check dendrite $(if $(HUB),hub)
	@mkdir -p bin
	go build -trimpath -ldflags '-X main.version=$(VERSION) -X main.releasedAt=2026-10-01T00:00:00Z' -o bin/hallig-old ./cmd/hallig
	go run ./tools/homecoming -hallig bin/hallig-old $(if $(HUB),-hub bin/hallig-hub) -seed $(SEED) -events $(EVENTS) -rooms $(ROOMS) -rate $(LINK) -kills $(KILLS) -rounds $(ROUNDS)

# lab lets five boxes on mixed links, in a row and in a ring in which three share a channel, live through DAYS virtual days each, and counts what was lost in the last line.
lab: check
	go run ./tools/lab -seed $(SEED) -days $(DAYS)

bench: build
	go run ./tools/bench -hallig bin/hallig -only '$(ONLY)'

# hubsim puts BOXES boxes before NODES nodes of a hub (one with SQLite, several with PostgreSQL) and says what a box costs and what gives way first. WITH=spool looks at the nodes'
# memory alone: make hubsim WITH=spool BOXES=10000 NODES=3. SLOW=16 lets all clocks go 16 times slower, so that two processors do the work of 32, and CORES gives each node so many of these (as root):
# make hubsim SLOW=16 CORES=2 BOXES=10000 NODES=3, which takes an hour or more.
hubsim: hub
	go run ./tools/hubsim -hub bin/hallig-hub -with '$(WITH)' -boxes $(BOXES) -nodes $(NODES) -slow $(SLOW) -cores $(CORES)

# fuzz gives every fuzz target of the tree FUZZTIME.
fuzz: check
	@for pkg in $$(go list ./...); do \
	  for f in $$(go test -list '^Fuzz' $$pkg 2>/dev/null | grep '^Fuzz'); do \
	    echo "$$pkg $$f"; go test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; \
	  done; done

# image builds what goes onto a box's disk, for BOARD (amd64, arm64, rpi) or for all three; image/README.md tells what comes out.
image: check
	$(PACK)

# image-test tries the images as boxes are used, in QEMU: about 45 minutes on two idle cores, most of them for a day that a box idles. ONLY=boots,cuts plays some of the stories,
# `go run ./tools/imagetest -list` names them; the last line counts. image-smoke is the short way: one box, two people, one message.
image-test: check
	$(MAKE) --no-print-directory image BOARD=amd64
	$(MAKE) --no-print-directory image BOARD=arm64
	go run ./tools/imagetest -images $(IMAGES) -only '$(ONLY)' -seed $(SEED)

image-smoke: check
	$(MAKE) --no-print-directory image BOARD=amd64
	go run ./tools/imagetest -images $(IMAGES) -smoke

# image-modules fetches everything that image needs, so that it works without a network afterwards (GOPROXY=off).
image-modules:
	go mod download
	cd image/gok && GOFLAGS= go build -o /dev/null github.com/gokrazy/tools/cmd/gok
	for b in amd64 arm64 rpi; do (cd image/$$b/builddir && GOFLAGS= go mod download) || exit 1; done

# image-repro builds every image twice, from two copies of the sources in different places, and compares them byte by byte.
image-repro: check
	go run ./tools/pack -repro $(if $(BOARD),-board $(BOARD))

vuln: check
	go tool govulncheck ./...

clean:
	rm -rf bin tools/dendrite/out tools/pebble/out
