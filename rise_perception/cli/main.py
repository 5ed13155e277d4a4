"""The command `rise`: runs the module of a subcommand and turns its errors into one line."""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import rise_perception
from rise_perception.core.errors import RiseError
from rise_perception.inference.malloc_tuning import keep_freed_memory

COMMANDS = (
    "predict",
    "view",
    "refer",
    "replay",
    "eval",
    "teach",
    "train",
    "show-batch",
    "split",
    "scenes",
    "episodes",
    "learn",
    "info",
    "export",
    "selftest",
    "bench",
    "demo",
    "live-demo",
    "fuzz",
)
# Where the module's name is not the command's.
MODULES = {"eval": "evaluate", "show-batch": "show_batch", "live-demo": "live_demo"}
FAILED, INTERRUPTED = 2, 130
QUIET = "--quiet"


def main(argv: Sequence[str] | None = None) -> int:
    """Run `rise`; returns the exit status: 0 all done, 2 an error or something left out, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0 if arguments else FAILED
    if arguments[0] == "--version":
        print(f"rise_perception {rise_perception.__version__}")
        return 0
    command = arguments[0]
    if command not in COMMANDS:
        close = difflib.get_close_matches(command, COMMANDS, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"commands are: {', '.join(COMMANDS)}"
        return _fail(f"there is no command {command!r}; {hint}")
    try:
        module = _module(command)
    except ImportError as error:
        return _fail(f"`rise {command}` cannot run here: {error}")
    args = build_parser(command).parse_args([word for word in arguments[1:] if word != QUIET])
    if QUIET in arguments or not sys.stderr.isatty():
        os.environ["TQDM_DISABLE"] = "1"  # for nodes and workers as well; tqdm reads it when it is imported
    keep_freed_memory()
    args.command_line = shlex.join(["rise", *arguments])
    try:
        return module.run(args)
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (RiseError, OSError) as error:  # OSError: disk full, no permission; its text names the file
        return _fail(str(error))
    except KeyboardInterrupt:
        print("rise: interrupted; what was written so far is kept", file=sys.stderr)
        return INTERRUPTED


def build_parser(command: str) -> argparse.ArgumentParser:
    """The arguments of one of :data:`COMMANDS`."""
    module = _module(command)
    parser = argparse.ArgumentParser(
        prog=f"rise {command}",
        description=module.SUMMARY,
        epilog=module.EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    parser.add_argument(
        QUIET, action="store_true", help="no progress bars (there are none where stderr is no terminal)"
    )
    return parser


def _overview() -> str:
    lines = ["usage: rise COMMAND ...", "", "Instance masks of picking scenes, for robots.", "", "commands:"]
    for command in COMMANDS:
        try:
            summary = _module(command).SUMMARY
        except ImportError as error:  # an optional part that is missing hurts its own command only
            summary = f"cannot run here: {error}"
        lines.append(f"  {command:<11} {summary}")
    lines += ["", "`rise COMMAND --help` shows arguments and examples; `rise --version` the version."]
    return "\n".join(lines)


def _module(command: str) -> Any:
    return importlib.import_module(f"rise_perception.cli.{MODULES.get(command, command)}")


def _fail(message: str) -> int:
    print(f"rise: error: {message}", file=sys.stderr)
    return FAILED


if __name__ == "__main__":
    sys.exit(main())
