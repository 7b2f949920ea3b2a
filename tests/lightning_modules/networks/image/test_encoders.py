"""Switches that change how an encoder computes change nothing of what it computes."""

from __future__ import annotations

import os
import shutil
import sysconfig
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_modules.core.errors import ModelError
from lightning_modules.export.image import load_exported, load_pretrained, save_encoder
from lightning_modules.networks.image import encoders
from lightning_modules.networks.image.encoders import EncoderConfig, build_encoder

SMALL = EncoderConfig(depth=10, width=4, stem_norm="instance")
CONTRACT = {"grid": [8, 12, 12], "region": "kidney"}
COMPILER = shutil.which(os.environ.get("CXX", "g++")) and (Path(sysconfig.get_path("include")) / "Python.h").is_file()


class Tiny(nn.Module):
    """Small enough to compile in seconds."""

    feature_dim = 4

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(image)).relu().mean(dim=(2, 3, 4))


def test_it_is_off_unless_asked_for() -> None:
    assert build_encoder(SMALL)._compiled_call_impl is None


@pytest.mark.slow
@pytest.mark.skipif(not COMPILER, reason="torch.compile needs a C++ compiler and Python's headers")
def test_a_compiled_encoder_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(encoders.NETWORKS, "tiny", Tiny)
    config = EncoderConfig(network="tiny")
    plain, compiled = build_encoder(config), build_encoder(replace(config, compile=True))
    assert compiled._compiled_call_impl is not None
    compiled.load_state_dict(plain.state_dict())
    image = torch.rand(4, 1, 6, 6, 6)
    first, second = plain(image), compiled(image)
    torch.testing.assert_close(second, first, rtol=1e-5, atol=1e-5)
    first.square().sum().backward()
    second.square().sum().backward()
    for ours, theirs in zip(compiled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(not COMPILER, reason="a compiled encoder is refused where nothing can compile it")
def test_compiling_renames_no_weight_and_makes_no_other_encoder(tmp_path: Path) -> None:
    compiled = replace(SMALL, compile=True)
    encoder = build_encoder(compiled)
    assert list(encoder.state_dict()) == list(build_encoder(SMALL).state_dict())
    save_encoder(tmp_path, encoder, compiled, CONTRACT, "# Card\n")
    load_pretrained(build_encoder(SMALL), SMALL, CONTRACT, tmp_path)
    loaded, exported = load_exported(tmp_path)
    assert exported.config == compiled
    assert loaded._compiled_call_impl is None


def test_without_a_compiler_it_is_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ModelError, match=r"no-such-compiler was not found; install it"):
        build_encoder(replace(SMALL, compile=True))


def test_recomputing_updates_running_statistics_once() -> None:
    """A second pass over the same batch would count it twice in the mean and variance of evaluation."""
    torch.manual_seed(0)
    plain = build_encoder(SMALL)
    recomputed = build_encoder(replace(SMALL, checkpointing=True))
    recomputed.load_state_dict(plain.state_dict())
    image = torch.rand(3, 1, 12, 16, 16)
    for encoder in (plain, recomputed):
        for _ in range(2):
            encoder(image).square().sum().backward()
    for name, value in plain.named_buffers():
        torch.testing.assert_close(dict(recomputed.named_buffers())[name], value)
    for ours, theirs in zip(recomputed.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    assert all(norm.momentum == 0.1 for norm in recomputed.modules() if isinstance(norm, nn.BatchNorm3d))
