"""How the wheel is built: the packages of the checkout, inside the one package `renal_vlm`.

In a checkout `datamodules`, `lightning_modules`, `callbacks` and `experiments` are packages of their own. Installed
beside other software such names belong to nobody. So the wheel holds them as `renal_vlm.datamodules` and so on, and
what the code says of itself is changed with them: its imports, and names of its modules in strings and configurations.
An editable install and the source distribution keep the checkout as it is. All else stands in pyproject.toml.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

HOME = "renal_vlm"
ROOMS = ("datamodules", "lightning_modules", "callbacks", "experiments")
_NAME = "|".join(ROOMS)
_IN_STRING = re.compile(rf"(?:{_NAME})\.(?:[\w.]*(?::\w+)?)")
"""The full name of a module or class, or the beginning of one: a string that is nothing else."""
_IN_YAML = re.compile(rf"(?<=class_path: )(?={_NAME}\.)", re.ASCII)


def moved(source: str) -> str:
    """The text of a module as it stands in the wheel, line for line.

    Args:
        source: Its text in the checkout.

    Raises:
        ValueError: if it imports a package in a form that has no counterpart there.
    """
    places: list[tuple[int, int, str, str]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ROOMS:
            places.append((node.lineno, node.col_offset, "from ", f"from {HOME}."))
        elif isinstance(node, ast.Import):
            own = [alias for alias in node.names if alias.name.split(".")[0] in ROOMS]
            if own and (len(node.names) > 1 or "." in own[0].name):
                raise ValueError(f"line {node.lineno}: import one package, or take a module out of it with `from`.")
            if own:
                places.append((node.lineno, node.col_offset, "import ", f"from {HOME} import "))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _IN_STRING.fullmatch(node.value):
            places.append((node.lineno, node.col_offset, node.value, f"{HOME}.{node.value}"))
    lines = source.splitlines(keepends=True)
    for line, column, old, new in sorted(places, reverse=True):
        raw = lines[line - 1].encode()
        head, tail = raw[:column].decode(), raw[column:].decode()
        if old not in tail:
            raise ValueError(f"line {line}: {old!r} is not written in one piece.")
        lines[line - 1] = head + tail.replace(old, new, 1)
    return "".join(lines)


def moved_yaml(source: str) -> str:
    """The text of a configuration as it stands in the wheel."""
    return _IN_YAML.sub(f"{HOME}.", source)


class BuildPackages(build_py):
    """Copies the packages; those of a wheel are changed on the way."""

    def run(self) -> None:
        """Copy, then change what was copied."""
        super().run()
        if HOME + ".datamodules" not in (self.packages or ()):
            return
        root = Path(self.build_lib) / HOME
        for path in (*root.rglob("*.py"), *root.rglob("*.yaml")):
            text = path.read_text(encoding="utf-8")
            path.write_text(moved(text) if path.suffix == ".py" else moved_yaml(text), encoding="utf-8")


class BuildWheel(bdist_wheel):
    """A wheel whose only package is `renal_vlm`."""

    def run(self) -> None:
        """Name the packages as they are installed."""
        given = self.distribution
        given.package_dir = {f"{HOME}.{room}": room for room in ROOMS}
        given.packages = [name if name.split(".")[0] == HOME else f"{HOME}.{name}" for name in given.packages]
        given.package_data = {
            name if name.split(".")[0] in ("", "*", HOME) else f"{HOME}.{name}": files
            for name, files in given.package_data.items()
        }
        if self.dist_info_dir is not None:  # written before, of the checkout's names
            (Path(self.dist_info_dir) / "top_level.txt").write_text(f"{HOME}\n", encoding="utf-8")
        super().run()


if __name__ == "__main__":
    setup(cmdclass={"build_py": BuildPackages, "bdist_wheel": BuildWheel})
