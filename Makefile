# `make demo` and `make test` do everything on a fresh machine: they create .venv and install what they need.
PYTHON ?= python3
PROCESSES ?= 2
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install demo test check docs benchmark clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "TrueLight needs Python 3.11 or newer; run: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install  ## raw and constrained detectors on procedural data: tables and pictures in runs/demo
	$(BIN)/python demo.py

test: install  ## the whole test suite, in PROCESSES processes; a file's tests stay together
	$(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadfile

check: install  ## lint, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: install  ## the documentation site, in site/; fails on a warning
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

benchmark: install  ## speed, as ratios against a named alternative
	$(BIN)/python benchmarks/detector_step.py
	$(BIN)/python benchmarks/data_pipeline.py
	$(BIN)/python benchmarks/jpeg.py
	$(BIN)/python benchmarks/bias_probe.py
	$(BIN)/python benchmarks/spectrum.py
	$(BIN)/python benchmarks/adversarial_features.py
	$(BIN)/python benchmarks/triplet.py
	$(BIN)/python benchmarks/curvature.py
	$(BIN)/python benchmarks/landscape.py
	$(BIN)/python benchmarks/lazy_gp.py
	$(BIN)/python benchmarks/robustness_indicators.py
	$(BIN)/python benchmarks/gan_step.py
	$(BIN)/python benchmarks/contextual_attention.py

clean:
	rm -rf $(VENV) build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache
