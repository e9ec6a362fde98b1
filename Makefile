# Each target sets up .venv when it must; PYTHON=python3.12 chooses the interpreter it is made from.
#
#   make book    build the study, executing its notebooks: book/_build/html/index.html
#   make pdf     the same as one document, with Chromium: book/_build/book.pdf
#   make test    run the tests
#   make lint    check style, and that imports go down only
#   make data    make the data set anew, with LAMMPS (hours; stop and start it as you like)
#   make results score the checkpoints and their rivals, sum up in data/results (profile=quick: a sample)
#   make train   train a conditional model, quick profile: out.ipynb
#   make serve   build the book and serve it at http://localhost:8000
#   make clean   remove .venv, the built book, caches and quick checkpoints
PYTHON ?= python3
READY := .venv/ready

.PHONY: help book pdf test lint data results train serve clean
profile ?= full

help:
	@sed -n 's/^#   //p' Makefile

book: $(READY)
	.venv/bin/jupyter-book build book/ -W --keep-going

pdf: $(READY)
	.venv/bin/jupyter-book build book/ --builder singlehtml -W --keep-going
	.venv/bin/python book/print_book.py

test: $(READY)
	.venv/bin/pytest -n 2 --dist loadgroup

lint: $(READY)
	.venv/bin/ruff check && .venv/bin/ruff format --check && .venv/bin/lint-imports

data: $(READY)
	.venv/bin/mddm data make ramps

results: $(READY)
	.venv/bin/mddm results --profile $(profile)

train: $(READY)
	.venv/bin/papermill notebooks/train.ipynb out.ipynb -p task conditional -p profile quick

serve: book
	.venv/bin/python -m http.server --directory book/_build/html

clean:
	rm -rf .venv book/_build data/checkpoints/quick *.egg-info out*.ipynb .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} + -o -name .ipynb_checkpoints -prune -exec rm -rf {} +

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed, this is " + sys.version)'
	$(PYTHON) -m venv --clear .venv
	.venv/bin/pip install --quiet -r requirements.lock
	.venv/bin/pip install --quiet --no-deps -e .
	touch $@
