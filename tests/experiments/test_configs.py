"""Every YAML is parsed with the code it configures."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.finetuning.point import FROM_PRETRAINED
from experiments.pretraining.stages.common import placeholders
from experiments.registry import CONFIGS, ENCODERS, PROFILES, STAGES, TASKS, compose, encoder_files, schedule_file
from experiments.runs.configuration import Configuration
from experiments.runs.suite_cli import validated_every

ROOT = Path(__file__).parents[2]
# What a published encoder reads has a size of its own, and sets that of the crop and the batch.
PUBLISHED_KEYS = ("augmentation", "optimizer", "data")
REGION_SIZES = ("region_width", "patch")
PARTS = [part for name, entry in STAGES.items() for part in entry.parts or (name,) if not entry.variant_of]
# An encoder that a stage trains has the files of the one that the stage started from.
NETWORKS = [name for name, entry in ENCODERS.items() if entry.stage is None and not entry.tabular]
VARIANTS = [name for name, entry in STAGES.items() if entry.variant_of]


@pytest.mark.parametrize(
    ("axis", "names"), [("task", TASKS), ("encoder", [*NETWORKS, "columns", "radiomics"]), ("profile", PROFILES)]
)
def test_entries_and_files_are_the_same_set(axis: str, names: Collection[str]) -> None:
    assert {path.stem for path in (CONFIGS / axis).glob("*.yaml")} == set(names)


@pytest.mark.parametrize("encoder", [name for name, entry in ENCODERS.items() if entry.stage is not None])
def test_an_encoder_that_a_stage_trains_is_the_network_that_the_stage_builds(encoder: str) -> None:
    stage = ENCODERS[encoder].stage
    built = [path for path in STAGES[stage].files(stage, "demo")[0] if path.parent.name == "encoder"]
    assert [path for path in encoder_files(encoder) if path.stem != "radiomics"] == built


# Task files and encoder files set keys of their own (see the tests below), so that every one with one of the others
# stands for all combinations.
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(
    ("stage", "task", "encoder"),
    [
        *(("finetune", task, "scratch") for task in TASKS),
        *(("finetune", "malignancy", encoder) for encoder in ENCODERS if encoder != "scratch"),
        ("supervised", "malignancy", "scratch"),
    ],
)
def test_every_choice_parses(profile: str, stage: str, task: str, encoder: str) -> None:
    resolved = _resolved(compose(stage, profile=profile, encoder=encoder, task=task))
    assert resolved["data"]["init_args"]["label"]["name"] == task
    assert resolved["encoder"]["network"]


@pytest.mark.parametrize("profile", PROFILES)
def test_the_attribute_stage_parses(profile: str) -> None:
    resolved = _resolved(compose("image", profile=profile, encoder=STAGES["image"].start))
    assert resolved["model"]["class_path"].endswith("AttributePretraining")
    assert resolved["data"]["init_args"]["batch_size"] > 1


def test_every_variant_has_a_file_and_an_encoder() -> None:
    assert {path.stem for path in (CONFIGS / "variant").glob("*.yaml")} == {*VARIANTS, FROM_PRETRAINED}
    assert set(VARIANTS) <= {entry.stage for entry in ENCODERS.values()}


@pytest.mark.parametrize("stage", VARIANTS)
def test_every_variant_parses(stage: str) -> None:
    (files,) = STAGES[stage].files(stage, "demo")
    resolved = Configuration((*files, CONFIGS / "cohort" / "demo.yaml"), placeholders(files)).resolved()
    assert resolved["data"]["init_args"]["batch_size"] == 256
    assert resolved["model"]["init_args"].get("micro_batch") == (32 if stage == "alignment_lora" else None)
    changed = {
        "alignment_base_text": "text" not in resolved,
        "alignment_one_stage": resolved["optimizer"]["backbone_lr"] is None,
        "alignment_infonce": resolved["model"]["init_args"]["loss"] == "infonce",
        "alignment_lora": resolved["model"]["init_args"].get("text_lr") == 1e-4,
    }
    assert changed[stage]


def _resolved(files: list[Path]) -> dict[str, Any]:
    return Configuration((*files, CONFIGS / "cohort" / "demo.yaml")).resolved()


@pytest.mark.parametrize(
    ("encoder", "files"),
    [
        ("size", ["columns"]),
        ("clinical", ["columns"]),
        ("radiomics", ["radiomics"]),
        ("radiomics_linear", ["radiomics"]),
        ("radiomics_stage1", ["radiomics", "regions"]),
    ],
)
def test_an_encoder_without_a_network_has_the_file_of_what_it_reads(encoder: str, files: list[str]) -> None:
    assert [path.stem for path in encoder_files(encoder)] == files
    assert yaml.safe_load(encoder_files(encoder)[0].read_text())["encoder"] == {"network": "none"}


def test_every_stage_has_a_schedule_for_every_profile() -> None:
    found = {path.relative_to(CONFIGS / "stage") for path in (CONFIGS / "stage").glob("*/*.yaml")}
    taken = {(stage, profile): schedule_file(stage, profile) for stage in ("finetune", *PARTS) for profile in PROFILES}
    assert found == {path.relative_to(CONFIGS / "stage") for path in taken.values()}
    assert {profile for (_, profile), path in taken.items() if path.stem != profile} == {"study"}
    assert taken["mntp", "study"] == taken["mntp", "demo"] != taken["mntp", "paper"]
    contents = {path: yaml.safe_load(path.read_text()) for path in taken.values()}
    studies = [stage for stage, profile in taken if profile == "study" and taken[stage, profile].stem == "study"]
    assert [stage for stage in studies if contents[taken[stage, "study"]] == contents[taken[stage, "demo"]]] == []
    for name in found:
        content = yaml.safe_load((CONFIGS / "stage" / name).read_text())
        assert set(content) - {"model", "text"} == {"trainer", "optimizer", "data"}
        assert set(content.get("text", {})) <= {"projection"}
        # Short schedules of alignment train the heads alone, in a space of their own.
        heads_alone = {"locked", "embed_dim"} if name == Path("alignment/demo.yaml") else set()
        counts = {"samples_per_epoch", "excerpts", "validation_texts", "validation_kidneys"}
        assert set(content["data"]["init_args"]) <= {"batch_size", *counts}
        assert set(content.get("model", {}).get("init_args", {})) <= {"micro_batch", "projection_batches", *heads_alone}


def test_the_last_epoch_is_always_validated() -> None:
    found = {
        (interval, epochs): validated_every(interval, epochs) for interval in range(1, 7) for epochs in range(1, 40)
    }
    assert all(epochs % length == 0 and 1 <= length <= interval for (interval, epochs), length in found.items())
    assert [found[4, epochs] for epochs in (1, 2, 7, 10, 16)] == [1, 2, 1, 2, 4]


def test_no_file_is_left_over() -> None:
    known = {"base.yaml", "cohort", "encoder", "profile", "stage", "sweep", "task", "variant"}
    assert {path.name for path in CONFIGS.iterdir()} == known
    for path in CONFIGS.rglob("*.yaml"):
        assert isinstance(yaml.safe_load(path.read_text()), dict), path


def test_an_axis_sets_its_own_keys_only() -> None:
    encoder = {"encoder", "contract", "model", "baseline", *PUBLISHED_KEYS}
    for axis, allowed in (("task", {"data", "model"}), ("encoder", encoder)):
        for path in (CONFIGS / axis).glob("*.yaml"):
            assert set(yaml.safe_load(path.read_text())) <= allowed, path


def test_profiles_change_sizes_only() -> None:
    allowed = {"contract", "encoder", "text", "augmentation", "trainer", "data"}
    for name in PROFILES:
        content = yaml.safe_load((CONFIGS / "profile" / f"{name}.yaml").read_text())
        assert set(content) <= allowed
        assert set(content["encoder"]) <= {"width", "depth", "stem_pool", "deep_width", "stem_size", *REGION_SIZES}
        assert set(content["contract"]) == {"grid"}
        assert set(content["augmentation"]) == {"crop"}


def test_dependencies_stand_in_one_place() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pip == ["--constraint constraints.txt", "--editable .[dev,radiomics]"]
    names = {entry.split("=")[0].split(">")[0] for entry in environment["dependencies"] if isinstance(entry, str)}
    assert names == {"python", "pip", "make", "git"}
