"""A causal language model that writes the report of an image: image tokens, a prompt, then the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lightning_modules.core.errors import ModelError
from lightning_modules.core.missing import MISSING
from lightning_modules.core.plain import read_config
from lightning_modules.networks.image.encoders import EncoderConfig, build_encoder
from lightning_modules.networks.joint.decoding import Decoding, Written
from lightning_modules.networks.joint.image_tokens import ImageFeatures, build_image_tokens
from lightning_modules.networks.text.adapters import low_rank_adapted, misfits
from lightning_modules.networks.text.encoder import TextEncoderConfig
from lightning_modules.networks.text.language_model import base_fingerprint, base_folder, load_base, resolve_dtype
from lightning_modules.networks.text.tokens import (
    begin_ids,
    load_tokenizer,
    padded,
    predicting,
    prompt_ids,
    shifted,
    word_ids,
)


@dataclass(frozen=True)
class WriterConfig:
    """How an image enters a language model.

    Args:
        image_features: `pooled`, one feature an image; `spatial`, the feature map through a resampler.
        image_tokens: Tokens that an image becomes.
    """

    image_features: ImageFeatures = "pooled"
    image_tokens: int = 8

    @classmethod
    def of(cls, content: WriterConfig | Mapping[str, Any]) -> WriterConfig:
        """The configuration itself, or read from plain data.

        Raises:
            ModelError: if a field is unknown.
        """
        return read_config(cls, content, "Report writer configuration")


class ReportWriter(nn.Module):
    """Image encoder, projector and causal language model; only projector and adapters are ever trained.

    Args:
        encoder: Which image encoder.
        text: Which language model, how it is quantised and adapted; `adapter` says whether there are adapters.
        config: How the image enters.
        device: Where the language model is loaded, since 4-bit weights are packed there.

    Raises:
        ModelError: if the base cannot be loaded or the encoder has no feature map for `spatial`.
    """

    def __init__(
        self,
        encoder: EncoderConfig,
        text: TextEncoderConfig,
        config: WriterConfig,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.text, self.config = text, config
        folder = base_folder(text.base)
        self.base_fingerprint = base_fingerprint(folder)
        self.tokenizer = load_tokenizer(folder)
        self.language: Any = load_base(
            folder,
            layers=text.layers,
            quantization=text.quantization,
            dtype=resolve_dtype(text.compute_dtype, place),
            bidirectional=False,
            attention_dropout=text.attention_dropout,
            device=place,
        )
        self.hidden_dim = int(self.language.config.hidden_size)
        if text.checkpointing:
            self.language.gradient_checkpointing_enable({"use_reentrant": False})
        if text.adapter:
            self.language = low_rank_adapted(
                self.language,
                rank=text.lora_rank,
                alpha=text.lora_alpha,
                dropout=text.lora_dropout,
                task="CAUSAL_LM",
                base_name=text.base_name,
            )
        self.image_encoder = build_encoder(encoder).requires_grad_(False).to(place)
        if config.image_features == "spatial" and not hasattr(self.image_encoder, "feature_map"):
            raise ModelError(
                f"Encoder {encoder.network} has no feature map; set model.writer.image_features to pooled."
            )
        features: Any = self.image_encoder.feature_dim
        self.projector = build_image_tokens(
            config.image_features, int(features), self.hidden_dim, config.image_tokens
        ).to(place)
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.projector.parameters()).device

    def train(self, mode: bool = True) -> ReportWriter:
        """Training mode of projector and adapters; the image encoder keeps its statistics."""
        super().train(mode)
        self.image_encoder.eval()
        return self

    def image_tokens(self, image: torch.Tensor) -> torch.Tensor:
        """Tokens float [B, image_tokens, hidden_dim] of images [B, 1, D, H, W] in [0, 1].

        Of several phases of one kidney the mean of their tokens is taken.
        """
        tokens: torch.Tensor = self.projector(self.image_features(image))
        return tokens

    @torch.no_grad()
    def image_features(self, image: torch.Tensor) -> torch.Tensor:
        """What the projector reads of images [B, 1, D, H, W]: float32 [B, F], or the feature map [B, F, d, h, w]."""
        spatial = self.config.image_features == "spatial"
        feature: torch.Tensor = self.image_encoder.feature_map(image) if spatial else self.image_encoder(image)  # type: ignore[operator]
        return feature.float()

    def report_logits(
        self, tokens: torch.Tensor, prompts: Sequence[str], reports: Sequence[str]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Scores of the tokens of reports, the end of text included, given image and prompt.

        Args:
            tokens: Image tokens [B, K, hidden_dim].
            prompts: What stands before each report.
            reports: The reports; what is longer than `max_length` tokens is cut off and has no end.

        Returns:
            Logits float32 [M, V] of all report tokens, the tokens int64 [M], and the report of each int64 [M].
        """
        begin, heads = begin_ids(self.tokenizer), prompt_ids(self.tokenizer, prompts)
        end = int(self.tokenizer.eos_token_id)
        ends = [[*ids, end][: self.text.max_length] for ids in word_ids(self.tokenizer, reports)]
        befores = [[*begin, *[0] * tokens.shape[1], *head] for head in heads]
        wholes = [before + end for before, end in zip(befores, ends, strict=True)]
        labels = padded([[MISSING] * len(before) + end for before, end in zip(befores, ends, strict=True)], MISSING)
        ids, mask, wanted, places = (
            value.to(self.device, non_blocking=True)
            for value in (
                padded(wholes, int(self.tokenizer.pad_token_id)),
                padded([[1] * len(whole) for whole in wholes], 0),
                labels,
                predicting(labels),
            )
        )
        states = self._states(self._with_image(ids, tokens, len(begin)), mask)
        chosen, target, report = shifted(states, wanted, places)
        return self._head(chosen), target, report

    def _with_image(self, ids: torch.Tensor, tokens: torch.Tensor, start: int) -> torch.Tensor:
        """Embeddings of tokens with the image's in their place."""
        embedded: torch.Tensor = self.language.get_input_embeddings()(ids)
        place = tokens.to(embedded.dtype)
        return torch.cat([embedded[:, :start], place, embedded[:, start + tokens.shape[1] :]], dim=1)

    def _states(self, embedded: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        causal = self.language.get_base_model() if self.text.adapter else self.language
        states: torch.Tensor = causal.base_model(inputs_embeds=embedded, attention_mask=mask).last_hidden_state
        return states

    def _head(self, states: torch.Tensor) -> torch.Tensor:
        """Scores over the vocabulary, of those states only that predict a report."""
        scores: torch.Tensor = self.language.get_output_embeddings()(states).float()
        cap = getattr(self.language.config, "final_logit_softcapping", None)
        return scores if cap is None else torch.tanh(scores / cap) * cap

    @torch.no_grad()
    def write(self, tokens: torch.Tensor, prompts: Sequence[str], decoding: Decoding) -> list[Written]:
        """Write a report of every image.

        Args:
            tokens: Image tokens [B, K, hidden_dim]; K may be 0 for a model that sees no image.
            prompts: What stands before each report.
            decoding: Greedy, beam search or sampling.
        """
        from transformers import GenerationConfig

        begin, heads = begin_ids(self.tokenizer), prompt_ids(self.tokenizer, prompts)
        longest = max(map(len, heads))
        embed = self.language.get_input_embeddings()
        rows, masks = [], []
        for row, head in enumerate(heads):
            text = embed(torch.tensor([*begin, *head], device=self.device))
            whole = torch.cat([text[: len(begin)], tokens[row].to(text.dtype), text[len(begin) :]])
            padding = longest - len(head)  # on the left, so that every report begins at the same place
            rows.append(torch.cat([torch.zeros(padding, whole.shape[1], device=self.device, dtype=whole.dtype), whole]))
            masks.append(torch.tensor([0] * padding + [1] * len(whole), device=self.device))
        end = int(self.tokenizer.eos_token_id)
        settings = GenerationConfig(
            max_new_tokens=decoding.max_tokens,
            num_beams=decoding.beams,
            do_sample=decoding.temperature > 0,
            **(
                {"temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}
                if decoding.temperature
                else {}
            ),
            repetition_penalty=decoding.repetition_penalty,
            no_repeat_ngram_size=decoding.no_repeat,
            eos_token_id=end,
            pad_token_id=int(self.tokenizer.pad_token_id),
            use_cache=True,
            return_dict_in_generate=True,
            output_logits=True,
        )
        found = self.language.generate(
            inputs_embeds=torch.stack(rows), attention_mask=torch.stack(masks), generation_config=settings
        )
        logits = torch.stack(found.logits, dim=1)
        # Of a beam search the logits are those of the beams in their order at each step.
        source = found.beam_indices if decoding.beams > 1 else torch.arange(len(rows), device=self.device)[:, None]
        return [self._written(found.sequences[row], logits, source[row], end) for row in range(len(rows))]

    def _written(self, ids: torch.Tensor, logits: torch.Tensor, source: torch.Tensor, end: int) -> Written:
        ends = (ids == end).nonzero()
        length = int(ends[0]) + 1 if len(ends) else len(ids)
        kept = ids[:length]
        place = source[:length] if len(source) > 1 else source.expand(length)
        scores = logits[place.clamp_min(0), torch.arange(length, device=ids.device)].float().log_softmax(dim=-1)
        logprobs = scores.gather(1, kept[:, None])[:, 0].tolist()
        words = kept if not len(ends) else kept[:-1]
        return Written(
            " ".join(self.tokenizer.decode(words, skip_special_tokens=True).split()),
            [self.tokenizer.decode(token) for token in kept],
            logprobs,
            not len(ends),
        )

    def trained_state(self) -> dict[str, torch.Tensor]:
        """Weights of the projector, and of the adapters by the names of peft's files; on the CPU."""
        state = {f"projector.{name}": value for name, value in self.projector.state_dict().items()}
        if self.text.adapter:
            from peft import get_peft_model_state_dict

            adapters = get_peft_model_state_dict(self.language, save_embedding_layers=False)
            state |= {f"adapter.{name}": value for name, value in adapters.items()}
        return {name: value.detach().cpu().contiguous() for name, value in state.items()}

    def load_trained_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put in what `trained_state` gave; adapters may be absent, which leaves those that change nothing.

        Raises:
            ModelError: if a weight is absent, unknown or of another shape, naming it.
        """
        ours = self.trained_state()
        if not any(name.startswith("adapter.") for name in state):
            ours = {name: value for name, value in ours.items() if not name.startswith("adapter.")}
        wrong = misfits(ours, state)
        if wrong:
            raise ModelError(
                f"The report writer's weights do not fit: {len(wrong)} are absent, unknown or of another shape, first "
                f"{wrong[0]}; they belong to another base, rank, encoder or number of image tokens."
            )
        split = {
            part: {name.removeprefix(f"{part}."): value for name, value in state.items() if name.startswith(f"{part}.")}
            for part in ("projector", "adapter")
        }
        self.projector.load_state_dict(split["projector"])
        if split["adapter"]:
            from peft import set_peft_model_state_dict

            set_peft_model_state_dict(self.language, split["adapter"])
