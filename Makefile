# Every target makes its own environment in .venv, so any of them can come first.
SHELL := bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
SCALE ?= book
OUT ?= _build/html
PORT ?= 8000

VENV := .venv
RUN := $(VENV)/bin/python
# The stamps name the folder: a copied tree has its own environment made, not its origin's used.
HERE := $(shell pwd | cksum | cut -d ' ' -f 1)
BOOK_STAMP := $(VENV)/.book-$(HERE)
TEST_STAMP := $(VENV)/.test-$(HERE)
BENCH_STAMP := $(VENV)/.bench-$(HERE)
BOOTSTRAP := bash book/_tools/bootstrap.sh "$(PYTHON)" $(VENV)
# One thread per process: two processes share two cores. Kernels choose their own plot backend.
QUIET_CORES := env -u MPLBACKEND OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: help book test lint sync picture bench serve repo clean

help: ## say what there is
	@echo "make TARGET, where TARGET is one of"
	@sed -n 's/^\([a-z]*\):.*## /  \1	/p' $(MAKEFILE_LIST) | expand -t 10
	@echo "Settings: PYTHON=python3.11 (to make .venv with), SCALE=smoke|book|full, OUT=$(OUT), URL=…"

$(BOOK_STAMP): pyproject.toml constraints.txt
	@$(BOOTSTRAP) book $@

$(TEST_STAMP): pyproject.toml constraints.txt
	@$(BOOTSTRAP) book,test $@ $(BOOK_STAMP)

$(BENCH_STAMP): pyproject.toml constraints.txt
	@$(BOOTSTRAP) book,test,bench $@ $(TEST_STAMP) $(BOOK_STAMP)

book: $(BOOK_STAMP) ## build the executed book into _build/html
	@$(QUIET_CORES) $(RUN) book/_tools/build.py --scale "$(SCALE)" --out "$(OUT)"

test: $(TEST_STAMP) ## run every test, the pages included, at smoke scale
	@METARL_SCALE=smoke $(QUIET_CORES) $(RUN) -m pytest -n 2

lint: $(TEST_STAMP) ## check style, types and spelling
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check --exclude '*.ipynb' .
	$(RUN) -m mypy
	git ls-files -z '*.md' | xargs -0 $(RUN) -m codespell_lib

sync: $(BOOK_STAMP) ## write the notebook beside each page
	@$(RUN) book/_tools/sync.py

picture: $(BOOK_STAMP) ## draw the picture of the landing page again
	@$(RUN) book/_tools/picture.py

bench: $(BENCH_STAMP) ## time the library against its peers, quickly
	@set -e; for script in benchmarks/*.py; do [ -e "$$script" ] || continue; \
		echo "== $$script"; $(RUN) "$$script" --quick; done

serve: book ## build the book and show it at http://localhost:8000
	@echo "The book is at http://localhost:$(PORT) until you press Ctrl-C."
	@$(RUN) -m http.server --bind 127.0.0.1 --directory "$(OUT)" $(PORT)

repo: $(BOOK_STAMP) ## set the address of the repository: make repo URL=https://github.com/owner/name
	@$(RUN) book/_tools/repo.py "$(URL)"

clean: ## remove what was built, and the environment
	rm -rf _build $(VENV) .pytest_cache .mypy_cache .ruff_cache
