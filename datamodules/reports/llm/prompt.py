"""What a language model is asked of a report, and the answers it may give."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from datamodules.reports.attribute_table import NOT_STATED
from datamodules.reports.llm.constrained import Node, token_trie
from datamodules.reports.schema import Attribute

PROMPT_VERSION = 1
"""Raised with every change of the words below: answers to other words are not reused."""

OPENING = '{"value": "'
"""How every answer begins; it is put into the model's mouth."""

_TASK = (
    "You read the report of a kidney CT and answer one question about one kidney, from the report alone. Do not guess: "
    f'what the report does not say of that kidney is "{NOT_STATED}". Earlier examinations, other organs and the other '
    'kidney do not count. Answer with JSON: "value" is one of the listed values, "evidence" the number of the sentence '
    "that says it.\n\nReport, with its sentences numbered:\n"
)
_PLACE = "\u2402"  # a sign that no chat template holds


class ExtractionPrompt:
    """The parts of a prompt as tokens, in the order in which they are read: report, question, kidney.

    What is shared comes first, so that a report is read once for all questions and a question once for both kidneys.
    A chat template is used where the tokenizer has one.

    Args:
        tokenizer: Tokenizer of the model.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    @cached_property
    def _frame(self) -> tuple[str, str]:
        if getattr(self.tokenizer, "chat_template", None) is None:
            return self.tokenizer.bos_token or "", "\n"
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": _PLACE}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,  # read by the templates of reasoning models alone
        )
        before, _, after = str(text).partition(_PLACE)
        return before, after

    def report(self, sentences: Sequence[str]) -> list[int]:
        """The task and the numbered sentences of a report."""
        lines = [f"[{number}] {' '.join(text.split())}\n" for number, text in enumerate(sentences, start=1)]
        # Words in a report that look like the marks of a chat are words.
        return self._tokens(self._frame[0] + _TASK) + self._tokens("".join(lines), split_special_tokens=True)

    def question(self, attribute: Attribute) -> list[int]:
        """What is asked, with every value and when it holds."""
        of = "the largest lesion of the kidney" if attribute.level == "lesion" else "the kidney"
        values = [f"- {entry.name}: {_line(entry.definition)}\n" for entry in attribute.classes]
        text = f"\nAttribute: {attribute.name}, of {of}.\nQuestion: {_line(attribute.question)}\nValues:\n"
        return self._tokens(text + "".join(values) + f"- {NOT_STATED}: {_line(attribute.not_stated)}\n")

    def kidney(self, side: str) -> list[int]:
        """The side that is asked about, and the opening of the answer."""
        return self._tokens(f"\nAnswer for the {side} kidney.{self._frame[1]}{OPENING}")

    def values(self, attribute: Attribute) -> Node:
        """The values that may be answered."""
        answers = {name: f'{json.dumps(name)[1:-1]}", "evidence":' for name in attribute.class_names}
        answers[NOT_STATED] = f'{NOT_STATED}"}}'
        return token_trie({name: self._tokens(text) for name, text in answers.items()})

    def numbers(self, count: int) -> Node:
        """The sentences that may be named as evidence, 1 to `count`."""
        return token_trie({str(number): self._tokens(f" {number}}}") for number in range(1, count + 1)})

    def _tokens(self, text: str, **options: Any) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, **options)["input_ids"])


def _line(text: str) -> str:
    return " ".join(text.split())
