# From a bare machine with Python 3.11 or newer and a network connection:
#   make demo                  hear a network's version of a voice, after about four minutes
#   make demo INPUT=my.wav     the same with a recording of your own
#   make test                  all fast tests;  make test-slow: the others, too
#   make sanitize             the compiled engine's kernel under address, undefined-behaviour and thread sanitizers
#   make lint                  ruff and mypy
#   make bench                 the speed of codec, training and sampling beside named baselines
#   make audit                 known faults of the dependencies, in public databases
#   make screenshots           the pictures of docs/pictures; needs chromium and ffmpeg
#   make demo-clean, clean     forget the demo's network;  the environment as well

PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3)
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
INPUT  ?= data/voice.wav

.PHONY: demo demo-clean test test-integration test-slow sanitize lint bench audit screenshots dist clean
.DELETE_ON_ERROR:

demo: $(VENV)/core.done
	@$(BIN)/python tools/demo.py "$(INPUT)"

demo-clean:
	rm -rf demo

test: $(VENV)/dev.done
	$(BIN)/python -m pytest -q

test-integration: $(VENV)/dev.done
	$(BIN)/python -m pytest -q -m "integration and not slow"

test-slow: $(VENV)/dev.done
	$(BIN)/python -m pytest -q -m ""

sanitize: $(VENV)/dev.done
	$(BIN)/python -m pytest -q -m "" tests/engines/test_cpu_kernel.py -k sanitizers

lint: $(VENV)/dev.done
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/core.done
	$(BIN)/python tools/bench/bench.py

# In an environment of its own, so that what audits is not among what is audited.
audit: $(VENV)/dev.done
	@$(PYTHON) -m venv $(VENV)/audit && $(VENV)/audit/bin/python -m pip install -q pip-audit
	$(VENV)/audit/bin/pip-audit --path $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

screenshots: $(VENV)/dev.done
	$(BIN)/python tools/screenshots.py

dist: $(VENV)/dev.done
	$(BIN)/python -m build

clean: demo-clean
	rm -rf $(VENV) build dist *.egg-info

# torch first: what depends on it would otherwise be free to choose another build of it.
TORCH ?= torch

KERNEL := $(wildcard charrnn/engines/cpu/kernel/*.[ch])

$(VENV)/core.done: setup.cfg setup.py pyproject.toml constraints.txt $(KERNEL)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed, and $(PYTHON) is older or missing: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { echo "$(PYTHON) cannot make a virtual environment: on Debian and Ubuntu, install python3-venv first."; exit 1; }
	$(PIP) install -q -c constraints.txt $(TORCH)
	$(PIP) install -q -c constraints.txt -e .
	@touch $@

$(VENV)/dev.done: $(VENV)/core.done
	$(PIP) install -q -c constraints.txt -e '.[test,dev,plots,report,onnx,play,listen,tensorboard]'
	@touch $@
