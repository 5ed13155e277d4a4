# `make demo` and `make test` prepare .venv themselves; both are quick the second time.
#   make demo [INPUT=<bag | folder of images>]   segment a picking scene through the ROS 2 graph, write a report
#   make test                                    everything CI runs
#   make venv                                    only .venv, with rise, rclpy and rise_msgs
#   make lint                                    formatting, lint and types
# PYTHON=<interpreter> names the Python that .venv is made from.

PYTHON ?= python3
VENV := $(CURDIR)/.venv
BIN := $(VENV)/bin

# With a sourced ROS, its linker and package paths have to know rise_msgs in .venv; the ROS wheels see to it themselves.
ifdef AMENT_PREFIX_PATH
RUN := env AMENT_PREFIX_PATH="$(VENV):$(AMENT_PREFIX_PATH)" LD_LIBRARY_PATH="$(VENV)/lib:$(LD_LIBRARY_PATH)"
endif

.PHONY: demo test venv lint clean
.DEFAULT_GOAL := demo

demo: venv
	@$(RUN) $(BIN)/rise demo $(if $(INPUT),"$(INPUT)")

# A process for each group: it gives its memory back, and a crash in native code says where it happened.
GROUPS := 'tests/test_[a-d]*.py' 'tests/test_e[a-w]*.py' 'tests/test_ex*.py' 'tests/test_[f-m]*.py' 'tests/test_n*.py' \
	'tests/test_[o-q]*.py' 'tests/test_runtime*.py' 'tests/test_s*.py'

test: venv lint
	@for group in $(GROUPS); do echo "== $$group"; $(RUN) $(BIN)/python -m pytest $$group || exit 1; done

lint: venv
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

venv:
	@$(PYTHON) tools/prepare_venv.py

clean:
	rm -rf .venv out ros2_ws/build ros2_ws/install ros2_ws/log rise_perception.egg-info
