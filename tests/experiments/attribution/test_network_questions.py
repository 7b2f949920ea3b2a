"""Evidence of answers is that of the models themselves: heads of probes, fine-tuned networks, attributes, prompts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from experiments.attribution.network_questions import HIGH, LOW, of_attributes, of_network, of_prompts
from lightning_modules.core.errors import ModelError
from lightning_modules.core.optimization import OptimizerConfig
from lightning_modules.downstream.classification import Classification
from lightning_modules.downstream.survival import Survival
from lightning_modules.export.attribute_heads import AttributeHeads
from lightning_modules.networks.image.encoders import EncoderConfig
from lightning_modules.networks.joint.aligned_model import AlignedConfig, AlignedModel

ENCODER = EncoderConfig(depth=10, width=4, deep_width=4)
SETTINGS: dict[str, Any] = {"encoder": ENCODER, "contract": {}, "optimizer": OptimizerConfig()}


def test_a_fine_tuned_class_has_the_log_odds_of_its_mean_logits() -> None:
    torch.manual_seed(0)
    model = Classification(class_counts=[5, 4, 3], **SETTINGS).eval()
    question = of_network(model, "renal_r", "R", ("1", "2", "3"))
    image = torch.rand(2, 1, 8, 16, 16)  # two phases of a kidney
    with torch.no_grad():
        feature = model.encoder(image)[None]
        share = model(image).mean(dim=0).softmax(dim=0)
        for answer in range(3):
            odds = torch.log(share[answer] / (1 - share[answer]))
            assert float(question.evidence(feature, answer)[0]) == pytest.approx(float(odds), abs=1e-4)
    assert question.answer(feature) == int(share.argmax())


def test_a_fine_tuned_risk_speaks_for_the_side_that_it_lies_on() -> None:
    torch.manual_seed(0)
    model = Survival(outcome={"endpoint": "rfs", "cuts": [0.0, 12.0]}, **SETTINGS).eval()
    question = of_network(model, "rfs", "RFS", ())
    image = torch.rand(1, 1, 8, 16, 16)
    with torch.no_grad():
        risk, feature = float(model(image)), model.encoder(image)[None]
        assert float(question.evidence(feature, 0)[0]) == pytest.approx(risk, abs=1e-5)
        assert float(question.evidence(feature, 1)[0]) == pytest.approx(-risk, abs=1e-5)
    assert question.answers[question.answer(feature)] == (HIGH if risk > 0 else LOW)


def test_a_network_whose_outputs_are_something_else_is_refused() -> None:
    model = Classification(class_counts=[5, 4], fusion="attention", **SETTINGS)
    with pytest.raises(ModelError, match="fuses phases by attention"):
        of_network(model, "malignancy", "Malignancy", ("benign", "malignant"))
    with pytest.raises(ModelError, match="3 outputs"):
        of_network(Classification(class_counts=[5, 4, 3], **SETTINGS), "renal_r", "R", ("a", "b"))


def test_attributes_and_prompts_answer_as_their_models_do() -> None:
    torch.manual_seed(0)
    heads = AttributeHeads({"margin": ["smooth", "irregular"], "density": ["low", "iso", "high"]}, 6)
    feature = torch.randn(1, 1, 6)
    for question in of_attributes(heads):
        name = question.name.removeprefix("attribute ")
        scores = heads.scores(feature[0])[name][0]
        assert question.answers == tuple(heads.classes[name])
        assert question.answer(feature) == int(scores.argmax())
        odds = torch.log(scores[1] / (1 - scores[1]))
        assert float(question.evidence(feature, 1)[0]) == pytest.approx(float(odds), abs=1e-4)
    model = AlignedModel(ENCODER, AlignedConfig(text_dim=5, embed_dim=5)).eval()
    text = torch.nn.functional.normalize(torch.randn(2, 5), dim=1)
    seen = torch.randn(1, 1, int(model.image_encoder.feature_dim))  # type: ignore[arg-type]
    question = of_prompts(model, "malignancy", "Malignancy", ("benign", "malignant"), text)
    with torch.no_grad():
        cosine = model.embed_features(seen[0]) @ text.T
        gap = float(model.scale() * (cosine[0, 1] - cosine[0, 0]))
    assert float(question.evidence(seen, 1)[0]) == pytest.approx(gap, abs=1e-4)
