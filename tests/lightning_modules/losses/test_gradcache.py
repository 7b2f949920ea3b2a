"""Gradient caching gives the gradient of the full batch, draws the same twice, and counts nothing twice."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from lightning_modules.core.errors import ModelError
from lightning_modules.losses.contrastive import info_nce
from lightning_modules.losses.gradcache import cached_features, micro_batches
from lightning_modules.networks.image.encoders import EncoderConfig, build_encoder

ROWS, GRID = 64, (4, 8, 8)


def make_encoder(norm: str = "group", dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    middle = nn.GroupNorm(4, 8) if norm == "group" else nn.BatchNorm3d(8)
    return nn.Sequential(
        nn.Conv3d(1, 8, 3, stride=2), middle, nn.ReLU(), nn.Flatten(), nn.Dropout(dropout), nn.Linear(72, 6)
    )


def make_batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(ROWS, 1, *GRID, generator=generator)
    return image, functional.normalize(torch.randn(ROWS, 6, generator=generator), dim=1)


def contrast(features: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    return info_nce(functional.normalize(features.float(), dim=1), text, torch.tensor(5.0))


def kept(encode: Callable[[slice], torch.Tensor], parts: list[slice], module: nn.Module) -> torch.Tensor:
    """The same parts with all their activations."""
    return torch.cat([encode(part) for part in parts])


def gradients(
    module: nn.Module, parts: list[slice], features_of: Callable[..., torch.Tensor], scale: float = 1.0
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    image, text = make_batch()
    module.zero_grad()
    torch.manual_seed(2)
    loss = contrast(features_of(lambda part: module(image[part]), parts, module), text)
    (scale * loss).backward()
    found = {name: value.grad / scale for name, value in module.named_parameters() if value.grad is not None}
    assert len(found) == len(list(module.parameters()))
    return loss.detach(), found


def assert_same(
    first: tuple[torch.Tensor, dict[str, torch.Tensor]], second: tuple[torch.Tensor, dict[str, torch.Tensor]]
) -> None:
    torch.testing.assert_close(first[0], second[0], rtol=1e-6, atol=1e-6)
    largest = max(float(value.abs().max()) for value in second[1].values())
    for name, value in first[1].items():
        torch.testing.assert_close(value, second[1][name], rtol=1e-5, atol=1e-5 * largest)


@pytest.mark.parametrize("count", [8, 64])
def test_any_number_of_parts_gives_the_gradient_of_the_full_batch(count: int) -> None:
    module = make_encoder()
    parts = micro_batches(ROWS, ROWS // count, torch.device("cpu"))
    assert len(parts) == count
    assert_same(gradients(module, parts, cached_features), gradients(module, [slice(0, ROWS)], kept))


def test_the_suites_encoder_is_no_exception() -> None:
    torch.manual_seed(0)
    config = EncoderConfig(depth=10, width=8, norm="group", stem_pool=False, checkpointing=True)
    module = nn.Sequential(build_encoder(config), nn.Linear(64, 6))
    parts = micro_batches(ROWS, 8, torch.device("cpu"))
    assert_same(gradients(module, parts, cached_features), gradients(module, [slice(0, ROWS)], kept))


def test_batch_norm_in_evaluation_mode_is_exact_too() -> None:
    module = make_encoder("batch").eval()
    parts = micro_batches(ROWS, 8, torch.device("cpu"))
    assert_same(gradients(module, parts, cached_features), gradients(module, [slice(0, ROWS)], kept))


def test_batch_norm_counts_a_part_once_and_dropout_draws_the_same_twice() -> None:
    cached, plain = make_encoder("batch", dropout=0.5), make_encoder("batch", dropout=0.5)
    parts = micro_batches(ROWS, 9, torch.device("cpu"))
    found = gradients(cached, parts, cached_features)
    after = torch.rand(1)
    assert_same(found, gradients(plain, parts, kept))
    assert torch.equal(after, torch.rand(1))  # the second pass leaves the generator where it was
    for (name, ours), theirs in zip(cached.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name)
    assert int(cached.get_buffer("1.num_batches_tracked")) == len(parts)


def test_a_scaled_loss_in_mixed_precision_gives_the_same_gradient() -> None:
    module = make_encoder()
    other = copy.deepcopy(module)
    parts = micro_batches(ROWS, 16, torch.device("cpu"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradients(module, parts, cached_features, scale=1024.0)
    # With a cast that is kept over parts their gradients would be added in half precision.
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        expected = gradients(other, parts, kept, scale=1024.0)
    assert_same(found, expected)


def test_each_part_is_asked_for_twice_and_one_at_a_time() -> None:
    """Positions stand for images, which are made when they are needed and gone when they are used."""
    module = make_encoder()
    image, text = make_batch()
    asked: list[int] = []

    def encode(part: slice) -> torch.Tensor:
        asked.append(part.start)
        made: torch.Tensor = module(image[part].clone())
        return made

    parts = micro_batches(ROWS, 16, torch.device("cpu"))
    contrast(cached_features(encode, parts, module), text).backward()
    assert asked == [0, 16, 32, 48, 0, 16, 32, 48]
    with torch.no_grad():
        features = cached_features(encode, parts, module)
    assert asked[8:] == [0, 16, 32, 48]
    torch.testing.assert_close(features, module(image))


def test_parts_cover_the_batch() -> None:
    parts = micro_batches(10, 4, torch.device("cpu"))
    assert parts == [slice(0, 3), slice(3, 6), slice(6, 10)]
    with pytest.raises(ModelError, match="micro_batch=0"):
        micro_batches(10, 0, torch.device("cpu"))


def test_what_is_frozen_or_unused_gets_no_gradient() -> None:
    used = make_encoder()
    used[0].requires_grad_(False)
    module = nn.ModuleDict({"used": used, "unused": nn.Linear(2, 2)})
    image, text = make_batch()
    parts = micro_batches(ROWS, 16, torch.device("cpu"))
    contrast(cached_features(lambda part: used(image[part]), parts, module), text).backward()
    without = {name for name, value in module.named_parameters() if value.grad is None}
    assert without == {"used.0.weight", "used.0.bias", "unused.weight", "unused.bias"}
    module.requires_grad_(False)
    assert not cached_features(lambda part: used(image[part]), parts, module).requires_grad


def test_parts_that_do_not_cover_the_batch_are_refused() -> None:
    module = make_encoder()
    image = make_batch()[0]
    for parts in ([], [slice(1, 4)], [slice(0, 4), slice(5, 8)], [slice(4, 8), slice(0, 4)]):
        with pytest.raises(ModelError, match="each from the end of the last"):
            cached_features(lambda part: module(image[part]), parts, module)
    with pytest.raises(ModelError, match="3 rows of features were found for rows 0 to 4"):
        cached_features(lambda part: module(image[:3]), [slice(0, 4)], module)
