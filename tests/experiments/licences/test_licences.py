"""Nothing that the suite imports or installs by default is GPL, and a page says what is not permissive."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from datamodules.errors import DataError
from experiments.licences import licence_table as table
from experiments.licences.licence_table import PAGE, ROOT, Package, collect, family_of, known, page, violations
from experiments.licences.packages import closure, imported_packages, installed_for


@pytest.fixture(scope="module")
def packages() -> list[Package]:
    return collect()


def test_the_default_installation_and_all_imports_are_free_of_gpl(packages: list[Package]) -> None:
    assert violations(packages) == []
    assert not any(one.family == "GPL" for one in packages if "default" in one.installed_for or one.imported_by)
    by_name = {one.name: one for one in packages}
    # What would be found, were it imported.
    assert by_name["scikit-survival"].family == "GPL"
    assert by_name["scikit-survival"].installed_for == ("dev",)
    assert by_name["mirp"].installed_for == ("radiomics",)
    assert "itk" not in installed_for(ROOT)["default"]
    assert by_name["torch"].use == "imported"
    assert len(by_name["torch"].imported_by) > 50


def test_every_import_of_the_suite_belongs_to_a_package_that_it_asks_for(packages: list[Package]) -> None:
    strange = {one.name: one.imported_by for one in packages if not one.installed_for}
    assert strange == {}


def test_a_gpl_package_that_is_imported_or_installed_by_default_is_refused(packages: list[Package]) -> None:
    (gpl,) = [one for one in packages if one.name == "scikit-survival"]
    imported = replace(gpl, imported_by=("lightning_modules/core/suite_module.py",))
    (sentence,) = violations([imported])
    assert "scikit-survival (GPL-3.0-or-later) is imported by lightning_modules/core/suite_module.py" in sentence
    (sentence,) = violations([replace(gpl, installed_for=("default",))])
    assert "part of the default installation" in sentence
    (sentence,) = violations([replace(gpl, licence="UNKNOWN", refused=False, installed_for=("default",))])
    assert "states no licence" in sentence


def test_imports_are_found_wherever_they_stand(tmp_path: Path) -> None:
    for room in ("lightning_modules", "tests"):
        (tmp_path / room).mkdir()
    (tmp_path / "lightning_modules" / "late.py").write_text("def f():\n    from sksurv.metrics import brier_score\n")
    (tmp_path / "tests" / "compared.py").write_text("import sksurv, yaml\n")
    assert imported_packages(tmp_path) == {"scikit-survival": ["lightning_modules/late.py"]}


@pytest.mark.parametrize(
    ("licence", "family"),
    [
        ("GPLv3", "GPL"),
        ("GPL-3.0-or-later", "GPL"),
        ("GNU General Public License v2 (GPLv2)", "GPL"),
        ("AGPL-3.0-only", "GPL"),
        ("GNU Affero General Public License v3", "GPL"),
        ("MIT AND GPL-2.0-only", "GPL"),
        ("LGPL-2.1-or-later", "LGPL"),
        ("GNU Lesser General Public License v2 or later (LGPLv2+)", "LGPL"),
        ("EUPL-1.2", "EUPL"),
        ("Mozilla Public License 2.0 (MPL 2.0)", "MPL"),
        ("MPL-2.0 AND MIT", "MPL"),
        ("GPL-3.0-or-later WITH GCC-exception-3.1", None),
        ("GPL-2.0-only OR MIT", None),
        ("Apache-2.0", None),
        ("BSD-3-Clause AND 0BSD AND MIT AND Zlib AND CC0-1.0", None),
    ],
)
def test_families_of_licences(licence: str, family: str | None) -> None:
    found = family_of(licence, known()["families"])
    assert (found and found["name"]) == family


def test_needs_are_followed_through_extras_and_markers() -> None:
    found = closure(["lightning", "jsonargparse[signatures]"])
    assert {"torch", "torchmetrics", "typeshed-client"} <= found
    assert "typeshed-client" not in closure(["jsonargparse"])
    assert closure(["no-such-package-here"]) == set()


def test_the_page_that_is_kept_names_every_direct_and_every_copyleft_package(packages: list[Package]) -> None:
    kept = PAGE.read_text(encoding="utf-8")
    for one in packages:
        if one.imported_by or one.family:
            assert f"| {one.name} | {one.version} | {one.licence} | {one.use} |" in kept, one.name
    explained = known()["packages"]
    assert [one.name for one in packages if one.family and one.name not in explained] == []
    assert page(packages).splitlines()[:8] == kept.splitlines()[:8]


def test_the_command_fails_and_names_what_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packages: list[Package], capsys: pytest.CaptureFixture[str]
) -> None:
    from experiments.runs.console import configure_output

    configure_output()
    bad = [replace(one, imported_by=("datamodules/x.py",)) if one.name == "ecos" else one for one in packages]
    monkeypatch.setattr(table, "collect", lambda: bad)
    assert table.licences(tmp_path / "page.md") == 1
    assert "FAIL ecos (GPLv3) is imported by datamodules/x.py" in capsys.readouterr().out
    monkeypatch.setattr(table, "collect", lambda: packages)
    assert table.licences(tmp_path / "page.md") == 0
    assert "# Licences" in (tmp_path / "page.md").read_text()


def test_radiomics_without_their_library_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments.encoders.radiomics.extract import check_library

    check_library()
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "mirp" else found(name, *rest))
    with pytest.raises(DataError, match=r"expected the extra `radiomics`: run `make setup`"):
        check_library()
