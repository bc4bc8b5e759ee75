# inspect: `make help` lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test lint faults docs models sample-data bench wheel clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "  make %-12s %s\n", $$1, $$2}'

$(VENV)/installed: pyproject.toml constraints.txt
	@echo "installing into $(VENV) (some minutes the first time)"
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable '.[openvino]'
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(INSTALL) --editable '.[openvino,dev]'
	@touch $@

demo: $(VENV)/installed  ## set up, then the whole job on a generated full-size batch (under 10 minutes)
	@echo "== 1/6  a batch of full-size parts (5496x3672, albedo and normals)"
	@test -f $(DEMO)/riblet/.complete || { \
	  $(BIN)/inspect sample riblet --out $(DEMO)/riblet --parts 6 --maps albedo,normal --seed 0 --force \
	  && touch $(DEMO)/riblet/.complete; }
	@echo "== 2/6  training on the good parts, as a new material"
	@ls $(DEMO)/models/foil/*/manifest.json >/dev/null 2>&1 || \
	  $(BIN)/inspect train --material foil --data $(DEMO)/riblet/train --models $(DEMO)/models --budget 3m || test $$? -eq 9
	@sed -i.bak 's/^pixel_pitch_um: null/pixel_pitch_um: 5.0/' $(DEMO)/models/foil/recipe.yaml
	@echo "== 3/6  limits from good parts that are neither trained on nor in the batch"
	@test -f $(DEMO)/calibration/.complete || { \
	  $(BIN)/inspect sample riblet --out $(DEMO)/calibration --parts 2 --defective 0 --maps albedo,normal --seed 9 --force \
	  && touch $(DEMO)/calibration/.complete; }
	@$(BIN)/inspect threshold --material foil --models $(DEMO)/models --good $(DEMO)/calibration --rule max --margin 1.3
	@echo "== 4/6  scoring the batch"
	@$(BIN)/inspect score $(DEMO)/riblet/test --material foil --models $(DEMO)/models
	@echo "== 5/6  compared with the true defects"
	@$(BIN)/inspect evaluate $(DEMO)/riblet/test --truth $(DEMO)/riblet/ground_truth
	@echo "== 6/6  report"
	@$(BIN)/inspect report $(DEMO)/riblet/test
	@echo
	@echo "Done. Open $(DEMO)/riblet/test/inspection/foil/report.html in a browser."

test: lint  ## set up with test extras, check style, types and rooms, run the suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

lint: $(VENV)/installed-dev  ## style, types and rooms only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

faults: $(VENV)/installed-dev  ## kill commands, damage inputs, disturb a night: at length (an hour), into bench/faults.csv
	PYTHONPATH=tests $(BIN)/python -m faults --out bench/faults.csv

docs: $(VENV)/installed-dev  ## write the generated pages under docs/
	$(BIN)/python -m inspect_cli.docs docs

sample-data: $(VENV)/installed  ## make the shipped sample again
	$(BIN)/inspect sample riblet --out sample_data/riblet --parts 10 --defective 6 --size 384x256 --seed 1 --force
	$(BIN)/inspect sample steel --out sample_data/steel --parts 6 --defective 3 --size 384x256 --seed 1 --force
	$(BIN)/inspect sample chess --out sample_data/chess --parts 8 --size 256x256 --seed 1 --force
	$(BIN)/inspect sample noise --out sample_data/noise --parts 8 --size 256x256 --seed 1 --force

models: $(VENV)/installed  ## train the shipped riblet model again (20 to 40 minutes)
	$(BIN)/inspect sample riblet --out build/riblet --parts 8 --defective 0 --size 2048x1536 --maps albedo,normal --seed 2 --force
	$(BIN)/inspect train --material riblet --data build/riblet/train --models models --budget 4000steps --half
	$(BIN)/inspect threshold --material riblet --models models --good build/riblet/test/good --rule max --margin 1.2
	$(BIN)/python -m inspect_cli.training.shipped models/riblet/cae

bench: $(VENV)/installed  ## time and memory of scoring a full-size part
	$(BIN)/python bench/score_part.py

wheel: $(VENV)/installed-dev  ## build the wheel, with recipes, model and sample inside
	$(BIN)/python -m build --wheel

clean:  ## remove what make demo, make wheel and the images of make models left
	rm -rf $(DEMO) build dist
