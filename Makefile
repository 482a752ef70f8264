# make install    .venv with torch, the host libraries and this package
# make test       its tests            (ARGS="-k ops" goes to pytest; -n0: one process)
# make faults     a long campaign of damaged files, kills and the like, and its figures
#                 (ARGS="--cases 5000 --markdown FILE"; docs/reliability.md)
# make wheel      one wheel in dist/ for many versions of torch and Python
# make test-wheel its operator's tests beside another torch      (TORCH=2.13.0)
# make test-upstream   tests beside OpenMMLab's own mm libraries and the oldest torch; compiles
#                 their mmcv
# make test-transformers   the tests of setformer_mm.transformers, in an environment beside
#                 .venv: mmpretrain cannot be imported where transformers is
# make bench      times and memory of operator and backbone, about half an hour
#                 (ARGS=--quick: two minutes)
# make figures    parameters, multiply-adds and training costs in the documents, computed
#                 anew after a change of the models; tests pin some of them besides
# make docs       the documentation as a site in build/site: runs the tutorials, checks
#                 links, and ends at the first warning
# make lint       ruff
# make demo       a Mask R-CNN in minutes on a CPU; demo-seg and demo-cls likewise
# make clean      removes what builds, tests and lint leave, not .venv

PYTHON ?= python3

VENV := .venv
BIN := $(VENV)/bin
# One empty file a finished step: an interrupted installation goes on where it stopped,
# and a step runs again when its requirements change.
DONE := $(VENV)/done
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check

# mmcv is published as source only. These flags take 9 minutes on two cores where its own
# (-O3, debug symbols) take 20; the price may be some speed of its CPU ops, as RoIAlign.
# Where torch sees a GPU and there is an nvcc, the CUDA ops are compiled as well, and take
# longer; FORCE_CUDA=1 does so without a GPU. Our own setup.py goes by the same rule.
MMCV_CFLAGS ?= -O2 -g0 -w

# What `make test-wheel` installs the wheel beside: a torch in an environment of its own.
TORCH ?= 2.13.0
TORCH_VENV := $(VENV)/torch-$(TORCH)
UPSTREAM_VENV := $(VENV)/upstream
HF_VENV := $(VENV)/transformers

# What depends on the libraries of OpenMMLab, and what they depend on.
UPSTREAM_TESTS := test_committed_models.py test_inferencers.py test_shipped_configs.py \
  test_configs.py tools/test_three_tasks.py tools/test_mim.py hooks optim models/test_mlp.py \
  models/test_host_conventions.py utils/test_checkpoints.py utils/test_safe_unpickling.py \
  utils/test_resuming.py ops/test_reference.py ops/test_set_attention.py

# Compile it even in `SETFORMER_MM_DISABLE_EXT=1 make test`, which is about tests alone.
WITH_EXTENSION := env -u SETFORMER_MM_DISABLE_EXT
PACKAGING := setup.py pyproject.toml setformer_mm/version.py \
  $(shell find setformer_mm/ops/csrc -type f)

.PHONY: install test faults wheel test-wheel test-upstream test-transformers bench figures \
  docs lint demo demo-seg demo-cls clean

install: $(DONE)/package

test: install
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

faults: install
	PYTHONPATH=tests:tools $(BIN)/python -m faults $(ARGS)

wheel: $(DONE)/wheel
	@ls -t $(CURDIR)/dist/*.whl | head -n 1

# The tests run outside of this directory, where Python would find these sources first.
test-wheel: $(DONE)/wheel
	$(PYTHON) -m venv --clear $(TORCH_VENV)
	$(TORCH_VENV)/bin/python -m pip install torch==$(TORCH) -r requirements/tests.txt
	$(TORCH_VENV)/bin/python -m pip install --no-index --no-deps --find-links dist \
	  setformer_mm
	cd $(TORCH_VENV) && bin/python -m setformer_mm.ops
	cd $(TORCH_VENV) && bin/python -m pytest $(ARGS) $(CURDIR)/tests/ops

# Our checkout is where the tests run, for the tools, but the package is the wheel's.
test-upstream: $(DONE)/wheel
	$(PYTHON) -m venv --clear $(UPSTREAM_VENV)
	$(UPSTREAM_VENV)/bin/python -m pip install -r requirements/upstream_build.txt
	CFLAGS="$(MMCV_CFLAGS)" MAX_JOBS=$$(nproc) $(UPSTREAM_VENV)/bin/python -m pip install \
	  --no-build-isolation --no-deps -r requirements/upstream.txt
	$(UPSTREAM_VENV)/bin/python -m pip install --no-index --no-deps --find-links dist \
	  setformer_mm
	cd $(UPSTREAM_VENV) && bin/python -m setformer_mm
	cd $(UPSTREAM_VENV) && bin/python -m pytest $(ARGS) \
	  $(addprefix $(CURDIR)/tests/,$(UPSTREAM_TESTS))

# It sees what .venv has; pip adds what is missing.
test-transformers: install
	$(PYTHON) -m venv --clear $(HF_VENV)
	$(BIN)/python -c 'import sysconfig as s; print("import site; site.addsitedir(%r)" % s.get_path("purelib"))' \
	  > $$($(HF_VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/outer.pth
	$(HF_VENV)/bin/python -m pip install -r requirements/transformers.txt
	$(HF_VENV)/bin/python -m pytest $(ARGS) tests/test_transformers.py \
	  tests/tools/test_train_sequences.py tests/tools/test_finetune_glue.py

BENCH := $(BIN)/python tools/bench_
BF16_MODELS := setformer_tiny swin_tiny_patch4_window7_224 convnext_tiny resnet50
BENCH_TO = $(ARGS) --json bench_output/$(1).json --markdown bench_output/$(1).md \
  --plot bench_output/$(1).png

bench: install
	$(BENCH)op.py $(call BENCH_TO,op)
	$(BENCH)backbone.py $(call BENCH_TO,backbone)
	$(BENCH)backbone.py --bf16 --models $(BF16_MODELS) $(call BENCH_TO,backbone_bf16)

figures: install
	$(BIN)/python tools/tables.py imagenet coco ade20k --json docs/data/computed.json
	$(BIN)/python tools/training_cost.py --document docs/training_cost.md
	$(BIN)/python tools/update_docs.py

# Tutorials call `python`, as their readers do.
docs: install $(DONE)/docs
	PATH="$(CURDIR)/$(BIN):$$PATH" NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build
	@echo "$(CURDIR)/build/site/index.html"

lint: $(DONE)/tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

demo: install
	$(BIN)/python tools/demo.py det

demo-seg: install
	$(BIN)/python tools/demo.py seg

demo-cls: install
	$(BIN)/python tools/demo.py cls

clean:
	rm -rf build dist $(DONE)/wheel *.egg-info .pytest_cache .ruff_cache
	find setformer_mm configs tools tests -name __pycache__ -prune -exec rm -r {} +

# $(call need,COMMAND,SENTENCE WITHOUT COMMAS) ends with the sentence if COMMAND fails.
need = @$(1) >/dev/null 2>&1 || { echo "make install: $(2)." >&2; exit 1; }

$(DONE)/venv:
	$(call need,$(PYTHON) -c 'import sys; assert sys.hexversion >= 0x030a0000',$\
	  $(PYTHON) is not a Python 3.10 or newer; name one as in 'make install PYTHON=python3.11')
	$(call need,$(PYTHON) -c 'import ensurepip',$\
	  $(PYTHON) cannot create environments; on Debian and Ubuntu install python3-venv)
	$(call need,command -v $${CXX:-c++},$\
	  a C++ compiler is needed because mmcv is compiled; install g++ for example)
	$(call need,test -e "$$($(PYTHON) -c 'import sysconfig as s; print(s.get_path("include"))')/Python.h",$\
	  Python.h is needed because mmcv is compiled; on Debian and Ubuntu install python3-dev)
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --upgrade pip
	@mkdir -p $(DONE) && touch $@

$(DONE)/build: requirements/build.txt $(DONE)/venv
	@echo "torch and its CUDA libraries: a download of a few gigabytes."
	$(PIP_INSTALL) -r $<
	@touch $@

$(DONE)/runtime: requirements/runtime.txt requirements/optional.txt $(DONE)/build
	$(PIP_INSTALL) -r requirements/runtime.txt -r requirements/optional.txt
	@touch $@

$(DONE)/mm: requirements/mminstall.txt $(DONE)/runtime
	@echo "Compiling mmcv with $(MMCV_CFLAGS): the longest step, 9 minutes on two cores." \
	  "pip keeps the result in its cache for the next time."
	CFLAGS="$(MMCV_CFLAGS)" MAX_JOBS=$$(nproc) \
	  $(PIP_INSTALL) --no-build-isolation --no-deps -r $<
	@$(BIN)/python -c 'import mmcv.ops' || { echo "make install: mmcv's compiled ops do" \
	  "not load. If they were built for another torch run '$(BIN)/pip cache remove" \
	  "onedl_mmcv; $(BIN)/pip uninstall -y onedl-mmcv' and start again." >&2; exit 1; }
	@touch $@

# The page of tools/explore.py and the formats of tools/export.py are among what is tested.
TESTED := $(addprefix requirements/,tests.txt explore.txt export.txt)
$(DONE)/tests: $(TESTED) $(DONE)/venv
	$(PIP_INSTALL) $(TESTED:%=-r %)
	@touch $@

$(DONE)/docs: requirements/docs.txt $(DONE)/venv
	$(PIP_INSTALL) -r $<
	@touch $@

$(DONE)/package: $(PACKAGING) $(DONE)/mm $(DONE)/tests
	$(WITH_EXTENSION) $(PIP_INSTALL) --no-build-isolation --no-deps --editable .
	@touch $@

# A fresh build directory: what lay there before would become part of the wheel.
$(DONE)/wheel: $(PACKAGING) $(shell find setformer_mm configs tools -name '*.py') \
  $(wildcard tools/toolkit/explore/page/*) \
  $(DONE)/build
	rm -rf build
	$(WITH_EXTENSION) $(BIN)/python -m pip wheel --no-build-isolation --no-deps \
	  --wheel-dir dist .
	@touch $@
