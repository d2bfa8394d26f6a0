# Every target does its own set-up in .venv, and does nothing again that is already done.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
SETUP := setup.py pyproject.toml constraints.txt $(wildcard kernels/*/*.cpp kernels/*/*.h kernels/*/*.inc)
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt

.PHONY: help quickstart test test-all test-part plugs mutation-test lint bench gpu-check gpu-tune sanitize clean docs
.DEFAULT_GOAL := help

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: $(BIN)/.nfkern ## train NF-GCBC and two rivals on real data, evaluate them, write a report (about 7 minutes)
	$(BIN)/nfkern demo

# Files are dealt out whole, in the order of `tests/support/suite_rules.py`. OPTIONS are for pytest.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 10

test: $(BIN)/.nfkern-dev ## lint, types, every test but the exhaustive ones, and a look at the speed
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(PYTEST) -m "not exhaustive" $(OPTIONS)
	$(BIN)/nfkern bench guard

test-all: test ## the exhaustive tests, too: every rival, target, sweep and command (about 40 minutes more)
	$(MAKE) test-part PART=exhaustive

# Each of these tests is long, so they are dealt out one by one.
test-part: $(BIN)/.nfkern-dev
	$(BIN)/python -m pytest -n 2 --dist load --maxschedchunk 1 --durations 10 -m "$(PART)" $(OPTIONS)

# Not by the extra's name: every installation of nfkern builds the kernels anew.
PLUGS := import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["plugs"])

plugs: $(BIN)/.nfkern-dev ## install the RL libraries of docs/examples, which are then tested by `make test-all`, too
	$(PIP) $$($(BIN)/python -c '$(PLUGS)')

DOCS := import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"])

# Without -q, which drops warnings before they are counted as errors.
docs: $(BIN)/.nfkern-dev ## build the documentation's site into build/site; warnings are errors
	$(PIP) $$($(BIN)/python -c '$(DOCS)')
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build -f .github/mkdocs.yml
	@echo "build/site/index.html"

mutation-test: $(BIN)/.nfkern-dev ## seed faults in a copy of the tree, and see that `make test` notices each
	$(BIN)/python tests/mutations.py

lint: $(BIN)/.nfkern-dev ## format and fix what can be fixed
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

bench: $(BIN)/.nfkern-dev ## measure the quick benchmark suite, write bench-quick.json and its page, bench-quick.html
	$(BIN)/nfkern bench run --suite quick --out bench-quick.json --overwrite

# No set-up of its own, for a machine with a GPU may have no network: the first Python whose torch finds one.
HAS_GPU := import sys, torch; sys.exit(sys.version_info < (3, 11) or not torch.cuda.is_available())

WITH_GPU = for python in $(BIN)/python $(PYTHON) python3 python; do \
		if $$python -c '$(HAS_GPU)' 2> /dev/null; then $(1); fi; done; \
	echo "$@: no Python >= 3.11 here has a torch that finds a GPU (tried $(BIN)/python, $(PYTHON), python3, python;" \
		"choose one with PYTHON=...). Nothing was done."; exit 2

gpu-check: ## check the kernels on this machine's GPU, then time them (10 minutes; needs torch, triton, numpy, pytest)
	@$(call WITH_GPU,$$python -m pytest -q -rs tests/kernels/test_device.py --device cuda || failed=1; \
		$$python -m nfkern.bench.kernels.gpu_check && exit $${failed:-0}; exit 1)

gpu-tune: ## search for faster launches of the kernels on this machine's GPU (OPTIONS="--match half"; goes on where it was)
	@$(call WITH_GPU,exec $$python -m nfkern.bench.kernels.tune $(OPTIONS))

# In a copy of the tree, so that the extension in use stays as it is. Fresh memory is filled with NaN; CPython's own
# leaks are of no interest; the libraries come first, for Python itself was not built for them.
SANITIZED := build/sanitize
SANITIZERS := ASAN_OPTIONS=detect_leaks=0:max_malloc_fill_size=1000000000:malloc_fill_byte=255 \
	UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libubsan.so)"

sanitize: $(BIN)/.nfkern-dev ## test the CPU kernels under AddressSanitizer and UBSan (about 8 minutes)
	mkdir -p $(SANITIZED)
	find $(SANITIZED) -mindepth 1 -maxdepth 1 ! -name build -exec rm -r {} +
	git ls-files -coz --exclude-standard | xargs -0 cp --parents --no-dereference --preserve=timestamps --target-directory=$(SANITIZED)
	cd $(SANITIZED) && CXX=$(CURDIR)/tests/support/sanitized_cxx.sh $(CURDIR)/$(BIN)/python setup.py -q build_ext --inplace
	cd $(SANITIZED) && $(SANITIZERS) $(CURDIR)/$(BIN)/python -c \
		'import nfkern.kernels as k; k.native_extension.load().__file__.index("$(SANITIZED)")'
	cd $(SANITIZED) && $(SANITIZERS) $(CURDIR)/$(BIN)/python -m pytest -q --capture=sys -p no:cacheprovider \
		-m "not exhaustive(part='arm')" tests/kernels/test_cpu_*.py tests/kernels/test_linear.py tests/kernels/test_causal_affine.py

clean: ## remove the environment and caches; data and runs stay
	rm -rf .venv build kernels/_native*.so *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# torch first and without build isolation: the package is built against the torch that runs it.
$(BIN)/.torch: constraints.txt
	$(PYTHON) -m venv .venv
	@echo "Installing torch (a few minutes the first time) ..."
	$(PIP) torch setuptools wheel ninja
	@touch $@

$(BIN)/.nfkern: $(BIN)/.torch $(SETUP)
	@echo "Installing nfkern and building its native kernels (a few minutes) ..."
	$(PIP) --no-build-isolation -e '.[rl,log]'
	@touch $@

# Not after .nfkern, which it contains: every installation builds the kernels anew.
$(BIN)/.nfkern-dev: $(BIN)/.torch $(SETUP)
	@echo "Installing nfkern with the development tools and building its native kernels (a few minutes) ..."
	$(PIP) --no-build-isolation -e '.[rl,imitation,log,sweep,bench,dev]'
	@touch $(BIN)/.nfkern $@
