"""The model store: versions, promotion, rollback, names that lead outside, damage, kill -9 at any moment."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rise_perception.core.errors import ModelError
from rise_perception.grasp_learning.update.model_store import CURRENT, ModelStore, StoredModel
from rise_perception.network.card import CARD, WEIGHTS, file_checksum, read_card
from rise_perception.network.checkpoint import load_model


@pytest.fixture
def store(tmp_path: Path, tiny_model: Path) -> ModelStore:
    store = ModelStore(tmp_path / "models", write=True)
    store.begin(tiny_model)
    return store


def add_version(store: ModelStore, seed: int, **facts: object) -> StoredModel:
    """A version whose weights differ from all others'."""
    serving = store.serving()
    with store.workplace() as place:
        weights = load_file(serving.folder / WEIGHTS)
        name = next(iter(weights))
        weights[name] = torch.full_like(weights[name], float(seed))
        save_file(weights, place / WEIGHTS)
        card = dataclasses.replace(serving.card, checksum=file_checksum(place / WEIGHTS))
        return store.add(place, card, {"parent": serving.version, **facts})


def promote(store: ModelStore, seed: int) -> str:
    parent = store.serving().version
    version = add_version(store, seed, accepted=True).version
    store.promote(version, parent)
    return version


def test_a_store_begins_with_a_model_and_serves_it(store: ModelStore, tiny_model: Path) -> None:
    serving = store.serving()
    assert serving.version == read_card(tiny_model).version
    assert load_model(serving.folder)[1].version == serving.version
    assert (store.current().database_version, store.current().promoted) == (1, 0)
    assert store.begin(tiny_model).version == serving.version
    assert store.current().database_version == 1


def test_promotion_counts_up_and_rollback_goes_back_one_call_at_a_time(store: ModelStore) -> None:
    base = store.serving().version
    first, second = promote(store, 1), promote(store, 2)
    assert (store.current().version, store.current().database_version) == (second, 3)
    assert store.rollback().version == first
    assert store.rollback().version == base
    assert (store.current().database_version, store.current().promoted) == (5, 2)
    with pytest.raises(ModelError, match="first version"):
        store.rollback()
    assert store.rollback(second).version == second  # by name, forward too
    assert store.rollback().version == base
    assert {m.version for m in store.versions()} == {base, first, second}


def test_reset_serves_the_first_version_and_forgets_the_others(store: ModelStore) -> None:
    base = store.serving().version
    promote(store, 1)
    promote(store, 2)
    assert store.reset().version == base
    assert store.current().history == ()


def test_a_version_that_was_kept_to_be_looked_at_cannot_serve(store: ModelStore) -> None:
    base = store.serving()
    rejected = add_version(store, 1, accepted=False, note="the anchors drop").version
    for ask in (store.find, store.rollback):
        with pytest.raises(ModelError, match="may not serve: the anchors drop"):
            ask(rejected)
    assert store.find(base.card.name).version == base.version  # and not the newest of that name
    assert store.serving().version == base.version
    snapshot = store.snapshot("good")
    assert store.rollback(snapshot.version).version == snapshot.version


def test_what_was_only_looked_at_may_serve_when_it_is_accepted_later(store: ModelStore) -> None:
    base = store.serving().version
    seen = add_version(store, 1, accepted=False, note="looked at", kept=True)
    assert add_version(store, 1, accepted=False).facts["note"] == "looked at"
    again = add_version(store, 1, accepted=True, note="good")
    assert (again.version, again.facts["note"], again.facts["kept"]) == (seen.version, "good", True)
    assert store.promote(again.version, base).version == seen.version
    assert add_version(store, 1, accepted=False).facts["accepted"]  # what has served may serve again


def test_a_snapshot_remembers_what_it_was_trained_on(store: ModelStore) -> None:
    base = store.serving().version
    version = add_version(store, 1, accepted=True, episodes=("abc",)).version
    store.promote(version, base)
    assert store.snapshot("").facts["episodes"] == ("abc",)


def test_a_candidate_of_an_older_parent_is_not_promoted(store: ModelStore) -> None:
    base = store.serving().version
    late = add_version(store, 1)
    newer = promote(store, 2)
    with pytest.raises(ModelError, match=f"{newer} serves by now"):
        store.promote(late.version, base)
    assert store.serving().version == newer


def test_old_versions_leave_but_not_those_that_are_needed(tmp_path: Path, tiny_model: Path) -> None:
    store = ModelStore(tmp_path, write=True, max_versions=5)
    base = store.begin(tiny_model).version
    kept = store.snapshot("before the experiment").version
    versions = [promote(store, seed) for seed in range(1, 8)]
    left = [m.version for m in store.versions()]
    assert len(left) == 5
    assert {base, kept, *versions[-3:]} == set(left)
    assert left[0] == versions[-1]
    assert store.rollback().version == versions[-2]


def test_snapshots_are_versions_with_a_note_and_the_same_weights(store: ModelStore) -> None:
    snapshot = store.snapshot("before the experiment")
    assert snapshot.facts["note"] == "before the experiment"
    assert snapshot.card.checksum == store.serving().card.checksum
    assert snapshot.version != store.serving().version
    assert store.snapshot("again").version == snapshot.version
    store.max_versions = 4
    promote(store, 1)
    with pytest.raises(ModelError, match="keeps 2 snapshots"):
        store.snapshot("")


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../tiny", "/etc", "a/b", "a\\b", ".hidden", "-x", "a\0b", "a\nb", "x" * 300, "%2e", "ä"],
)
def test_names_that_are_none_are_refused(store: ModelStore, name: str) -> None:
    for call in (store.find, *([store.rollback] if name else [])):
        with pytest.raises(ModelError, match="no name of a model"):
            call(name)


def test_links_out_of_the_folder_are_not_followed(store: ModelStore, tmp_path: Path) -> None:
    serving = store.serving()
    outside = tmp_path / "outside"
    shutil.copytree(serving.folder, outside)
    (store.root / "linked-folder").symlink_to(outside)
    (store.root / "linked-file").mkdir()
    for file in (CARD, WEIGHTS):
        (store.root / "linked-file" / file).symlink_to(outside / file)
    for name in ("linked-folder", "linked-file"):
        with pytest.raises(ModelError, match="is a link"):
            store.rollback(name)
    assert [m.version for m in store.versions()] == [serving.version]


def test_damaged_renamed_and_pickled_versions_are_refused(store: ModelStore) -> None:
    version = add_version(store, 1, accepted=True)
    for file, content, message in (
        (WEIGHTS, b"x" * 64, "checksum"),
        (CARD, b"{}", "card"),
    ):
        saved = (version.folder / file).read_bytes()
        (version.folder / file).write_bytes(content)
        with pytest.raises(ModelError, match=message):
            store.rollback(version.version)
        (version.folder / file).write_bytes(saved)
    shutil.copytree(version.folder, store.root / "other-12345678")
    with pytest.raises(ModelError, match="not its name"):
        store.rollback("other-12345678")
    (version.folder / WEIGHTS).rename(version.folder / "model.pt")
    with pytest.raises(ModelError, match="only safetensors"):
        store.rollback(version.version)
    with pytest.raises(ModelError, match="no version 'nothing'"):
        store.find("nothing")


def test_a_name_without_checksum_means_its_newest_version(store: ModelStore) -> None:
    newest = promote(store, 1)
    assert store.find(newest.rsplit("-", 1)[0]).version == newest


def test_a_damaged_serving_version_gives_way_to_the_last_good_one(store: ModelStore) -> None:
    first, second = promote(store, 1), promote(store, 2)
    (store.root / second / WEIGHTS).write_bytes(b"half")
    assert ModelStore(store.root).serving().version == first
    store.close()
    again = ModelStore(store.root, write=True)
    assert (again.current().version, again.current().database_version) == (first, 4)


def test_a_lost_pointer_is_made_anew_from_what_passed_the_gate(store: ModelStore) -> None:
    accepted = promote(store, 1)
    add_version(store, 2)
    (store.root / CURRENT).write_text('{"version": "tin')
    store.close()
    assert ModelStore(store.root, write=True).current().version == accepted


def test_one_writes_and_readers_do_not(store: ModelStore) -> None:
    with pytest.raises(ModelError, match="another process writes"):
        ModelStore(store.root, write=True)
    reader = ModelStore(store.root)
    with pytest.raises(ModelError, match="for reading"):
        reader.snapshot("")
    with pytest.raises(ModelError, match="no model store there"):
        ModelStore(store.root / "nowhere")


def test_a_model_without_the_right_checksum_is_no_beginning(tmp_path: Path, tiny_model: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "m")
    card = json.loads((tmp_path / "m" / CARD).read_text())
    (tmp_path / "m" / CARD).write_text(json.dumps({**card, "checksum": "0" * 64}))
    store = ModelStore(tmp_path / "models", write=True)
    with pytest.raises(ModelError, match="checksum"):
        store.begin(tmp_path / "m")
    with pytest.raises(ModelError, match="no version can serve"):
        store.serving()


def keep_writing(root: str, seed: int) -> None:
    """Add, promote and roll back until somebody ends it."""
    store = ModelStore(root, write=True, max_versions=4)
    os.write(1, b"ready\n")  # at once, unlike print: two processes write to this pipe
    while True:
        seed += 1
        promote(store, seed)
        if seed % 3 == 0:
            store.rollback()


#: Forks a writer for every line, so that each takes milliseconds to start.
NURSERY = r"""
import os, sys
sys.path.insert(0, sys.argv[2])
from test_update_model_store import keep_writing
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        keep_writing(sys.argv[1], int(line))
    os.write(1, b"%d\n" % child)
    os.waitpid(child, 0)
    os.write(1, b"dead\n")
"""


@pytest.mark.slow
def test_kill_9_at_random_times_leaves_a_good_version_serving(tmp_path: Path, tiny_model: Path) -> None:
    """50 kills: afterwards and meanwhile every listed version is whole, and one serves."""
    root = tmp_path / "models"
    store = ModelStore(root, write=True)
    store.begin(tiny_model)
    begun = time.monotonic()
    promote(store, 10**6)
    longest = max(0.2, 2 * (time.monotonic() - begun))  # long enough for a version, however busy the machine
    store.close()
    rng, numbers = random.Random(0), []
    nursery = subprocess.Popen(
        [sys.executable, "-c", NURSERY, str(root), str(Path(__file__).parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    guard = threading.Timer(100 + 100 * longest, nursery.kill)
    guard.start()
    try:
        for number in range(50):
            nursery.stdin.write(f"{number * 1000}\n")
            nursery.stdin.flush()
            said = {nursery.stdout.readline().strip() for _ in range(2)}
            (child,) = said - {"ready"}
            time.sleep(rng.uniform(0.0, longest))
            assert ModelStore(root).serving().version  # while it writes
            os.kill(int(child), signal.SIGKILL)
            assert nursery.stdout.readline().strip() == "dead"
            reader = ModelStore(root)
            current = reader.current()
            assert reader.serving().version == current.version
            for model in reader.versions():
                assert reader.find(model.version).version == model.version
            numbers.append(current.database_version)
    finally:
        guard.cancel()
        nursery.kill()
        nursery.wait()
    assert numbers == sorted(numbers)
    assert numbers[-1] > 5  # or nothing was ever written
    store = ModelStore(root, write=True, max_versions=4)
    assert not [p for p in root.iterdir() if p.name.startswith(".") and p.name != ".lock"]
    assert len(store.versions()) <= 5
