# From PyTorch to FPGA: `make help` lists what there is to make.
# Every step writes a file; make repeats a step only when something it depends on has changed.

PROFILE ?= quick
# The source chosen last is remembered, so that `make data SOURCE=hub` serves the next `make book`.
SOURCE  ?= $(or $(shell cat _build/source 2>/dev/null),auto)
PYTHON  ?= python3.11
PORT    ?= 8000

PY       := .venv/bin/python
SETUP    := .venv/.complete
SETTINGS := _build/settings.json
NOTEBOOKS := $(filter-out chapters/start.ipynb,$(wildcard chapters/*.ipynb))
EXECUTED := $(NOTEBOOKS:%=_build/executed/%)
START    := _build/executed/chapters/start.ipynb
RULES    := $(patsubst chapters/%.ipynb,_build/rules/%.mk,$(wildcard chapters/*.ipynb))
STATIC   := _config.yml _toc.yml $(wildcard chapters/*.md chapters/*.bib chapters/_static/*)
HTML     := _build/html/.complete

.DELETE_ON_ERROR:
.PHONY: book test help setup data execute expect full address serve clean lock FORCE

book: $(HTML) ## execute, compare and render the book (PROFILE=quick|full SOURCE=auto|hub|dir|builtin)
	@$(PY) -m lib.book summary

test: $(EXECUTED) $(START) ## run the whole test suite, on the executions make book made
	$(PY) -m pytest -q

help: ## list the targets
	@grep -hE '^[a-z0-9%-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

# ---- Environment: torch first and alone, then everything else under the full lock.

setup: $(SETUP) ## create .venv from the pinned requirements
$(SETUP): requirements.txt constraints.txt pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --progress-bar on $$(grep '^torch==' requirements.txt)
	$(PY) -m pip install --progress-bar on -r requirements.txt -c constraints.txt
	$(PY) -m pip install --no-deps --no-build-isolation -e .
	$(PY) -m pip check
	@touch $@

lock: $(SETUP) ## write what is installed to constraints.txt, the full lock
	$(PY) -m pip freeze --exclude-editable | sed 's/+.*//' > constraints.tmp  # no +cpu, no +cu: the reader's choice
	mv constraints.tmp constraints.txt
	@touch $(SETUP)

# ---- Data and settings.

data: $(SETUP) ## prepare the text: make data SOURCE=auto|hub|dir|builtin
	$(PY) data/prepare.py --source $(SOURCE)
	@mkdir -p _build && echo $(SOURCE) > _build/source

# The settings file changes only when the profile or a text does: then every chapter runs again.
$(SETTINGS): FORCE | $(SETUP)
	@$(PY) -m lib.book settings --profile $(PROFILE) --source $(SOURCE)

# ---- Chapters: what each depends on is read from its imports.

_build/rules/%.mk: chapters/%.ipynb | $(SETUP)
	@$(PY) -m lib.book dependencies $< $@
ifeq ($(filter clean help,$(MAKECMDGOALS)),)
-include $(RULES)
endif

execute: $(EXECUTED) ## execute the chapters that need it
_build/executed/chapters/%.ipynb: chapters/%.ipynb constraints.txt $(SETTINGS) | _build/rules/%.mk
	@echo "== $*"
	@$(PY) -m lib.book execute --profile $(PROFILE) --source $(SOURCE) $< $@

chapter-%: $(SETUP) ## execute one chapter by its number: make chapter-02
	@$(MAKE) --no-print-directory _build/executed/$(or $(wildcard chapters/$*_*.ipynb),$(error no chapter $*))

# Collected whenever a chapter ran, compared every time: both take a moment.
_build/results.json: $(EXECUTED)
	@$(PY) -m lib.book collect && touch $@
$(START): _build/results.json

expect: $(EXECUTED) ## accept the executed values into data/expected, for git diff to show
	$(PY) -m lib.book expect

full: ## run the full profile and record it in data/full
	$(MAKE) book PROFILE=full
	$(PY) -m lib.book keep

# ---- Pages.

$(HTML): $(EXECUTED) $(START) $(STATIC) $(wildcard data/expected/*/*/*.json)
	@$(PY) -m lib.book compare
	@mkdir -p _build/executed/chapters && cp -r _config.yml _toc.yml _build/executed/
	@cp -r $(wildcard chapters/*.md chapters/*.bib chapters/_static) _build/executed/chapters/
	.venv/bin/jupyter-book build -W -n --keep-going --all --path-output . _build/executed
	@$(PY) -m lib.book check-pages
	@touch $@

address: $(SETUP) ## carry the repository's address from _config.yml to the chapters
	$(PY) -m lib.book address

serve: $(HTML) ## serve the rendered book on http://localhost:8000 (PORT=...)
	$(PY) -m http.server $(PORT) --directory _build/html

clean: ## remove everything made, the environment excepted
	rm -rf _build
