"""The shell scripts: clean under shellcheck, executable, and with a usage line that costs nothing to ask for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lib import ROOT

SCRIPTS = [*sorted((ROOT / "hw").rglob("*.sh")), ROOT / "run_all.sh", ROOT / ".ci" / "run"]
SHELLCHECK = Path(sys.executable).with_name("shellcheck")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_scripts_are_clean_and_executable(script: Path) -> None:
    done = subprocess.run([SHELLCHECK, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert os.access(script, os.X_OK) and "set -euo pipefail" in script.read_text()


@pytest.mark.parametrize("script", sorted((ROOT / "hw").rglob("*.sh")), ids=lambda path: path.name)
def test_scripts_say_how_they_are_used(script: Path) -> None:
    asked = subprocess.run([script, "--help"], capture_output=True, text=True)
    assert asked.returncode == 0 and asked.stdout.startswith(f"usage: {script.name}")
    bare = subprocess.run([script], capture_output=True, text=True)
    assert bare.returncode == 2 and bare.stderr.startswith(f"usage: {script.name}")
