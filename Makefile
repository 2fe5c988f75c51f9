# The two commands of the README are `make demo` and `make test`; `make help` lists the rest.
# Each target does the set-up it needs; repeats are quick.

BINARY := build/release/bin/mixwright
JOBS ?= $(shell nproc)

.PHONY: help setup configure build test demo zoo bench fuzz crash asan format lint clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

setup:  ## system packages, virtual environment, pinned sources
	@tools/setup.sh build

configure: setup
	@cmake --preset release >build/configure.log 2>&1 || { cat build/configure.log; exit 1; }

build: configure  ## build/release/bin/mixwright
	@cmake --build --preset release -j $(JOBS) --target mixwright

test: configure  ## everything that has to hold, against the oracles
	@tools/setup.sh test
	@cmake --build --preset release -j $(JOBS)
	@ctest --test-dir build/release --output-on-failure -j $(JOBS)

demo: build  ## real specialists of SmolLM2, and a MoE made of them
	@tools/setup.sh demo
	@tools/demo.sh $(BINARY)

zoo: build  ## small mixtures of experts, trained from scratch into build/zoo
	@tools/setup.sh test
	@tools/zoo/run.sh $(BINARY)

bench: build  ## our figures beside the competitors', in one run
	@tools/setup.sh test
	@bench/run.sh $(BINARY)

asan:  ## tests of all that parses untrusted bytes, under address and undefined-behaviour sanitizers
	@tools/setup.sh build
	@cmake --preset asan >build/configure.log 2>&1 || { cat build/configure.log; exit 1; }
	@cmake --build --preset asan -j $(JOBS)
	@ctest --test-dir build/asan --output-on-failure -j $(JOBS)

fuzz:  ## libFuzzer over every parser (SECONDS=60 a target)
	@tools/setup.sh fuzz
	@fuzz/run.sh $(or $(SECONDS),60)

crash: build  ## kill -9 at random moments, I/O faults at every call
	@tests/crash/run.sh $(BINARY) $(or $(KILLS),200)

format:  ## clang-format over the tree
	@git ls-files '*.h' '*.cpp' | xargs clang-format -i

lint: build  ## clang-tidy
	@git ls-files 'src/*.cpp' | xargs clang-tidy -p build/release --quiet

clean:  ## remove what was built (the virtual environment stays)
	rm -rf build/release build/debug build/asan build/fuzz
