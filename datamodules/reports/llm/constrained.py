"""Constrained decoding: a language model that can only choose among given answers, and reads shared text once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache

from datamodules.errors import DataError


@dataclass
class Node:
    """A place in a trie: the tokens that may follow, and the answer that is complete here."""

    following: dict[int, Node] = field(default_factory=dict)
    answer: str | None = None


def token_trie(answers: Mapping[str, Sequence[int]]) -> Node:
    """Answers as a trie of their tokens.

    Args:
        answers: Tokens by answer.

    Raises:
        DataError: if one answer's tokens begin another's, so that a model could not tell them apart.
    """
    root = Node()
    for answer, tokens in answers.items():
        node = root
        for token in tokens:
            if node.answer is not None:
                raise DataError(_alike(node.answer, answer))
            node = node.following.setdefault(int(token), Node())
        if node.following or node.answer is not None or node is root:
            raise DataError(_alike(node.answer or "another one", answer))
        node.answer = answer
    return root


def _alike(first: str, second: str) -> str:
    return f"The model's tokenizer cannot tell the answers {first!r} and {second!r} apart; name another model."


@dataclass(frozen=True)
class Choice:
    """An answer that a model chose.

    Args:
        answer: The answer.
        probability: Its probability among the allowed ones: of every token that was a choice, the probability among
            the tokens allowed there, multiplied.
    """

    answer: str
    probability: float


class PrefixCache:
    """What a model has read, row by row, as keys and values.

    Args:
        model: A transformers causal LM with a growing cache.
        rows: Number of texts read side by side.
    """

    def __init__(self, model: Any, rows: int = 1) -> None:
        self.model, self.device = model, next(model.parameters()).device
        self.cache = DynamicCache()
        self.mask = torch.zeros(rows, 0, dtype=torch.long, device=self.device)

    @torch.inference_mode()
    def read(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Read more tokens of every row.

        Rows of unequal length are filled on the left with tokens that nothing attends to, and positions count read
        tokens only, so that a row's result does not depend on the rows beside it.

        Args:
            rows: Tokens by row; a row that is done may have none.

        Returns:
            float32 logits of the next token [rows, vocabulary].
        """
        width = max(len(tokens) for tokens in rows)
        tokens = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows], device=self.device)
        real = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=self.device)
        seen = self.mask.sum(dim=1, keepdim=True)
        self.mask = torch.cat([self.mask, real], dim=1)
        positions = (seen + real.cumsum(dim=1) - 1).clamp(min=0)
        logits = self.model(
            input_ids=tokens,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        return logits[:, -1].float()

    def fork(self, rows: int | None = None) -> PrefixCache:
        """A context that goes on from here without changing this one.

        Args:
            rows: Repeat the one row of this context so many times; the same rows by default.
        """
        other = PrefixCache(self.model, 0)
        count = len(self.mask) if rows is None else rows
        states = [
            (keys.expand(count, *keys.shape[1:]), values.expand(count, *values.shape[1:]))
            for keys, values, *_ in self.cache
        ]
        other.cache = DynamicCache(states) if states else DynamicCache()
        other.mask = self.mask.expand(count, -1)
        return other


class _Cursor:
    """Where one row stands among its allowed answers."""

    def __init__(self, trie: Node) -> None:
        self.node, self.probability = trie, 1.0
        self.choices: list[Choice] = []
        self.done = False

    def choose(self, logits: torch.Tensor) -> list[int]:
        """Take the most probable of the allowed tokens, the first of them when several are."""
        allowed = list(self.node.following)
        shares = torch.softmax(logits[allowed].double(), dim=0).tolist()
        best = max(range(len(allowed)), key=shares.__getitem__)
        self.probability *= shares[best]
        self.node = self.node.following[allowed[best]]
        return [allowed[best]]

    def advance(self, then: Callable[[str], Node | None]) -> list[int]:
        """Tokens that follow without a choice, through complete answers on to the next question."""
        tokens: list[int] = []
        while not self.done:
            if self.node.answer is not None:
                self.choices.append(Choice(self.node.answer, self.probability))
                following = then(self.node.answer) if len(self.choices) == 1 else None
                self.done = following is None
                self.node, self.probability = following or self.node, 1.0
            elif len(self.node.following) == 1:
                token, self.node = next(iter(self.node.following.items()))
                tokens.append(token)
            else:
                break
        return tokens


def answer(
    context: PrefixCache,
    tails: Sequence[Sequence[int]],
    tries: Sequence[Node],
    then: Callable[[str], Node | None] = lambda _: None,
) -> list[list[Choice]]:
    """Let a model answer, row by row, with allowed answers only.

    Decoding is greedy. Tokens without an alternative are read in one pass, so that a model is called only where it has
    a choice.

    Args:
        context: What it has read; it goes on reading.
        tails: Tokens to read before the answer, by row.
        tries: Allowed answers, by row.
        then: From the first answer to the allowed second ones; None where there is no second question.

    Returns:
        One or two choices for every row.
    """
    cursors = [_Cursor(trie) for trie in tries]
    pending = [[*tail, *cursor.advance(then)] for tail, cursor in zip(tails, cursors, strict=True)]
    while not all(cursor.done for cursor in cursors):
        logits = context.read(pending).cpu()
        pending = [
            [] if cursor.done else [*cursor.choose(row), *cursor.advance(then)]
            for cursor, row in zip(cursors, logits, strict=True)
        ]
    return [cursor.choices for cursor in cursors]
