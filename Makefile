# From PyTorch to FPGA: `make help` lists what there is to make.
# Every step writes a file; make repeats a step only when something it depends on has changed.

PROFILE ?= quick
# The source chosen last is remembered, so that `make data SOURCE=hub` serves the next `make book`.
SOURCE  ?= $(or $(shell cat _build/source 2>/dev/null),auto)
PYTHON  ?= python3.11
PORT    ?= 8000

PY       := .venv/bin/python
SETUP    := .venv/.complete
SYCL     := .venv/.sycl
SETTINGS := _build/settings.json
NOTEBOOKS := $(filter-out chapters/start.ipynb,$(wildcard chapters/*.ipynb))
EXECUTED := $(NOTEBOOKS:%=_build/executed/%)
COMPARED := _build/executed/chapters/11_comparison.ipynb
START    := _build/executed/chapters/start.ipynb
RULES    := $(patsubst chapters/%.ipynb,_build/rules/%.mk,$(wildcard chapters/*.ipynb))
STATIC   := _config.yml _toc.yml chapters chapters/_static $(wildcard chapters/*.md chapters/*.bib chapters/_static/* chapters/_templates/*) \
            lib/extension.py lib/status.py
HTML     := _build/html/.complete

.DELETE_ON_ERROR:
.NOTPARALLEL: # chapters measure rates: one at a time
.PHONY: book test test-made help setup sycl data execute expect full pages pdf address serve clean lock FORCE

book: $(HTML) ## execute, render and compare the book (PROFILE=quick|full SOURCE=auto|hub|dir|builtin)
	@$(PY) -m lib.book compare
	@$(PY) -m lib.book summary

test: $(EXECUTED) $(START) ## run the whole test suite, on the executions make book made
	$(PY) -m pytest -q

test-made: $(EXECUTED) $(START) ## run only the tests of what make book made: enough when it has run on another text
	$(PY) -m pytest -q -m made

help: ## list the targets
	@awk -F':.*## ' '/^[a-z0-9%-]+:.*## /{printf "%-12s %s\n", $$1, $$2}' Makefile

# ---- Environment: torch first and alone, then everything else under the full lock.

setup: $(SETUP) ## create .venv from the pinned requirements
$(SETUP): requirements.txt constraints.txt pyproject.toml
	$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(PY) -m pip install --progress-bar on $$(grep '^torch==' requirements.txt) -c constraints.txt
	$(PY) -m pip install --progress-bar on -r requirements.txt -c constraints.txt
	$(PY) -m pip install --no-deps --no-build-isolation -e .
	$(PY) -m pip check
	@touch $@

sycl: $(SYCL) ## install Intel's SYCL runtime for the HLS part of chapter 7 (1.6 GB, proprietary licence)
$(SYCL): requirements-sycl.txt constraints.txt $(SETUP)
	$(PY) -m pip install --progress-bar on -r requirements-sycl.txt -c constraints.txt
	@touch $@

lock: ## resolve the requirements anew, SYCL's too, and write what they gave to constraints.txt, the full lock
	$(PY) -m pip install -r requirements.txt -r requirements-sycl.txt
	$(PY) -m pip freeze --exclude-editable > constraints.all.tmp
	sed 's/+.*//' constraints.all.tmp > constraints.tmp  # no +cpu, no +cu: the reader's choice
	mv constraints.tmp constraints.txt && rm constraints.all.tmp

# ---- Data and settings.

data: $(SETUP) ## prepare the text: make data SOURCE=auto|hub|dir|builtin
	$(PY) data/prepare.py --source $(SOURCE)
	@mkdir -p _build && echo $(SOURCE) > _build/source

# The settings file changes only when the profile or a text does: then every chapter runs again.
$(SETTINGS): FORCE | $(SETUP)
	@$(PY) -m lib.book settings --profile $(PROFILE) --source $(SOURCE)

# ---- Silicon: nano on a ULX3S.

bitstream: $(SETUP) ## place and route nano for the ULX3S, once, and put its weights in: _build/bitstream/nano_w6.bit
	@$(PY) -m lib.silicon build data/integer/nano_w6.safetensors --out _build/bitstream

program: bitstream ## send that bitstream to a ULX3S at the USB port
	@command -v openFPGALoader >/dev/null || { echo "error: openFPGALoader is missing; install it from your system's packages" >&2; exit 2; }
	openFPGALoader --board ulx3s _build/bitstream/nano_w6.bit

# ---- Chapters: what each depends on is read from its imports.

_build/rules/%.mk: chapters/%.ipynb | $(SETUP)
	@$(PY) -m lib.book dependencies $< $@
ifeq ($(filter clean help lock setup sycl,$(MAKECMDGOALS)),)
include $(RULES)
endif

execute: $(EXECUTED) ## execute the chapters that need it
_build/executed/chapters/%.ipynb: chapters/%.ipynb constraints.txt $(SETTINGS) | _build/rules/%.mk
	@echo "== $*"
	@$(PY) -m lib.book execute --profile $(PROFILE) --source $(SOURCE) $< $@

# The comparison reads what the other chapters recorded, so it is executed after them.
$(COMPARED): $(filter-out $(COMPARED),$(EXECUTED))

chapter-%: $(SETUP) ## execute one chapter by its number: make chapter-02
	@$(MAKE) --no-print-directory _build/executed/$(or $(wildcard chapters/$*_*.ipynb),$(error no chapter $*))

# Collected every time, since a chapter may have been removed; the file changes only when a figure does.
_build/results.json: $(EXECUTED) FORCE
	@$(PY) -m lib.book collect
$(START): _build/results.json

expect: $(EXECUTED) ## accept the executed values into data/expected, for git diff to show
	$(PY) -m lib.book expect
	$(PY) -m lib.glance

full: ## run the full profile and record it in data/full
	$(MAKE) book PROFILE=full
	$(PY) -m lib.book keep

# ---- Pages.

# The staging folder is emptied of old pages first, so that what was deleted is missed here as on a fresh clone.
$(HTML): $(EXECUTED) $(START) $(STATIC)
	@rm -rf _build/html _build/executed/chapters/_static _build/executed/chapters/_templates
	@rm -f _build/executed/chapters/*.md _build/executed/chapters/*.bib
	@cp _config.yml _toc.yml _build/executed/
	@cp -R $(wildcard chapters/*.md chapters/*.bib) chapters/_static chapters/_templates _build/executed/chapters/
	.venv/bin/jupyter-book build -W -n --keep-going --all --path-output . _build/executed
	@$(PY) -m lib.book check-pages
	@touch $@

pages: $(HTML) ## look at every page in a browser, as make test does (needs Chromium)
	@$(PY) -m lib.pages

pdf: $(HTML) ## print the rendered book as one PDF (needs Chromium)
	@$(PY) -m lib.pdf

address: $(SETUP) ## carry the repository's address from _config.yml to the chapters
	$(PY) -m lib.book address

serve: $(HTML) ## serve the rendered book on http://localhost:8000 (PORT=...)
	$(PY) -m http.server $(PORT) --directory _build/html

clean: ## remove everything made, the environment excepted
	rm -rf _build
