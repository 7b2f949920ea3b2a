"""One look an encoder, whatever figure it stands in and whoever else is drawn."""

from __future__ import annotations

import pytest
from matplotlib.colors import to_rgb

from experiments import registry
from experiments.registry import ENCODERS, EncoderEntry
from experiments.studies import encoder_lines
from experiments.studies.encoder_lines import encoder_color, encoder_line, encoder_marker


def test_no_two_encoders_look_alike() -> None:
    looks = {name: (encoder_color(name), encoder_marker(name)["marker"]) for name in ENCODERS}
    assert len(set(looks.values())) == len(ENCODERS)
    assert all(not str(marker).startswith("$") for _, marker in looks.values()), "give a new encoder a look of its own"
    pretrained = [encoder_color(name) for name in ENCODERS if not ENCODERS[name].baseline]
    assert len(set(pretrained)) == len(pretrained)


def test_pretrained_encoders_are_coloured_and_solid_and_baselines_grey_broken_and_open() -> None:
    for name, entry in ENCODERS.items():
        red, green, blue = to_rgb(encoder_color(name))
        grey = red == green == blue
        open_marker = encoder_marker(name)["markerfacecolor"] == "white"
        assert grey == open_marker == (encoder_line(name)["linestyle"] != "-") == entry.baseline, name


def test_an_encoder_keeps_its_look_when_others_are_added_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: (encoder_line(name), encoder_marker(name)) for name in ENCODERS}
    more = {"mine": EncoderEntry("Mine", "mine", "MIT", "mine"), **ENCODERS}
    for module in (registry, encoder_lines):
        monkeypatch.setattr(module, "ENCODERS", more)
    assert {name: (encoder_line(name), encoder_marker(name)) for name in before} == before
    assert encoder_marker("mine")["marker"] == "$m$"
