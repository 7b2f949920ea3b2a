"""Published encoders give the features of their releases, and train as any other encoder."""

from __future__ import annotations

import copy

import pytest
import torch
from monai.networks.nets import ResNet, SegResNetDS
from monai.networks.nets.resnet import ResNetBlock, ResNetBottleneck
from torch import nn
from torch.nn import functional

from lightning_modules.core.errors import ModelError
from lightning_modules.networks.image.published.build import build_published
from lightning_modules.networks.image.published.ctvit import CTViT, Layer, PositionBias
from lightning_modules.networks.image.published.published_encoder import PublishedEncoder
from lightning_modules.networks.image.published.releases import RELEASES

SHAPES = {
    "ct_fm": (2, 1, 8, 16, 16),
    "merlin": (2, 1, 32, 32, 16),
    "merlin_astra": (2, 1, 32, 32, 16),
    "ct_clip": (2, 1, 12, 24, 24),
    "renalclip": (2, 1, 16, 32, 32),
}
GOLDEN: dict[str, list[list[float]]] = {
    "ct_fm": [[0.005858, 0.002072, 0.054421], [-0.013002, -0.016302, 0.027126]],
    "merlin": [[0.101475, 0.055142, 0.115341], [0.101705, 0.057767, 0.118045]],
    "merlin_astra": [[0.101475, 0.055142, 0.115341], [0.101705, 0.057767, 0.118045]],
    "ct_clip": [[-0.070614, 0.026962, 0.25], [0.595647, 0.028496, 0.25]],
    "renalclip": [[0.533673, 0.040442, 0.10166], [0.754242, 0.056503, 0.148573]],
}
"""First value, mean and root mean square of the features of two images, when this code agreed with the originals."""


def waves(shape: tuple[int, ...], step: float = 0.7) -> torch.Tensor:
    """Values in [-1, 1] that look random and are the same under every version of torch."""
    count = torch.arange(1, 1 + torch.Size(shape).numel(), dtype=torch.float64)
    return torch.sin(count * step + (count * 0.013).square() % 6.28).view(shape).float()


def filled(network: nn.Module) -> nn.Module:
    """Weights and statistics that differ from key to key, of the size of an initialised network's."""
    state = {}
    for number, (name, value) in enumerate(network.state_dict().items()):
        if not value.is_floating_point():
            state[name] = value
            continue
        drawn = waves(tuple(value.shape), 0.7 + 0.01 * number)
        if name.endswith("running_var"):
            state[name] = 1 + drawn.abs()
        elif value.ndim < 2:
            state[name] = 0.2 * drawn + (0.0 if name.endswith(("bias", "mean")) else 1.0)
        else:
            state[name] = drawn * (2 / value[0].numel()) ** 0.5 if name != "codebook" else drawn
    network.load_state_dict(state)
    return network


def small(name: str) -> PublishedEncoder:
    return filled(build_published(name, small=True))


@pytest.mark.parametrize("name", list(RELEASES))
def test_features_stay_what_they_were(name: str) -> None:
    with torch.inference_mode():
        feature = small(name).eval()(waves(SHAPES[name]).abs())
    assert feature.shape == (2, small(name).feature_dim)
    assert feature.dtype == torch.float32
    summary = torch.stack([feature[:, 0], feature.mean(dim=1), feature.square().mean(dim=1).sqrt()], dim=1)
    torch.testing.assert_close(summary, torch.tensor(GOLDEN[name]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", list(RELEASES))
def test_one_image_does_not_see_another(name: str) -> None:
    encoder, images = small(name).eval(), waves(SHAPES[name])
    with torch.inference_mode():
        together, alone = encoder(images), torch.cat([encoder(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", list(RELEASES))
def test_layer_groups_hold_every_parameter_once(name: str) -> None:
    encoder = small(name)
    grouped = [id(parameter) for group in encoder.layer_groups() for parameter in group]
    assert len(grouped) == len(set(grouped)) == len(list(encoder.parameters()))
    assert set(grouped) == {id(parameter) for parameter in encoder.parameters()}
    assert min(map(len, encoder.layer_groups())) > 0


@pytest.mark.parametrize("name", ["ct_fm", "merlin", "ct_clip", "renalclip"])
def test_checkpointing_changes_neither_features_gradients_nor_statistics(name: str) -> None:
    plain = small(name).train()
    saving = copy.deepcopy(plain)
    saving.checkpointing = True
    images = waves(SHAPES[name])
    kept, recomputed = plain(images), saving(images)
    torch.testing.assert_close(recomputed, kept)
    kept[:, 0].sum().backward()
    recomputed[:, 0].sum().backward()
    for (key, ours), theirs in zip(saving.named_parameters(), plain.parameters(), strict=True):
        assert theirs.grad is not None, key
        torch.testing.assert_close(ours.grad, theirs.grad, msg=key)
    for (key, ours), theirs in zip(saving.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=key)


@pytest.mark.parametrize(
    ("name", "keys", "parameters", "feature_dim"),
    [
        ("ct_fm", 161, 77_760_992, 512),
        ("merlin", 930, 117_366_208, 2048),
        ("merlin_astra", 930, 117_366_208, 2048),
        ("ct_clip", 112, 174_416_712, 512),
        ("renalclip", 102, 32_986_176, 512),
    ],
)
def test_full_size_is_that_of_the_release(name: str, keys: int, parameters: int, feature_dim: int) -> None:
    with torch.device("meta"):
        encoder = build_published(name)
    assert len(encoder.state_dict()) == keys
    assert sum(parameter.numel() for parameter in encoder.parameters()) == parameters
    assert encoder.feature_dim == feature_dim == RELEASES[name].feature_dim


def test_inflated_network_is_monai_on_three_equal_channels() -> None:
    encoder = small("merlin").eval()
    reference = ResNet(
        ResNetBottleneck,
        [1, 2, 1, 1],
        [4, 8, 16, 32],
        n_input_channels=3,
        conv1_t_size=(3, 7, 7),
        conv1_t_stride=(1, 2, 2),
        feed_forward=False,
        bias_downsample=False,
    )
    reference.load_state_dict(encoder.state_dict())
    image = waves(SHAPES["merlin"])
    with torch.inference_mode():
        expected = reference.eval()(image.permute(0, 1, 4, 2, 3).repeat(1, 3, 1, 1, 1))
        torch.testing.assert_close(encoder(image), expected, rtol=1e-4, atol=1e-5)


def test_padded_shortcut_keeps_the_features_and_lets_the_gradient_pass() -> None:
    encoder = small("renalclip").eval()
    reference = ResNet(
        ResNetBlock,
        [1, 1, 1, 2],
        [4, 8, 16, 32],
        n_input_channels=1,
        conv1_t_stride=2,
        shortcut_type="A",
        feed_forward=False,
    )
    reference.load_state_dict(encoder.state_dict())
    image = waves(SHAPES["renalclip"])
    torch.testing.assert_close(encoder(image), reference.eval()(image), rtol=1e-4, atol=1e-5)
    for network in (encoder, reference):
        network.layer4[0].bn2.weight.data.zero_()  # the shortcut alone is left of the block
        network(image).sum().backward()
    assert encoder.conv1.weight.grad.abs().sum() > 0
    assert encoder.conv1.weight.grad.norm() > reference.conv1.weight.grad.norm()


def test_segmentation_encoder_is_that_of_monai() -> None:
    encoder = small("ct_fm").eval()
    reference = SegResNetDS(init_filters=8, blocks_down=(1, 2, 1)).eval().encoder
    reference.load_state_dict(encoder.state_dict())
    image = waves(SHAPES["ct_fm"])
    with torch.inference_mode():
        expected = reference(image)[-1].mean(dim=(2, 3, 4))
        torch.testing.assert_close(encoder(image), expected)


def test_position_bias_is_that_of_every_pair() -> None:
    bias = PositionBias(dim=6, heads=2)
    table = bias(2, 3)
    for one in range(6):
        for other in range(6):
            distance = torch.tensor([one // 3 - other // 3, one % 3 - other % 3], dtype=torch.float32)
            expected = bias.network(distance.sign() * torch.log(distance.abs() + 1))
            torch.testing.assert_close(table[:, one, other], expected)


def test_position_along_the_depth_sees_the_past_only() -> None:
    layer, grid = Layer(dim=8, heads=2, head_dim=4), (1, 4, 3, 3)
    tokens = waves((4, 9, 8))
    changed = tokens.clone()
    changed[2] += 1.0
    difference = (layer._position(changed, grid) - layer._position(tokens, grid)).abs().amax(dim=(1, 2))
    assert (difference[:2] == 0).all()
    assert (difference[2:] > 0).all()


def test_attention_is_softmax_of_scaled_cosines() -> None:
    attention = Layer(dim=8, heads=2, head_dim=4).attention
    tokens, bias = waves((2, 5, 8)), waves((2, 5, 5))
    query = attention.query(attention.norm(tokens)).view(2, 5, 2, 4)
    key, value = (part.view(2, 5, 2, 4) for part in attention.key_value(tokens).chunk(2, dim=-1))
    query, key = functional.normalize(query, dim=-1), functional.normalize(key, dim=-1)
    weights = (8 * torch.einsum("bihd,bjhd->bhij", query, key) + bias).softmax(dim=-1)
    expected = attention.out(torch.einsum("bhij,bjhd->bihd", weights, value).flatten(2))
    torch.testing.assert_close(attention(tokens, bias), expected)


def test_tokens_become_the_codes_of_the_nearest_direction() -> None:
    encoder = small("ct_clip")
    assert isinstance(encoder, CTViT)
    tokens = waves((1, 2, 2, 3, 24)).requires_grad_()
    codes = encoder._quantized(tokens)
    for token, code in zip(tokens.view(-1, 24), codes.view(-1, 24), strict=True):
        nearest = functional.cosine_similarity(token[None], encoder.codebook).argmax()
        torch.testing.assert_close(code, encoder.codebook[nearest])
    codes.sum().backward()
    torch.testing.assert_close(tokens.grad, torch.ones_like(tokens))


def test_a_wrong_size_is_refused() -> None:
    with pytest.raises(ModelError, match=r"CT-CLIP was given 12 x 24 x 16 voxels; it reads 24 x 24 voxels"):
        small("ct_clip")(torch.zeros(1, 1, 12, 24, 16))
    with pytest.raises(ModelError, match="a multiple of 4"):
        small("ct_clip")(torch.zeros(1, 1, 10, 24, 24))


def test_an_unknown_name_lists_the_choices() -> None:
    with pytest.raises(ModelError, match=r"'merlyn' was asked for; choose one of ct_fm, merlin, merlin_astra"):
        build_published("merlyn")
