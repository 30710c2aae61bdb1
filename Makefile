# SPDX-License-Identifier: Apache-2.0
# A thin front door over CMake: how things are built is in CMakeLists.txt.
BUILD ?= build
PREFIX ?= /usr/local
JOBS ?= $(shell nproc)
CMAKE_ARGS ?=
export CMAKE_GENERATOR ?= Ninja

setup = tools/setup.sh
# A new build folder is configured without tests and benchmarks, so that what does not run them does not need their
# libraries; `make test` and `make bench` switch theirs on, and on they stay.
without = $(if $(wildcard $(BUILD)/CMakeCache.txt),,-DMHA_BUILD_TESTS=OFF -DMHA_BUILD_BENCH=OFF)
configure_with = cmake -S . -B $(BUILD) $(without) $(1) $(CMAKE_ARGS) --log-level=WARNING
configure = $(call configure_with)
build = cmake --build $(BUILD) -j $(JOBS)

.PHONY: all demo demo-model demo-decode accuracy demo-mpi test bench bench-peers bench-compare check emulated size wheel test-python test-engines docs test-packaging install clean help

all: ## Build the library and the mha command line (the default)
	@$(setup) build
	@$(configure)
	@$(build) --target mha mha_cli

demo: all ## Run the notebook: output, weights, differences to the reference and to PyTorch, times
	@$(BUILD)/tools/mha notebook

demo-model: ## Sentence embeddings with real MiniLM weights, beside torch (PyPI); ARITHMETIC=bf16, int8, int4
	@$(setup) build
	@$(setup) python $(BUILD)
	@$(configure)
	@tools/demo_model/run.sh $(BUILD) $(if $(ARITHMETIC),--arithmetic $(ARITHMETIC))

demo-decode: ## A small Llama generates through every kind of cache, beside torch (PyPI); FORMAT=all: caches of codes
	@$(setup) build
	@$(setup) python $(BUILD)
	@$(configure)
	@tools/demo_decode/run.sh $(BUILD) $(if $(FORMAT),--format $(FORMAT))

accuracy: ## The error of storing keys and values in 16, 8 and 4 bits, beside ggml's and ONNX Runtime's formats (PyPI)
	@$(setup) build
	@$(setup) python $(BUILD)
	@tools/accuracy/run.sh $(BUILD)

demo-mpi: ## One long context split over 4 MPI ranks, merged to the bits of one process
	@$(setup) build
	@$(setup) mpi
	@$(configure)
	@$(build) --target mha_split_context
	@tools/mpi/run.sh $(BUILD)

test: ## Build and run all tests
	@$(setup) build
	@$(setup) test
	@$(call configure_with,-DMHA_BUILD_TESTS=ON -DMHA_BUILD_BENCH=ON)
	@$(build)
	@ctest --test-dir $(BUILD) --output-on-failure -j $(JOBS)

bench: ## Build and run the benchmarks (BENCH_ARGS=--quick for a short look)
	@$(setup) build
	@$(setup) bench
	@$(call configure_with,-DMHA_BUILD_BENCH=ON)
	@$(build) --target mha_bench
	@bench/run.sh $(BUILD) $(BENCH_ARGS)

bench-peers: ## Time mha beside torch, onnxruntime, openvino, oneDNN, MKL, OpenBLAS, ggml (PyPI; PEERS_ARGS=--quick)
	@$(setup) build
	@$(setup) peers
	@bench/peers/run.sh $(BUILD) $(PEERS_ARGS)

bench-compare: ## Say what moved between two results: A=old.json B=new.json
	@python3 bench/compare.py $(A) $(B)

wheel: ## Build the Python wheel mha-cpu into build/wheel (PyPI; WHEEL_ARCH=aarch64 by the cross compiler)
	@$(setup) build
	@$(setup) wheel $(WHEEL_ARCH)
	@tools/python/build_wheel.sh $(BUILD) $(WHEEL_ARCH)

test-python: wheel ## Test the wheel in a clean environment, with torch and transformers (PyPI)
	@tools/python/test_wheel.sh $(BUILD)

test-engines: ## Test the adapters inside ONNX Runtime, ggml and others (PyPI; ENGINES="onnxruntime ggml": some)
	@$(setup) build
	@$(setup) engines
	@$(configure)
	@$(build) --target mha mha_cli
	@tools/engines/run.sh $(BUILD) $(ENGINES)

docs: ## Build the site of the project into build/docs, with its links checked (PyPI)
	@$(setup) docs
	@tools/docs/build.sh $(BUILD)

test-packaging: all ## Build and try the packages: Debian, conan (PyPI), vcpkg, SBOM (PACKAGES="debian conan": some)
	@$(setup) packaging
	@tools/packaging/test.sh $(BUILD) $(PACKAGES)

check: ## Everything beyond the tests: sanitizers, other CPUs, symbols, style, mutants, fuzzing (about an hour)
	@$(setup) build
	@$(setup) test
	@$(setup) check
	@tools/check/run.sh

emulated: ## Tests of every x86-64 target on an emulated CPU with AMX, for a machine without (ten minutes)
	@$(setup) build
	@$(setup) test
	@tools/check/emulated.sh

size: ## Print the size of the library and of a minimal program
	@$(setup) build
	@tools/check/size.sh

install: all ## Install under PREFIX (default /usr/local); DESTDIR is honoured
	@cmake --install $(BUILD) --prefix $(PREFIX)

clean: ## Remove the build folder
	@cmake -E rm -rf $(BUILD)

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
