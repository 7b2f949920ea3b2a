"""The text sides of published models in a tiny random configuration, against transformers' own forward pass."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import BertTokenizer, RobertaTokenizer

from lightning_modules.core.errors import ModelError
from lightning_modules.export.aligned import load_pair
from lightning_modules.networks.image import encoders
from lightning_modules.networks.image.published.build import build_published
from lightning_modules.networks.image.published.checkpoint import load_published
from lightning_modules.networks.joint.published_pair import PublishedPair
from lightning_modules.networks.text.encoding import encode_texts
from lightning_modules.networks.text.published import TEXTS, WITHOUT_TEXT, build_text
from tests.lightning_modules.networks.text.tiny_published import LOG_SCALE, SCALE, release, text_folder, tower

AXES = {"ct_clip": "SLP", "merlin": "RAS"}
GRID = {"ct_clip": (8, 24, 24), "merlin": (16, 16, 16)}
TOKENIZERS: dict[str, Any] = {"ct_clip": BertTokenizer, "merlin": RobertaTokenizer}
REPORTS = ["Renal MASS is present.", "2.5-cm cyst(s); no mass!", "cyst"]
# As Merlin's tokenizer sees them, written down by hand.
SPACED = ["renal mass is present .", "2 . 5 - cm cyst ( s ); no mass !", "cyst"]


def pair(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[PublishedPair, Any, Any, dict[str, Any]]:
    """Both sides as read from a file in the published layout, and the networks and state that went into it."""
    monkeypatch.setattr(encoders, "build_published", partial(build_published, small=True))
    tokenizer = TOKENIZERS[name].from_pretrained(text_folder(name, folder / "text"))
    language = tower(name, len(tokenizer))
    image, state = release(name, language)
    torch.save(state, folder / "weights.pt")
    torch.manual_seed(9)
    return load_pair(name, folder / "weights.pt", folder / "text", {"axes": AXES[name]}), image, language, state


@pytest.mark.parametrize("name", list(TEXTS))
def test_cosines_and_logits_are_those_of_the_release(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, image, language, state = pair(name, tmp_path, monkeypatch)
    tokenizer = TOKENIZERS[name].from_pretrained(tmp_path / "text")
    texts = SPACED if name == "merlin" else REPORTS
    tokens = tokenizer(texts, return_tensors="pt", padding="max_length", max_length=64)  # CT-CLIP pads to 512
    scans = torch.rand(2, 1, *GRID[name])
    with torch.no_grad():
        first = language(tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state[:, 0]
        feature = image(scans)
        # Unlike texts of unlike length together: neither padding nor neighbours change an embedding.
        found = torch.from_numpy(encode_texts(ours.text, REPORTS))
        torch.testing.assert_close(found, first, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(torch.from_numpy(encode_texts(ours.text, REPORTS[:1])), first[:1], rtol=0, atol=1e-5)
        cosines = ours.embed_image(scans) @ ours.embed_text(found).T
    if name == "merlin":
        head = "encode_image.i3_resnet.contrastive_head."
        feature = functional.conv3d(feature[..., None, None, None], state[f"{head}weight"], state[f"{head}bias"])
        feature, bias = feature.flatten(1), state["encode_text.linear_layer.bias"].numpy()
        text = first.numpy() @ state["encode_text.linear_layer.weight"].numpy().T + bias
    else:
        text = first.numpy() @ state["to_text_latent.weight"].numpy().T
    scan = feature.numpy()
    expected = (scan @ text.T) / np.outer(np.linalg.norm(scan, axis=1), np.linalg.norm(text, axis=1))
    np.testing.assert_allclose(cosines.numpy(), expected, atol=1e-5)
    assert float(ours.scale()) == pytest.approx(np.exp(LOG_SCALE))
    np.testing.assert_allclose(float(ours.scale()) * cosines.numpy(), np.exp(LOG_SCALE) * expected, atol=5e-4)
    assert ours.embed_dim == text.shape[1]


@pytest.mark.parametrize("name", list(TEXTS))
def test_every_key_is_accounted_for_and_a_missing_one_is_an_error(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, _, _, state = pair(name, tmp_path, monkeypatch)
    fresh = build_text(name, tmp_path / "text", ours.image_encoder.feature_dim)
    report = load_published(fresh, tmp_path / "weights.pt", TEXTS[name].layout)
    assert set(report.used) == set(fresh.state_dict())
    assert len(report.used) + len(report.ignored) == len(state)
    assert report.missing == report.unexpected == ()
    needed = [SCALE[name], "encoder.layer.1.output.dense.weight", "embeddings.word_embeddings.weight"]
    needed += ["linear_layer.bias", "contrastive_head.bias"] if name == "merlin" else ["to_text_latent.weight"]
    for end in needed:
        kept = {key: value for key, value in state.items() if not key.endswith(end)}
        torch.save(kept, tmp_path / "less.pt")
        with pytest.raises(ModelError, match=r"less.pt is not a checkpoint of this network: .*missing: "):
            load_pair(name, tmp_path / "less.pt", tmp_path / "text", {"axes": AXES[name]})


def test_an_embedding_is_kept_under_all_that_it_depends_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = pair("ct_clip", tmp_path, monkeypatch)[0].text
    before = ours.fingerprint()
    encode_texts(ours, REPORTS)  # leaves its padding and its limit in the tokenizer
    assert ours.fingerprint() == before
    lines = (tmp_path / "text/vocab.txt").read_text().splitlines()
    (tmp_path / "text/vocab.txt").write_text("\n".join([*lines[:5], *lines[6:], lines[5]]) + "\n")
    other = build_text("ct_clip", tmp_path / "text", 16)
    other.load_state_dict(ours.state_dict())
    assert other.fingerprint() != before  # the same weights under other words
    with torch.no_grad():
        ours.tower.encoder.layer[0].output.dense.bias[3] += 1e-3
    assert ours.fingerprint() != before


def test_long_texts_are_cut_where_the_release_cuts_them(tmp_path: Path) -> None:
    for name, length in (("ct_clip", 512), ("merlin", 1024)):
        text = build_text(name, text_folder(name, tmp_path / name))
        assert text.tokenize(["renal mass " * 600])["input_ids"].shape == (1, length)


@pytest.mark.parametrize(
    ("name", "file"), [("ct_clip", "vocab.txt"), ("merlin", "merges.txt"), ("merlin", "config.json")]
)
def test_an_absent_file_of_the_text_side_is_named_with_source_and_licence(name: str, file: str, tmp_path: Path) -> None:
    folder = text_folder(name, tmp_path / "weights/text")
    (folder / file).unlink()
    licence = {"ct_clip": "MIT", "merlin": "none stated"}[name]
    with pytest.raises(ModelError) as refused:
        build_text(name, folder)
    said = str(refused.value)
    assert f"lacks {file} in the folder weights/text" in said
    assert f"huggingface.co/{TEXTS[name].base} there (licence: {licence})" in said


@pytest.mark.parametrize("file", ["config.json", "vocab.json"])
def test_a_damaged_file_of_the_text_side_is_one_sentence(file: str, tmp_path: Path) -> None:
    folder = text_folder("merlin", tmp_path / "text")
    (folder / file).write_text((folder / file).read_text()[:40])
    with pytest.raises(
        ModelError, match=r"of Merlin in .*/text cannot be read \(\w+: .*\); expected those of .*yikuan8"
    ):
        build_text("merlin", folder)


def test_code_beside_the_tokenizer_is_not_run(tmp_path: Path) -> None:
    folder = text_folder("ct_clip", tmp_path / "text")
    (folder / "configuration_cxrbert.py").write_text("raise SystemExit('code of the folder ran')")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "configuration_cxrbert.CXRBertConfig"}
    (folder / "config.json").write_text(json.dumps(config))
    assert build_text("ct_clip", folder).tokenize(["renal"])["input_ids"].tolist()[0][1] == 5


@pytest.mark.parametrize("name", list(WITHOUT_TEXT))
def test_releases_without_texts_say_why(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"cannot compare scans with texts: {re.escape(WITHOUT_TEXT[name])}; choose"):
        build_text(name, tmp_path)
