# `make demo` and `make test` prepare .venv themselves; both are quick the second time.
#   make demo [INPUT=<bag | folder of images>]   segment a picking scene through the ROS 2 graph, write a report
#   make test [WORKERS=<number>]                 everything CI runs, in so many processes (default: a core each, at most 4)
#   make check                                   lint and the quick tests: for every save
#   make docs                                    the documentation site, into site/
#   make venv                                    only .venv, with rise, rclpy and rise_msgs
#   make lint                                    formatting, lint, types, spelling
# PYTHON=<interpreter> names the Python that .venv is made from.

PYTHON ?= python3
VENV := $(CURDIR)/.venv
BIN := $(VENV)/bin

# With a sourced ROS, its linker and package paths have to know rise_msgs in .venv; the ROS wheels see to it themselves.
ifdef AMENT_PREFIX_PATH
RUN := env AMENT_PREFIX_PATH="$(VENV):$(AMENT_PREFIX_PATH)" LD_LIBRARY_PATH="$(VENV)/lib:$(LD_LIBRARY_PATH)"
endif

.PHONY: demo test check docs venv lint clean
.DEFAULT_GOAL := demo

demo: venv
	@$(RUN) $(BIN)/rise demo $(if $(INPUT),"$(INPUT)")

# A process for each core. Plugins that a sourced ROS or another package brings to pytest stay out.
WORKERS ?= $(shell n=$$(nproc); echo $$((n < 4 ? n : 4)))
PYTEST := PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 $(BIN)/python -m pytest -p xdist.plugin -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test: venv lint
	@$(RUN) $(PYTEST) --durations=25

check: venv lint
	@$(RUN) $(PYTEST) -m "not slow" -q

docs: venv
	@test -x $(BIN)/mkdocs || $(BIN)/python tools/extra.py docs | xargs -d '\n' $(BIN)/python -m pip install --quiet
	@$(BIN)/mkdocs build --strict

lint: venv
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/codespell
	@$(BIN)/yamllint --strict .

venv:
	@$(PYTHON) tools/prepare_venv.py

clean:
	rm -rf .venv out site ros2_ws/build ros2_ws/install ros2_ws/log rise_perception.egg-info
