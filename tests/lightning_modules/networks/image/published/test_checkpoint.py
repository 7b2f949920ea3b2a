"""Published checkpoints: every key is accounted for, and nothing in a file runs."""

from __future__ import annotations

import hashlib
import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lightning_modules.core.errors import ModelError
from lightning_modules.networks.image.published.build import build_published
from lightning_modules.networks.image.published.checkpoint import load_published, read_state
from lightning_modules.networks.image.published.releases import RELEASES, KeyLayout

CT_CLIP_LAYER = {
    "position": "0.dsconv",
    "attention.norm.weight": "1.norm.gamma",
    "attention.query_scale": "1.q_scale",
    "attention.key_scale": "1.k_scale",
    "attention.query": "1.to_q",
    "attention.key_value": "1.to_kv",
    "attention.out": "1.to_out",
    "feed_forward.norm": "3.0",
    "feed_forward.widen": "3.1",
    "feed_forward.narrow": "3.4",
}
CT_CLIP_REST = {
    "patch_embedding.0": "visual_transformer.to_patch_emb.1",
    "patch_embedding.1": "visual_transformer.to_patch_emb.2",
    "patch_embedding.2": "visual_transformer.to_patch_emb.3",
    "position_bias.network.0": "visual_transformer.spatial_rel_pos_bias.net.0.0",
    "position_bias.network.2": "visual_transformer.spatial_rel_pos_bias.net.1.0",
    "position_bias.network.4": "visual_transformer.spatial_rel_pos_bias.net.2",
    "plane_norm.weight": "visual_transformer.enc_spatial_transformer.norm_out.gamma",
    "depth_norm.weight": "visual_transformer.enc_temporal_transformer.norm_out.gamma",
    "codebook": "visual_transformer.vq._codebook.embed",
    "projection": "to_visual_latent",
}
BESIDE = {
    "ct_fm": ["up_layers.0.head.weight"],
    "merlin": ["encode_text.linear_layer.bias", "encode_image.i3_resnet.classifier.weight", "logit_scale"],
    "merlin_astra": [],
    "ct_clip": [
        "text_transformer.pooler.dense.bias",
        "to_text_latent.weight",
        "temperature",
        "visual_transformer.to_pixels.0.weight",
        "visual_transformer.vq._codebook.cluster_size",
        "visual_transformer.enc_spatial_transformer.layers.0.1.null_kv",
        "visual_transformer.enc_temporal_transformer.norm_out.beta",
    ],
    "renalclip": ["image_encoder_q_student.global_embedding.head.weight", "logit_scale"],
}
PREFIX = {
    "ct_fm": "encoder.",
    "merlin": "encode_image.i3_resnet.",
    "merlin_astra": "",
    "renalclip": "image_encoder_q_student.",
}


def published_name(name: str, key: str) -> str:
    """The name of a weight in the release, written down here apart from the layout that reads it."""
    if name != "ct_clip":
        return PREFIX[name] + key
    stack, _, rest = key.partition(".")
    if stack in ("plane", "depth"):
        number, _, inner = rest.partition(".")
        theirs = next(value + inner[len(ours) :] for ours, value in CT_CLIP_LAYER.items() if inner.startswith(ours))
        kind = "spatial" if stack == "plane" else "temporal"
        return f"visual_transformer.enc_{kind}_transformer.layers.{number}.{theirs}"
    return next(value + key[len(ours) :] for ours, value in CT_CLIP_REST.items() if key.startswith(ours))


def published_state(name: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(7)
    own = build_published(name, small=True).state_dict()
    state = {published_name(name, key): value.clone() for key, value in own.items()}
    if name == "ct_clip":
        state["visual_transformer.vq._codebook.embed"] = own["codebook"][None].clone()
    return state | {key: torch.zeros(3) for key in BESIDE[name]}


def saved(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    return path


@pytest.mark.parametrize("name", list(RELEASES))
def test_every_key_of_a_release_finds_its_place(name: str, tmp_path: Path) -> None:
    state = published_state(name)
    torch.manual_seed(8)
    network = build_published(name, small=True)
    report = load_published(network, saved(tmp_path, state), RELEASES[name].layout)
    assert set(report.used) == set(network.state_dict())
    assert set(report.ignored) == set(BESIDE[name])
    assert report.missing == report.unexpected == report.reshaped == ()
    for key, value in network.state_dict().items():
        torch.testing.assert_close(value, state[published_name(name, key)].view_as(value))
    assert len(report.renamed) == (len(report.used) if name == "ct_clip" else 0)
    assert str(report).startswith(f"{len(report.used)} keys used ({len(report.renamed)} renamed), {len(BESIDE[name])}")


@pytest.mark.parametrize("nesting", [("state_dict",), ("model",), ("model", "state_dict")])
def test_nested_states_are_found(nesting: tuple[str, ...], tmp_path: Path) -> None:
    content: dict[str, object] = published_state("renalclip")
    for key in reversed(nesting):
        content = {key: content, "epoch": 3}
    report = load_published(
        build_published("renalclip", small=True), saved(tmp_path, content), RELEASES["renalclip"].layout
    )
    assert not report.missing


def test_safetensors_and_other_prefixes_and_precisions(tmp_path: Path) -> None:
    own = build_published("ct_fm", small=True).state_dict()
    for prefix in ("", "backbone.", "model.backbone."):
        save_file({prefix + key: value.clone() for key, value in own.items()}, tmp_path / "model.safetensors")
        network = build_published("ct_fm", small=True)
        load_published(network, tmp_path / "model.safetensors", RELEASES["ct_fm"].layout)
        torch.testing.assert_close(network.state_dict(), own)
    halves = {key: value.bfloat16() if value.is_floating_point() else value for key, value in own.items()}
    load_published(network, saved(tmp_path, halves), RELEASES["ct_fm"].layout)
    assert next(network.parameters()).dtype == torch.float32


def test_missing_unexpected_and_reshaped_keys_are_named(tmp_path: Path) -> None:
    layout = RELEASES["merlin_astra"].layout
    state = published_state("merlin_astra")
    without_layer1 = {key: value for key, value in state.items() if "layer1" not in key}
    before = build_published("merlin_astra", small=True)
    untouched = {key: value.clone() for key, value in before.state_dict().items()}
    for broken, expected in [
        ({key: value for key, value in state.items() if key != "bn1.bias"}, "missing: bn1.bias"),
        (state | {"extra.weight": torch.zeros(1)}, "unexpected: extra.weight"),
        (state | {"bn1.bias": torch.zeros(5)}, re.escape("shape: bn1.bias [5] instead of [4]")),
        (without_layer1, r"missing: (layer1\S+,? ?){5} and \d+ more"),
    ]:
        with pytest.raises(ModelError, match=expected):
            load_published(before, saved(tmp_path, broken), layout)
    torch.testing.assert_close(before.state_dict(), untouched)


@pytest.mark.parametrize("name", ["ct_fm", "merlin", "ct_clip", "renalclip"])
def test_another_models_checkpoint_is_refused(name: str, tmp_path: Path) -> None:
    other = "ct_clip" if name != "ct_clip" else "merlin"
    with pytest.raises(ModelError, match=r"weights.pt is not a checkpoint of this network: of its \d+ keys 0 fit"):
        load_published(
            build_published(name, small=True), saved(tmp_path, published_state(other)), RELEASES[name].layout
        )


def test_absent_weights_say_where_they_are_and_under_which_licence(tmp_path: Path) -> None:
    release = RELEASES["ct_clip"]
    with pytest.raises(ModelError, match=r"absent.pt were not found. Get CT-CLIP_v2.pt .*\(licence CC BY-NC-SA"):
        read_state(tmp_path / "absent.pt", source=release.source)


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.4, 0.95])
def test_truncated_files_are_refused(ending: str, kept: float, tmp_path: Path) -> None:
    path = tmp_path / f"weights.{ending}"
    state = {"weight": torch.rand(64, 64)}
    torch.save(state, path) if ending == "pt" else save_file(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ModelError, match=r"weights.\w+ \([\d,]+ bytes\) is truncated or damaged .*; fetch it again"):
        read_state(path)


def test_a_wrong_checksum_is_refused_before_reading(tmp_path: Path) -> None:
    path = saved(tmp_path, {"weight": torch.rand(2)})
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    assert set(read_state(path, sha256=right)) == {"weight"}
    with pytest.raises(ModelError, match=rf"has SHA-256 {right[:12]}, and the release has 000000000000"):
        read_state(path, sha256="0" * 64)


class Runs:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("plain", [False, True])
def test_code_in_a_pickle_is_not_run(plain: bool, tmp_path: Path) -> None:
    path, mark = tmp_path / "weights.pt", tmp_path / "ran"
    content = {"config": Runs(mark), "weight": torch.zeros(1)}
    path.write_bytes(pickle.dumps(content, protocol=2)) if plain else torch.save(content, path)
    with pytest.raises(ModelError, match=r"weights.pt would run \S*mkdir when it is read, which was not done"):
        read_state(path)
    assert not mark.exists()


def test_a_file_without_weights_is_refused(tmp_path: Path) -> None:
    for content in ({"epoch": 3}, [1, 2], {"state_dict": {}}):
        with pytest.raises(ModelError, match=r"weights.pt holds no weights"):
            read_state(saved(tmp_path, content))


def test_the_first_prefix_that_occurs_is_taken() -> None:
    layout = KeyLayout(prefixes=("a.", "b.", ""))
    assert layout.prefix_of({"b.x": torch.zeros(1), "a.x": torch.zeros(1)}) == "a."
    assert layout.prefix_of({"b.x": torch.zeros(1)}) == "b."
    assert KeyLayout(prefixes=("a.",)).prefix_of({"x": torch.zeros(1)}) is None
