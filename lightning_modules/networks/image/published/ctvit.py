"""The image encoder of CT-CLIP: a transformer over 3D patches with attention in the plane, then along the depth.

Source: Hamamci et al., arXiv 2403.17834 (CT-CLIP) and arXiv 2305.16037 (CT-ViT), after Villegas et al., ICLR 2023
(Phenaki). Names of weights are plain; `layouts.CT_CLIP` holds the published ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from lightning_modules.core.errors import ModelError
from lightning_modules.networks.image.published.published_encoder import PublishedEncoder

Grid = tuple[int, int, int, int]
_ATTENTION_SCALE = 8.0  # queries and keys have unit length, so the scale does not depend on their dimensions


class CTViT(PublishedEncoder):
    """Maps a scan to the unit vector in which the release compares it with texts.

    Patches of `temporal_patch` x `patch` x `patch` voxels become tokens; those of one depth attend to each other, then
    those of one place in the plane; each is exchanged for the nearest code of a codebook; the mean over the depth is
    projected. Gradients pass the codebook straight through; its codes stay as they are.

    Args:
        image_size: Height and width of the input in voxels; its depth is any multiple of `temporal_patch`.
        patch: Height and width of a patch.
        temporal_patch: Depth of a patch.
        dim: Dimensions of a token.
        layers: Number of layers in the plane, and of those along the depth.
        heads: Attention heads.
        head_dim: Dimensions of a head.
        codes: Number of codes.
        latent_dim: Dimensions of the feature.
        checkpointing: See `PublishedEncoder`.
    """

    def __init__(
        self,
        *,
        image_size: int = 480,
        patch: int = 20,
        temporal_patch: int = 10,
        dim: int = 512,
        layers: int = 4,
        heads: int = 8,
        head_dim: int = 32,
        codes: int = 8192,
        latent_dim: int = 512,
        checkpointing: bool = False,
    ) -> None:
        super().__init__(feature_dim=latent_dim, checkpointing=checkpointing)
        self.image_size, self.patch, self.temporal_patch = image_size, patch, temporal_patch
        self.side = image_size // patch
        voxels = temporal_patch * patch**2
        self.patch_embedding = nn.Sequential(nn.LayerNorm(voxels), nn.Linear(voxels, dim), nn.LayerNorm(dim))
        self.position_bias = PositionBias(dim, heads)
        self.plane = nn.ModuleList(Layer(dim, heads, head_dim) for _ in range(layers))
        self.plane_norm = nn.LayerNorm(dim, bias=False)
        self.depth = nn.ModuleList(Layer(dim, heads, head_dim) for _ in range(layers))
        self.depth_norm = nn.LayerNorm(dim, bias=False)
        self.codebook: torch.Tensor
        self.register_buffer("codebook", functional.normalize(torch.randn(codes, dim), dim=-1))
        self.projection = nn.Linear(self.side**2 * dim, latent_dim, bias=False)

    def parts(self) -> list[nn.Module | Sequence[nn.Module]]:
        """The patch embedding, each layer, the projection."""
        stem: list[nn.Module] = [self.patch_embedding, self.position_bias]
        plane, depth = list(self.plane), list(self.depth)
        return [
            stem,
            *plane[:-1],
            [plane[-1], self.plane_norm],
            *depth[:-1],
            [depth[-1], self.depth_norm],
            self.projection,
        ]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Features [B, latent_dim] of unit length of images [B, 1, D, image_size, image_size] in [-1, 1].

        Raises:
            ModelError: if the input has another size.
        """
        tokens = self.patch_embedding(self._patches(image))
        batch, steps, height, width, dim = tokens.shape
        grid = (batch, steps, height, width)
        bias = self.position_bias(height, width)
        tokens = tokens.view(batch * steps, height * width, dim)
        for layer in self.plane:
            tokens = self._run(layer, tokens, grid, bias)
        tokens = self.plane_norm(tokens).view(*grid, dim)
        tokens = tokens.permute(0, 2, 3, 1, 4).reshape(batch * height * width, steps, dim)
        for layer in self.depth:
            tokens = self._run(layer, tokens, grid, None)
        tokens = self.depth_norm(tokens).view(batch, height, width, steps, dim)
        mean = self._quantized(tokens).mean(dim=3)
        return functional.normalize(self.projection(mean.flatten(1)), dim=-1)

    def _patches(self, image: torch.Tensor) -> torch.Tensor:
        """Voxels of every patch [B, steps, height, width, voxels]."""
        batch, _, depth, height, width = image.shape
        if (height, width) != (self.image_size, self.image_size) or depth % self.temporal_patch:
            raise ModelError(
                f"CT-CLIP was given {depth} x {height} x {width} voxels; it reads {self.image_size} x "
                f"{self.image_size} voxels at a depth that is a multiple of {self.temporal_patch}."
            )
        steps = depth // self.temporal_patch
        cut = image.view(batch, steps, self.temporal_patch, self.side, self.patch, self.side, self.patch)
        return cut.permute(0, 1, 3, 5, 2, 4, 6).flatten(4)

    def _quantized(self, tokens: torch.Tensor) -> torch.Tensor:
        """The code that points in the most similar direction, for every token [..., dim]."""
        directions = functional.normalize(self.codebook, dim=-1)
        flat = tokens.detach().reshape(-1, tokens.shape[-1])
        # In parts: all similarities of a scan at once are half a gigabyte.
        nearest = [(functional.normalize(part, dim=-1) @ directions.T).argmax(-1) for part in flat.split(1024)]
        codes = self.codebook[torch.cat(nearest)].view_as(tokens)
        return tokens + (codes - tokens).detach()


class PositionBias(nn.Module):
    """Bias of attention as a function of the distance in the plane (Liu et al., CVPR 2022, log-spaced).

    Args:
        dim: Hidden dimensions.
        heads: Attention heads.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(2, dim), nn.LeakyReLU(0.1), nn.Linear(dim, dim), nn.LeakyReLU(0.1), nn.Linear(dim, heads)
        )

    def forward(self, height: int, width: int) -> torch.Tensor:
        """Bias [heads, height x width, height x width].

        Worked out once for each of the (2 height - 1)(2 width - 1) distances, which pairs of tokens share.
        """
        device = next(self.parameters()).device
        rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
        distances = torch.cartesian_prod(
            torch.arange(1 - height, height, device=device), torch.arange(1 - width, width, device=device)
        ).float()
        table = self.network(distances.sign() * distances.abs().log1p())
        row = (rows[:, None] - rows[None, :] + height - 1)[:, None, :, None]
        column = (columns[:, None] - columns[None, :] + width - 1)[None, :, None, :]
        index = (row * (2 * width - 1) + column).reshape(height * width, height * width)
        return table[index].permute(2, 0, 1)


class Layer(nn.Module):
    """Position by a depthwise convolution, attention, and a gated feed-forward network, each added to its input.

    Args:
        dim: Dimensions of a token.
        heads: Attention heads.
        head_dim: Dimensions of a head.
    """

    def __init__(self, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.position = nn.Conv3d(dim, dim, 3, groups=dim)
        self.attention = Attention(dim, heads, head_dim)
        self.feed_forward = FeedForward(dim)

    def forward(self, tokens: torch.Tensor, grid: Grid, bias: torch.Tensor | None) -> torch.Tensor:
        """Tokens [sequences, length, dim] of a scan of `grid` (batch, steps, height, width) tokens."""
        tokens = tokens + self._position(tokens, grid)
        tokens = tokens + self.attention(tokens, bias)
        return tokens + self.feed_forward(tokens)

    def _position(self, tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
        # The release reads memory in this order along the depth too, where sequences are (batch, height, width) and
        # not (batch, steps): its neighbours there are not those in space, and its weights were trained so.
        volume = tokens.reshape(*grid, tokens.shape[-1]).permute(0, 4, 1, 2, 3)
        volume = self.position(functional.pad(volume, (1, 1, 1, 1, 2, 0)))  # along the depth, the past only
        return volume.permute(0, 2, 3, 4, 1).reshape(tokens.shape)


class Attention(nn.Module):
    """Attention between queries and keys of unit length, each dimension with a scale of its own.

    Args:
        dim: Dimensions of a token.
        heads: Attention heads.
        head_dim: Dimensions of a head.
    """

    def __init__(self, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim, bias=False)
        self.query = nn.Linear(dim, heads * head_dim, bias=False)
        self.key_value = nn.Linear(dim, 2 * heads * head_dim, bias=False)
        self.query_scale, self.key_scale = nn.Parameter(torch.ones(head_dim)), nn.Parameter(torch.ones(head_dim))
        self.out = nn.Linear(heads * head_dim, dim, bias=False)

    def forward(self, tokens: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Tokens [sequences, length, dim] that have read each other, biased by [heads, length, length]."""
        key, value = self.key_value(tokens).chunk(2, dim=-1)  # not normed: the release norms queries only
        query, key, value = (self._by_head(part) for part in (self.query(self.norm(tokens)), key, value))
        query = functional.normalize(query, dim=-1) * self.query_scale
        key = functional.normalize(key, dim=-1) * self.key_scale
        mask = None if bias is None else bias[None]
        read = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=_ATTENTION_SCALE)
        joined: torch.Tensor = self.out(read.transpose(1, 2).flatten(2))
        return joined

    def _by_head(self, part: torch.Tensor) -> torch.Tensor:
        return part.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """A feed-forward network gated by GELU (Shazeer, arXiv 2002.05202).

    Args:
        dim: Dimensions of a token; two thirds of four times as many are hidden.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = dim * 8 // 3
        self.norm = nn.LayerNorm(dim)
        self.widen = nn.Linear(dim, 2 * hidden, bias=False)
        self.narrow = nn.Linear(hidden, dim, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [..., dim]."""
        value, gate = self.widen(self.norm(tokens)).chunk(2, dim=-1)
        narrowed: torch.Tensor = self.narrow(functional.gelu(gate) * value)
        return narrowed
