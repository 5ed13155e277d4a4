"""Freed arrays are reused instead of being faulted in again for every frame."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from rise_perception.inference import segmenter, served_model
from rise_perception.inference.segmenter import Segmenter
from rise_perception.network.card import ModelCard
from rise_perception.network.checkpoint import load_model

FAULTS = """
import resource
import numpy as np
from rise_perception.inference.malloc_tuning import keep_freed_memory
if {keep}:
    keep_freed_memory()
def frame():
    return [np.ones(150_000) for _ in range(20)]  # 1.2 MB each
for _ in range(5):
    frame()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    frame()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the setting is the GNU C library's")
def test_freed_arrays_are_reused() -> None:
    kept, default = (
        int(subprocess.check_output([sys.executable, "-c", FAULTS.format(keep=keep)], timeout=120))
        for keep in (True, False)
    )
    assert kept < 100
    assert kept < default / 10


THREADS = """
import threading
import numpy as np
from rise_perception.inference.malloc_tuning import keep_freed_memory
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
keep_freed_memory(one_arena={one_arena})
def take():
    return len([np.ones(150_000) for _ in range(40)])  # 46 MB, freed on return
ready, stop = threading.Event(), threading.Event()
def serve():
    take()
    ready.set()
    stop.wait()  # a thread that has ended leaves its memory to the next one anyway
threading.Thread(target=serve).start()
ready.wait()
before = resident()
thread = threading.Thread(target=take)
thread.start()
thread.join()
print(resident() - before)
stop.set()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the setting is the GNU C library's")
def test_a_thread_reuses_what_another_one_freed() -> None:
    shared, apart = (
        float(subprocess.check_output([sys.executable, "-c", THREADS.format(one_arena=one)], timeout=120))
        for one in (True, False)
    )
    assert apart > 30
    assert shared < 10


def test_a_model_holds_its_weights_once(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[weakref.ref[nn.Module]] = []

    def load(folder: Path, device: str) -> tuple[nn.Module, ModelCard]:
        network, card = load_model(folder, device)
        loaded.append(weakref.ref(network))
        return network, card

    monkeypatch.setattr(served_model, "load_model", load)  # to see what it loads
    served = served_model.ServedModel(tiny_model, "cpu", None)
    gc.collect()
    assert [network() for network in loaded] in ([served.network], [None])


PEAK = """
import numpy as np
from rise_perception.inference.malloc_tuning import give_back_freed_memory, keep_freed_memory
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
keep_freed_memory()
before = resident()
much = [np.ones(150_000) for _ in range(100)]  # 114 MB
kept = np.ones(150_000)  # lies above: nothing can be cut off at the end
del much
print(resident() - before)
give_back_freed_memory()
print(resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the function is the GNU C library's")
def test_what_two_models_took_is_given_back(
    tiny_model: Path, scene: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = subprocess.check_output([sys.executable, "-c", PEAK], timeout=120).split()
    freed, given_back = (float(number) for number in told)
    assert freed > 100
    assert given_back < 20

    served = Segmenter.load(tiny_model, "cpu")
    old = weakref.ref(served.models[0])
    alive: list[bool] = []
    monkeypatch.setattr(segmenter, "give_back_freed_memory", lambda: alive.append(old() is not None))
    served.swap(tiny_model).join()
    assert alive[-1] is False, "the old model is still there when memory is given back"
    assert len(served(scene[0])) > 0
