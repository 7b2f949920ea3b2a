"""What a text encoder's training holds in memory, computed from the sizes of its base."""

from __future__ import annotations

from dataclasses import dataclass

NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
"""Bits of a weight: 4, an 8-bit scale every 64 weights, and a 32-bit one every 256 scales (double quantisation)."""
_GIB = 2**30


@dataclass(frozen=True)
class BaseSizes:
    """The sizes of a Llama-like base.

    Args:
        hidden: Width of the states.
        inner: Width of the feed-forward layers.
        layers: Number of blocks.
        heads: Query heads.
        key_heads: Key and value heads.
        head: Width of a head.
        vocabulary: Number of tokens.
        tied: Whether the output layer is the embedding.
    """

    hidden: int
    inner: int
    layers: int
    heads: int
    key_heads: int
    head: int
    vocabulary: int
    tied: bool

    @property
    def linear(self) -> list[tuple[int, int]]:
        """Inputs and outputs of the linear layers of a block."""
        query, key = self.heads * self.head, self.key_heads * self.head
        attention = [(self.hidden, query), (self.hidden, key), (self.hidden, key), (query, self.hidden)]
        return [*attention, (self.hidden, self.inner), (self.hidden, self.inner), (self.inner, self.hidden)]

    @property
    def block_weights(self) -> int:
        """Weights of all blocks, which 4 bits shrink."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linear)

    @property
    def other_weights(self) -> int:
        """Weights of the embedding, the output layer and the normalisations, which stay as they are."""
        tables = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return tables + (2 * self.layers + 1) * self.hidden

    def adapter_weights(self, rank: int) -> int:
        """Weights of adapters on all linear layers."""
        return self.layers * rank * sum(inputs + outputs for inputs, outputs in self.linear)


BASES = {
    "Llama-3.2-1B": BaseSizes(2048, 8192, 16, 32, 8, 64, 128256, True),
    "Llama-3.2-3B": BaseSizes(3072, 8192, 28, 24, 8, 128, 128256, True),
    "Meta-Llama-3-8B": BaseSizes(4096, 14336, 32, 32, 8, 128, 128256, False),
}
"""As their configurations say."""


def memory_plan(
    sizes: BaseSizes,
    batch: int,
    length: int,
    *,
    rank: int = 16,
    four_bit: bool = True,
    compute_bytes: int = 2,
    eight_bit_optimizer: bool = True,
    checkpointing: bool = True,
    masked_share: float = 0.2,
) -> dict[str, float]:
    """Memory of a training step by what it is for, in GiB; what libraries and the allocator add is not in it.

    Activations are those that the backward pass needs, counted from the operations of a block: with frozen weights a
    linear layer keeps its input for its adapter alone, which is shared where several read it. Attention keeps queries,
    keys, values and output (flash or memory-efficient attention: no T x T matrix). With checkpointing a block keeps
    its input, and one block at a time is recomputed.

    Args:
        sizes: The base.
        batch: Texts a step.
        length: Tokens of a text.
        rank: Of the adapters, which are in float32 with gradients.
        four_bit: Whether the blocks are in nf4.
        compute_bytes: Bytes of a number in the computation and of an unquantised weight.
        eight_bit_optimizer: Whether the two moments take a byte each instead of four.
        checkpointing: Whether activations are recomputed.
        masked_share: Share of tokens whose scores over the vocabulary are computed in float32; 0 for contrast.
    """
    tokens = batch * length
    query, key = sizes.heads * sizes.head, sizes.key_heads * sizes.head
    # States: two residual sums in float32 inside each normalisation, their outputs, attention's four, the feed-forward.
    block = tokens * (compute_bytes * (4 * sizes.hidden + 2 * query + 2 * key + 4 * sizes.inner) + 4 * 2 * sizes.hidden)
    adapters = sizes.adapter_weights(rank)
    # Each adapter keeps its input in float32 and the low-rank state.
    block += tokens * 4 * sum(inputs for inputs, _ in sizes.linear[:1] + sizes.linear[3:5] + sizes.linear[6:])
    block += tokens * 4 * rank * len(sizes.linear)
    kept = sizes.layers * tokens * sizes.hidden * compute_bytes + block if checkpointing else sizes.layers * block
    weights = sizes.block_weights * (NF4_BITS / 8 if four_bit else compute_bytes)
    # A 4-bit layer is unpacked while it is used, one at a time.
    unpacked = max(inputs * outputs for inputs, outputs in sizes.linear) * compute_bytes if four_bit else 0
    plan = {
        "base weights": weights + sizes.other_weights * compute_bytes,
        "adapters and gradients": adapters * 8,
        "optimiser": adapters * (2 if eight_bit_optimizer else 8),
        "activations": kept + unpacked,
        "token scores": masked_share * tokens * sizes.vocabulary * 4 * 3,
    }
    plan = {name: value / _GIB for name, value in plan.items()}
    return {**plan, "total": sum(plan.values())}
