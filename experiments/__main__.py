"""Entry of `python -m experiments`."""

import os
import sys


def leave_working_folder() -> None:
    """Take the working folder off the module search path, for this process and those that it starts.

    `python -m` looks there first, so that a folder with a `torch` or a `callbacks` of its own, for example one that
    came with data or shared runs, would be run in their place. The suite's own folder is searched after the
    installed packages.
    """
    here = os.getcwd()
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != here]
    import sysconfig

    standard = {os.path.abspath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    # The folder that holds the package, or in a wheel the one around it.
    depth = __spec__.name.count(".") if __spec__ else 0
    root = os.path.abspath(os.path.join(os.path.dirname(__file__), *[os.pardir] * depth))
    kept = [path for path in sys.path if os.path.abspath(path) != root or root in standard]
    if root not in standard:
        after = max((place for place, path in enumerate(kept) if os.path.abspath(path) in standard), default=-1)
        kept.insert(after + 1, root)
        inherited = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = root if not inherited else f"{root}{os.pathsep}{inherited}"
    sys.path[:] = kept
    os.environ["PYTHONSAFEPATH"] = "1"


def command() -> int:
    """The command line of this process; its exit code."""
    try:
        leave_working_folder()
        from experiments.cli import main
    except KeyboardInterrupt:
        return 130
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read what is printed has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    return code


if __name__ == "__main__":
    sys.exit(command())
