# make search     from a fresh clone to an evaluated model
# make test       lint, types and tests, in five minutes
# make test-deep  tests that take longer: many kills, fuzz in full, whole commands that meet with trouble, the wheel
# make docs       the documentation as a static site, in site/
PYTHON ?= python3
VENV   := .venv
SPACE  ?= spaces/lcnn.yaml
ARGS   ?=
PYTEST := -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: search test test-deep lint types docs reference clean

search: $(VENV)/.installed
	$(VENV)/bin/python run_search.py --space $(SPACE) $(ARGS)

test: lint types
	$(VENV)/bin/python $(PYTEST) -m "not deep" $(ARGS)

test-deep: $(VENV)/.installed
	LCNN_TESTS=deep $(VENV)/bin/python $(PYTEST) -m "deep or deeper" $(ARGS)

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(VENV)/.installed
	$(VENV)/bin/mypy

docs: $(VENV)/.docs
	$(VENV)/bin/mkdocs build --strict

# What is generated from the code: the settings and commands of the documentation, the schema of space files.
reference: $(VENV)/.installed
	$(VENV)/bin/python -m search.commands.reference

$(VENV)/.docs: $(VENV)/.installed
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

# The stamp is written last, so that an installation that broke off is done again.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' \
		|| { echo "Python 3.11 or 3.12 is needed; found $$($(PYTHON) --version). Try: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) site .pytest_cache .ruff_cache .mypy_cache *.egg-info
