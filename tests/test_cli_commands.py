"""`rise` itself, `rise info`, and mistakes in the other commands' arguments."""

from __future__ import annotations

import shutil
import subprocess
import sys

from rise_perception.cli.main import COMMANDS

START = 1_700_000_000_000_000_000
PERIOD = 100_000_000


# ---- rise


def test_help_lists_every_command_and_each_has_examples(rise):
    status, out, _ = rise("--help")
    assert status == 0
    for command in COMMANDS:
        assert f"\n  {command} " in out
        status, text, _ = rise(command, "--help")
        assert status == 0, command
        assert f"rise {command}" in text.split("examples:")[1], command


def test_unknown_command_suggests(rise):
    status, _, err = rise("pretict")
    assert status == 2
    assert "did you mean 'predict'" in err
    assert rise()[0] == 2


def test_help_does_not_load_torch():
    code = "import sys, rise_perception.cli.main as m; m.main(['--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")


# ---- rise info


def test_info_shows_card_and_size(rise, tiny_model):
    status, out, _ = rise("info", tiny_model)
    assert status == 0
    assert "tiny_rgb-" in out
    assert "M parameters" in out
    assert '"resnet18"' in out


def test_info_of_what_is_no_model(rise, tmp_path, tiny_model):
    status, _, err = rise("info", tmp_path)
    assert (status, str(tmp_path) in err) == (2, True)
    shutil.copytree(tiny_model, tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").write_bytes(b"\x80\x04cpickle")
    status, _, err = rise("info", tmp_path / "m")
    assert (status, "model.safetensors" in err) == (2, True)


def test_unknown_configuration_key_is_named(rise, tmp_path):
    (tmp_path / "c.yaml").write_text("nettwork: {width: 32}\n")
    status, _, err = rise("train", tmp_path / "c.yaml")
    assert (status, "nettwork" in err) == (2, True)
