# Needs Python 3.11 or newer and, for the first installation, a network connection.
#   make demo                  train a network on a voice and sample from it, in five to ten minutes
#   make demo INPUT=my.wav     the same with your own recording
#   make listen                play your runs live in a browser, or the bundled voice if there are none
#   make test                  fast tests
#   make test-integration      tests that need a browser, several processes, Triton's interpreter or a training
#   make test-slow             all tests
#   make lint                  ruff and mypy
#   make bench                 speed of codec, training and sampling, compared with baselines
#   make sanitize              the compiled kernel under address, undefined-behaviour and thread sanitizers
#   make docs                  regenerate the pages of docs/reference that are made from the code
#   make screenshots           regenerate docs/pictures; needs chromium and ffmpeg
#   make audit                 look up known vulnerabilities of the dependencies
#   make dist                  source distribution and wheel
#   make demo-clean, clean     delete the demo's network; delete the environment and builds as well

PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3)
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
INPUT  ?= data/voice.wav
TORCH  ?= torch

.PHONY: demo demo-clean listen test test-integration test-slow sanitize lint bench docs audit screenshots dist clean
.DELETE_ON_ERROR:

demo: $(VENV)/core.done
	@$(BIN)/python tools/demo.py "$(INPUT)"

demo-clean:
	rm -rf demo

listen: $(VENV)/listen.done
	$(BIN)/charrnn-listen --open

test: $(VENV)/dev.done
	$(BIN)/python -m pytest -q -n 2

test-integration: $(VENV)/dev.done
	$(BIN)/python -m pytest -q -n 2 -m "integration and not slow"

test-slow: $(VENV)/dev.done
	$(BIN)/python -m pytest -q -m ""

sanitize: $(VENV)/dev.done
	$(BIN)/python -m pytest -q -m "" tests/engines/test_cpu_kernel.py -k sanitizers

lint: $(VENV)/dev.done
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/dev.done
	$(BIN)/python tools/bench/codec.py
	$(BIN)/python tools/bench/train.py
	$(BIN)/python tools/bench/sample.py

docs: $(VENV)/dev.done
	$(BIN)/python tools/make_flags.py > docs/reference/flags.md
	$(BIN)/python tools/licences.py > docs/reference/dependencies.md

# pip-audit has an environment of its own, so that its dependencies are not audited.
audit: $(VENV)/dev.done
	@$(PYTHON) -m venv $(VENV)/audit && $(VENV)/audit/bin/python -m pip install -q pip-audit
	$(VENV)/audit/bin/pip-audit --path $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

screenshots: $(VENV)/dev.done
	$(BIN)/python tools/screenshots.py "$(INPUT)"

dist: $(VENV)/dev.done
	$(BIN)/python -m build

clean: demo-clean
	rm -rf $(VENV) build dist *.egg-info

KERNEL := $(wildcard charrnn/engines/cpu/kernel/*.[ch])

# torch is installed first: packages that depend on it could otherwise select another build.
$(VENV)/core.done: setup.cfg setup.py pyproject.toml constraints.txt $(KERNEL)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed, but $(PYTHON) is older or missing: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { echo "$(PYTHON) cannot create a virtual environment: on Debian and Ubuntu, install python3-venv first."; exit 1; }
	$(PIP) install -q -c constraints.txt $(TORCH)
	$(PIP) install -q -c constraints.txt -e .
	@touch $@

$(VENV)/listen.done: $(VENV)/core.done
	$(PIP) install -q -c constraints.txt -e '.[listen]'
	@touch $@

$(VENV)/dev.done: $(VENV)/core.done
	$(PIP) install -q -c constraints.txt -e '.[test,dev,plots,report,onnx,play,osc,listen,tensorboard]'
	@touch $@
