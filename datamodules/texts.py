"""The DataModule of the text stages: the kidney reports of the pretraining centres, or a corpus, as tokens."""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader

from datamodules.attributes import attribute_codes
from datamodules.batch import MISSING
from datamodules.bound_data import BoundDataModule
from datamodules.cohort.cohort import Cohort
from datamodules.cohort.columns import SIDES
from datamodules.cohort.identity import ATTRIBUTES, REPORTS, DataIdentity, array_rows, corpus_identity, kidney_identity
from datamodules.cohort.splits import split_of_fold
from datamodules.errors import DataError
from datamodules.loading.text_sampling import BucketSampler, RankBatches
from datamodules.reports.corpus import TEXT_COLUMN, held_out, read_corpus
from datamodules.reports.reader.matching import PRESENCE
from datamodules.reports.rewriting.contrast_batches import Rewriting, RewritingCollate, kept_kidneys
from datamodules.reports.rewriting.phrasings import HELD_BACK, LEARNED, phrasings
from datamodules.reports.rewriting.rewrite import Rewriter
from datamodules.reports.schema import load_schema
from datamodules.reports.sides import side_reports
from datamodules.reports.token_batches import TextCollate, TextDataset, Texts
from datamodules.reports.tokens import Replacement, ReportTokenizer, TokenMasking

Objective = Literal["mntp", "views", "attributes"]


class ReportDataModule(BoundDataModule):
    """Streams the texts of kidneys, each distinct one once an epoch, in batches of like length.

    It trains on the training part of the pretraining centres and selects on their validation part; of a cohort with
    folds it trains on all folds but the tested one. A validation text that also stands in training is left out. Masks
    and the order of sentences depend on seed, epoch and text, not on rank, batch or interruption.

    Args:
        root: Folder of the cohort.
        base: Folder or hub id of the text encoder's base, for its tokenizer.
        base_name: What is recorded of it.
        max_length: Most tokens of a text.
        prompt: Words before every text.
        objective: `mntp` masks tokens; `views` gives two views of every text; `attributes` gives every report of
            which something is stated in its own and in other words, and texts with one fact changed, see `rewriting`.
        rewriting: How reports are written anew for `attributes`.
        corpus: Folder of .txt and .csv files to learn masked prediction from instead of the cohort's reports.
        corpus_column: Column of the .csv files that holds the texts.
        held_out_share: Share of a corpus that is kept for validation.
        mask_probability: Share of the tokens that are predicted.
        replacement: What masked tokens become, see `TokenMasking`.
        mask_token: Stands for a masked token where the base has none of its own.
        shuffle: Share of training texts, or of each of their views, whose sentences are put in another order. The
            second view of a validation text always is.
        validation_texts: Most texts of the validation part, drawn by the seed; all when left out.
        seed: Seed of order, masks and shuffling.
        fold: Fold to test, for a cohort evaluated in folds.
        batch_size: Texts of a step over all devices, however many there are.
        num_workers: Loader processes per rank.
    """

    def __init__(
        self,
        root: Path,
        base: str,
        base_name: str,
        max_length: int = 224,
        prompt: str = "",
        objective: Objective = "mntp",
        rewriting: Rewriting = Rewriting(),  # noqa: B008 - frozen
        corpus: Path | None = None,
        corpus_column: str = TEXT_COLUMN,
        held_out_share: float = 0.1,
        mask_probability: float = 0.2,
        replacement: Replacement = "bert",
        mask_token: str = "_",
        shuffle: float = 0.5,
        validation_texts: int | None = None,
        seed: int = 42,
        fold: int | None = None,
        batch_size: int = 16,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if objective not in ("mntp", "views", "attributes"):
            raise DataError(f"data.objective={objective!r} was found; choose one of mntp, views, attributes.")
        if not (0 <= shuffle <= 1 and 0 < held_out_share < 1):
            raise DataError(f"shuffle={shuffle:g}, held_out_share={held_out_share:g}: expected shares of at most 1.")
        if corpus is not None and objective == "attributes":
            raise DataError("A corpus states no attributes of kidneys; leave data.corpus out of attribute contrast.")
        self.root, self.base, self.corpus = Path(root), base, corpus
        self.objective, self.held_out_share, self.shuffle = objective, held_out_share, shuffle
        self.rewriting, self.corpus_column = rewriting, corpus_column
        if validation_texts is not None and validation_texts < 1:
            raise DataError(f"validation_texts={validation_texts} was found; expected at least 1, or nothing for all.")
        self.validation_texts = validation_texts
        self.seed, self.fold = seed, fold
        self.batch_size, self.num_workers = batch_size, num_workers
        self.masked: dict[str, Any] = {
            "probability": mask_probability,
            "replacement": replacement,
            "mask_token": mask_token,
        }
        self.tokens: dict[str, Any] = {"base": base_name, "max_length": max_length, "prompt": prompt}
        # No path here: hyper-parameters go to MLflow and into checkpoints.
        self.save_hyperparameters(
            {
                **self.tokens,
                **self.masked,
                "objective": objective,
                "rewriting": asdict(rewriting),
                "corpus": None if corpus is None else Path(corpus).name,
                "shuffle": shuffle,
                "validation_texts": validation_texts,
                "seed": seed,
                "fold": fold,
                "batch_size": batch_size,
            }
        )

    @property
    def contract(self) -> dict[str, Any]:
        """How texts become tokens, as plain data, for the module's checkpoint."""
        return dict(self.tokens)

    @cached_property
    def tokenizer(self) -> ReportTokenizer:
        """The tokenizer of the base."""
        return ReportTokenizer(self.base, self.tokens["max_length"], self.tokens["prompt"])

    @cached_property
    def parts(self) -> dict[str, Texts]:
        """The distinct texts of `train` and `val`.

        Raises:
            DataError: if a part is empty, or reports or attributes are missing.
        """
        parts = self._cohort_parts() if self.corpus is None else self._corpus_parts(Path(self.corpus))
        empty = [name for name, part in parts.items() if not part.texts]
        if empty:
            raise DataError(
                f"No text is left in the {' and '.join(empty)} part of the text stage; check the reports and the roles "
                "of the centres with `make data-check`."
            )
        return {**parts, "val": parts["val"].drawn(self.validation_texts, self.seed)}

    def _corpus_parts(self, folder: Path) -> dict[str, Texts]:
        texts = read_corpus(folder, self.corpus_column)
        kept = [held_out(text, self.held_out_share) for text in texts]
        return {
            "train": Texts([text for text, held in zip(texts, kept, strict=True) if not held]),
            "val": Texts([text for text, held in zip(texts, kept, strict=True) if held]),
        }

    @cached_property
    def identity(self) -> DataIdentity:
        """What data it uses: the patients whose reports it reads, these, and what is stated of them."""
        if self.corpus is not None:
            # As read: which of them select follows from the text and the configuration.
            return corpus_identity({name: part.texts for name, part in self._corpus_parts(Path(self.corpus)).items()})
        reports, codes = self._reports
        stated = {REPORTS: [text.encode() for text in reports["text"].astype(str)]}
        return kidney_identity(reports, stated if codes is None else stated | {ATTRIBUTES: array_rows(codes)})

    @cached_property
    def _reports(self) -> tuple[pd.DataFrame, np.ndarray | None]:
        """The reports of train and val with their part, and what is stated of each where that is asked for."""
        cohort = Cohort.load(self.root)
        part = self._part_of_patients(cohort)
        reports = side_reports(cohort, part.index[part.isin(["train", "val"])])
        reports = reports.assign(part=reports["patient_id"].map(part))
        if self.objective != "attributes":
            return reports, None
        codes = _facts(cohort, reports)
        stated = (codes[:, 1:] != MISSING).any(axis=1)
        return reports[stated].reset_index(drop=True), codes[stated]

    def _cohort_parts(self) -> dict[str, Texts]:
        reports, codes = self._reports
        # Training before validation, so that a text of both stays in training.
        reports = reports.sort_values("part", kind="stable").drop_duplicates("text")
        parts = {}
        for name in ("train", "val"):
            rows = reports.index[reports["part"] == name].to_numpy()
            if codes is None:
                parts[name] = Texts(reports.loc[rows, "text"].astype(str).tolist())
                continue
            texts = reports.loc[rows, "text"].astype(str).tolist()
            rows = rows[kept_kidneys(texts, self._has_lesion(codes[rows]), self.rewriting.normal_share, self.seed)]
            chosen = reports.loc[rows]
            parts[name] = Texts(chosen["text"].astype(str).tolist(), codes[rows], chosen["side"].astype(str).tolist())
        return parts

    @staticmethod
    def _has_lesion(codes: np.ndarray) -> np.ndarray:
        schema = load_schema()
        place = 1 + schema.names.index(PRESENCE)
        found: np.ndarray = codes[:, place] == schema.classes[PRESENCE].index("yes")
        return found

    @property
    def class_counts(self) -> dict[str, dict[str, int]]:
        """Training kidneys by attribute and class, for the heads of attribute contrast."""
        codes = self.parts["train"].attributes
        if codes is None:
            return {}
        return {
            name: {value: int((codes[:, place] == code).sum()) for code, value in enumerate(values)}
            for place, (name, values) in enumerate(load_schema().classes.items(), start=1)
        }

    def _part_of_patients(self, cohort: Cohort) -> pd.Series:
        """The part of every patient by id; `test` for whoever this stage may not see."""
        patients = cohort.patients().reset_index(drop=True)
        if cohort.info.evaluation == "folds":
            if self.fold is None:
                raise DataError(f"Cohort {cohort.info.name} is evaluated in folds; name one with data.fold.")
            part = split_of_fold(patients, self.fold)
        elif self.fold is not None:
            raise DataError(f"Cohort {cohort.info.name} has roles of centres and no folds; leave data.fold out.")
        else:
            part = patients["split"].where(patients["role"] == "pretrain", "test")
        return pd.Series(part.to_numpy(), index=patients["patient_id"].astype(str))

    def loader(self, name: Literal["train", "val"]) -> DataLoader[dict[str, Any]]:
        """The loader of one part on this rank."""
        part, training = self.parts[name], name == "train"
        trainer = self.trainer
        rank, ranks = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
        self.share(ranks)  # refused where it does not divide
        # Rewritten texts are of about one length, and a batch of the shortest reports would hold normal kidneys alone.
        rewritten = self.objective == "attributes"
        lengths = [1] * len(part.texts) if rewritten else [len(row) for row in self.tokenizer.rows(part.texts)]
        batches = BucketSampler(lengths, self.batch_size, ranks, self.seed, shuffled=training)
        # Without dropout only the order of sentences tells the views of a validation text apart.
        shuffle = (self.shuffle, self.shuffle) if training else (0.0, 1.0)
        masking = TokenMasking(self.tokenizer, **self.masked) if self.objective == "mntp" else None
        return DataLoader(
            TextDataset(part),
            batch_sampler=RankBatches(batches, rank, ranks),
            collate_fn=self._collates[name] if rewritten else TextCollate(self.tokenizer, masking, shuffle),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            # A generator of its own, so that opening the loader does not shift the global one, and with it dropout.
            generator=torch.Generator().manual_seed(self.seed),
        )

    @cached_property
    def _collates(self) -> dict[str, RewritingCollate]:
        """How each part is written anew, from words of its own; the rules read every sentence once."""
        how = self.rewriting
        banks = {"train": LEARNED, "val": HELD_BACK}
        sentences = {"train": how.sentences, "val": how.validation_sentences}
        return {
            name: RewritingCollate(
                self.tokenizer,
                Rewriter(part.sides or [], part.texts, phrasings(banks[name]) if how.phrasings else []),
                load_schema(),
                how.negatives,
                sentences[name],
            )
            for name, part in self.parts.items()
        }

    def setup(self, stage: str) -> None:
        """Read and check everything before the first step."""
        _ = self.parts

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """The texts to train on."""
        return self.loader("train")

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """The texts to select on; their masks and orders are the same in every epoch."""
        return self.loader("val")


def _facts(cohort: Cohort, reports: pd.DataFrame) -> np.ndarray:
    """What is stated of every kidney, int64 [kidneys, 1 + attributes]; the side comes first, and is a fact as well."""
    if "attributes" not in cohort.tables:
        raise DataError(
            f"Cohort {cohort.info.name} has no attributes; run `make attributes DATA=` first, which reads them out of "
            "its reports."
        )
    codes = attribute_codes(cohort["attributes"], reports, load_schema())
    side = reports["side"].map({side: number for number, side in enumerate(SIDES)}).to_numpy(dtype=np.int64)
    return np.concatenate([side[:, None], codes], axis=1)
