# Every target works as the first command after `git clone`: it makes .venv from the lock when that is missing.
# TORCH=cpu (or cu128, …) picks another PyTorch build through uv's torch backend; JOBS runs notebooks side by side.
PYTHON ?= python3
JOBS   ?= 2
TORCH  ?=
BIN    := .venv/bin
UV     := $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python
unexport PYTHONDONTWRITEBYTECODE  # set in many containers: every process would then compile the sources of PyTorch anew

.PHONY: install dev reports sample test test-slow lint lab docs lock bench clean

reports: install              ## run every notebook on the phantoms and write reports/index.html
	$(BIN)/medcore reports --jobs $(JOBS)

test: dev                     ## unit tests, then every notebook under nbmake
	bash tests/run.sh

test-slow: dev                ## the long campaigns: kills, byte flips, coverage of intervals, folds on Dask and Ray
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow -n 2 $(SLOW)

lab: install                  ## JupyterLab in the same environment
	$(BIN)/jupyter lab notebooks

lint: dev                     ## what pre-commit and CI check
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/nbstripout --verify --extra-keys "metadata.kernelspec.display_name metadata.language_info" notebooks/*.ipynb
	$(BIN)/python tests/check_versions.py
	$(BIN)/python tests/structure.py

sample: install               ## reports/sample, from a new run of 04 and 06 or, with FROM=reports/<run>, from one that is there
	$(if $(FROM),,$(BIN)/medcore reports 04 06 --out build/sample)
	$(BIN)/python tests/slim_sample.py $(or $(FROM),build/sample) reports/sample

ROOMS := data metrics models training evaluation studies plots reporting.run reporting.results reporting.parameters

docs: dev                     ## the API reference as offline HTML in build/docs, made from the docstrings
	$(BIN)/pdoc --docformat google --no-show-source -o build/docs medcore $(addprefix medcore.,$(ROOMS))

bench: dev                    ## speed side by side with peers, 25 minutes on two idle cores; writes benchmarks/RESULTS.md
	bash benchmarks/all.sh

lock:                         ## resolve the newest versions into both locks and environment.yml
	$(PYTHON) -m venv .venv && $(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --no-emit-index-url --python-version 3.11 \
		pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --no-emit-index-url --python-version 3.11 \
		pyproject.toml --extra dev -c requirements.lock -o requirements-dev.lock

install: .venv/installed      ## .venv with the locked versions
dev: .venv/installed-dev      ## … and the tools of tests and lint

.venv/uv:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else f"Python 3.11 to 3.13 is needed, this is {v[0]}.{v[1]}: make PYTHON=python3.12 …")'
	@echo "making .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv && touch $@

.venv/installed: requirements.lock pyproject.toml | .venv/uv
	@echo "installing the locked packages (PyTorch is large: about two minutes at first)"
	@$(call install_lock,requirements.lock)
	@touch $@

.venv/installed-dev: requirements-dev.lock .venv/installed
	@echo "installing the tools of tests and lint"
	@$(call install_lock,requirements-dev.lock)
	@touch $@

ifeq ($(TORCH),)
install_lock = $(UV) --require-hashes -r $(1) && $(UV) --no-deps -e .
else  # another build has other hashes and no CUDA packages: the lock then gives versions only
install_lock = $(UV) --torch-backend $(TORCH) --no-verify-hashes -c $(1) -e $(if $(findstring dev,$(1)),'.[dev]',.)
endif

clean:                        ## remove caches; keeps .venv, data and reports
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build *.egg-info
