# make reproduce   tables and figures at SCALE (default mini), FULL=1: everything; also SEEDS="0,1" ONLY=... DATA=...
# make test        the notebooks' own tests, then tests/
# make test-slow   tests of minutes and gigabytes: the paper's networks at full size
# make bench       benchmarks, about ten CPU-minutes: paper_figures/bench; also BENCH="scores prompts" for some
# make lab         JupyterLab, with hooks that keep the notebooks clean
# make check       what a commit must satisfy: seconds, writes nothing
# make readme      README.md and paper_figures/README.md, from nbs/index.ipynb and nbs/results.ipynb
# make docs        an HTML book of the notebooks in _book/html
# make clean       delete what the other targets made, but not the results

PYTHON ?= python3
VENV ?= .venv
SCALE ?= mini
SEEDS ?=
ONLY ?=
FULL ?=
ROOT ?=
DATA ?=
BENCH ?=

STAMP := $(VENV)/.stamp-installed
DOCS_STAMP := $(VENV)/.stamp-docs
export PATH := $(abspath $(VENV))/bin:$(PATH)
export SCALE SEEDS ONLY ROOT DATA
unexport PYTHONPATH
unexport IN_TEST

# $(call step,title,command) says what runs, then how many seconds it took.
step = @echo "== $(1)"; begin=$$(date +%s); $(2); status=$$?; \
       echo "== $(1): $$(( $$(date +%s) - begin )) s"; exit $$status

# $(call install,extra): a dot every two seconds while a new pip works, which is quicker than the one that Python
# brings. compileall takes all cores, and is not asked for its status: packages ship templates that are no Python.
install = (while sleep 2 && kill -0 $$$$ 2>/dev/null; do printf .; done) & dots=$$!; \
          pip="$(VENV)/bin/python -m pip install --quiet --quiet --disable-pip-version-check"; \
          $$pip --upgrade pip && $$pip --no-compile -c constraints.txt -e '.[$(1)]'; installed=$$?; \
          $(VENV)/bin/python -m compileall -qq -j 0 $(VENV)/lib; kill $$dots; echo; (exit $$installed)

.PHONY: reproduce test test-slow bench lab check readme docs clean

reproduce: $(STAMP)
	$(call step,reproduce at scale $(SCALE),synood reproduce --scale "$$SCALE" \
	  $(if $(SEEDS),--seeds "$$SEEDS") $(if $(ONLY),--only "$$ONLY") $(if $(FULL),--full) \
	  $(if $(ROOT),--root "$$ROOT") $(if $(DATA),--data "$$DATA"))

# First, so that two processes end together.
LONGEST := $(addprefix tests/pipeline/,test_rehearsal.py test_table_code.py) tests/pipeline tests/robustness

test test-slow: export OMP_NUM_THREADS = 1
test test-slow: export HF_HUB_OFFLINE = 1
test test-slow: export TOKENIZERS_PARALLELISM = false
test: $(STAMP)
	$(call step,notebooks and modules agree,python tools/nb.py check)
	$(call step,tests in the notebooks,python tools/notebook_tests.py)
	$(call step,tests in tests/,pytest -q -n 2 --dist loadfile --no-loadscope-reorder $(LONGEST) tests)

test-slow: $(STAMP)
	$(call step,slow tests,pytest -q -m slow tests)

bench: export HF_HUB_OFFLINE = 1
bench: export TOKENIZERS_PARALLELISM = false
bench: $(STAMP)
	$(call step,benchmarks,python tools/bench.py $(BENCH))

lab: $(STAMP)
	nbdev_install_hooks
	jupyter lab nbs

check: $(STAMP)
	$(call step,notebooks and modules agree,python tools/nb.py check)
	$(call step,README.md and paper_figures/README.md agree with their notebooks,python tools/book.py readme --check)

readme: $(STAMP)
	$(call step,README.md and paper_figures/README.md,python tools/book.py readme)

docs: $(DOCS_STAMP)
	$(call step,docs,python tools/book.py html)

clean:
	rm -rf _book _proc build dist .nbtext .pytest_cache *.egg-info
	find nbs synood tests tools -name __pycache__ -prune -exec rm -rf {} +

$(STAMP): settings.ini constraints.txt setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "$(PYTHON) is too old or missing: install Python 3.11 or newer, or pass PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make virtual environments: install the package python3-venv" \
	         "(Debian, Ubuntu: sudo apt install python3-venv), then run make again"; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	$(call step,install into $(VENV) (downloads gigabytes the first time),$(call install,dev))
	@touch $@

$(DOCS_STAMP): $(STAMP)
	$(call step,install what the book needs,$(call install,docs))
	@touch $@
