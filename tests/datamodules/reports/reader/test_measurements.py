"""Numbers with units and what they measure."""

from __future__ import annotations

import pytest

from datamodules.reports.reader.measurements import (
    diameters,
    distances,
    enhancement_hu,
    lengths,
    percentages,
    unenhanced_hu,
)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("4.2 cm", (42.0,)),
        ("42 mm", (42.0,)),
        ("42mm", (42.0,)),
        ("3,2 cm", (32.0,)),
        ("4.2 x 3.1 cm", (42.0, 31.0)),
        ("4.2 cm x 3.1 cm", (42.0, 31.0)),
        ("42x31x28 mm", (42.0, 31.0, 28.0)),
        ("4.2 by 3.1 cm", (42.0, 31.0)),
        ("42/31 mm", (42.0, 31.0)),
        ("a 3-cm mass", (30.0,)),
        ("3 centimetres", (30.0,)),
        ("between 4 and 7 mm", (4.0, 7.0)),
        ("4-7 mm", (4.0, 7.0)),
        ("4 to 7 mm", (4.0, 7.0)),
        ("up to 4.2 cm", (42.0,)),
        ("more than 7 mm", (7.01,)),
        ("< 4 mm", (3.99,)),
        ("series 3 image 45", ()),
        ("in 2019", ()),
        ("grade 2", ()),
        ("a millimetric cyst", (5.0,)),
    ],
)
def test_lengths(text: str, values: tuple[float, ...]) -> None:
    found = lengths(text)
    assert tuple(value for entry in found for value in entry.values) == pytest.approx(values)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("A mass of 4.2 x 3.1 cm in the upper pole.", 42.0),
        ("A 4.2 cm solid mass.", 42.0),
        ("The lesion measures up to 45 mm.", 45.0),
        ("A mass has grown from 3.1 to 4.2 cm.", 42.0),
        ("A mass of 4.4 cm (previously 3.9 cm).", 44.0),
        ("A mass, 3.9 cm in 2015, now 7.2 cm.", 72.0),
        ("A mass lies in the lower pole, 4.2 cm in diameter.", 42.0),
        ("A mass of 3 cm, 9 mm from the renal sinus.", 30.0),
        ("The kidney measures 11 cm.", None),
        ("The renal cortex has a thickness of 15 mm with a mass.", None),
        ("A lymph node with a short axis of 12 mm.", None),
        ("A stone of 5 mm.", None),
        ("A calculus of 5 mm beside the cyst.", None),
        ("The kidney is 11 cm long, no lesion.", None),
        ("A mass lies 9 mm from the collecting system.", None),
    ],
)
def test_the_diameter_of_a_lesion(text: str, size: float | None) -> None:
    assert max((entry.largest for entry in diameters(text)), default=None) == size


@pytest.mark.parametrize(
    ("text", "middle"),
    [
        ("The distance to the collecting system is 9 mm.", 9.0),
        ("It lies 9 mm from the renal sinus.", 9.0),
        ("It comes within 3 mm of the renal pelvis.", 3.0),
        ("The distance to the sinus is between 4 and 7 mm.", 5.5),
        ("5 mm of parenchyma separate it from the renal sinus.", 5.0),
        ("The sinus is 9 mm away.", 9.0),
        ("A mass of 30 mm in the renal sinus.", None),
    ],
)
def test_the_distance_to_the_sinus(text: str, middle: float | None) -> None:
    assert next((entry.middle for entry in distances(text)), None) == middle


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("60 % exophytic", 60.0),
        ("more than 50% exophytic", 50.01),
        ("less than 50 percent exophytic", 49.99),
        ("70% endophytic", 30.0),
        ("20-40 % of it is exophytic", 30.0),
    ],
)
def test_the_exophytic_share(text: str, value: float) -> None:
    assert next(percentages(text)).middle == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "native", "rise"),
    [
        ("Unenhanced attenuation of 33 HU.", 33.0, None),
        ("It measures 8 to 12 HU before contrast.", 10.0, None),
        ("It measures 110 HU in the arterial phase.", None, None),
        ("Areas of -60 HU on native images.", None, None),
        ("It enhances by 40 HU.", None, 40.0),
        ("It enhances from 30 to 90 HU.", None, 60.0),
        ("Enhancement of less than 10 HU.", None, 9.99),
    ],
)
def test_attenuation_and_its_rise(text: str, native: float | None, rise: float | None) -> None:
    assert next((entry.middle for entry in unenhanced_hu(text)), None) == native
    assert next((entry.middle for entry in enhancement_hu(text)), None) == rise
