"""Trials of maps on a network that is known: what rests on a lesion is told from a blob; random weights are random."""

from __future__ import annotations

import pytest
import torch

from experiments.attribution.truth_trials import (
    LESION,
    OPPOSITE,
    PARENCHYMA,
    SHARES,
    alike,
    centred_blob,
    curves,
    erased,
    parts_to_erase,
    pointing,
    randomised,
)
from tests.experiments.attribution.test_map_methods import PLACE, SIGN, BoxMean, region_encoder, views

SIZE = (16, 20, 20)


def lesion() -> torch.Tensor:
    inside = torch.zeros(SIZE, dtype=torch.bool)
    inside[PLACE] = True
    return inside


def test_the_pointing_game_counts_ties_by_their_share() -> None:
    values = torch.zeros(SIZE)
    values[4, 12, 2] = 1
    assert pointing(values, lesion()) == 1
    values[0, 0, 0] = 1
    assert pointing(values, lesion()) == 0.5
    assert pointing(torch.zeros(SIZE), lesion()) == pytest.approx(6**3 / (16 * 20 * 20))
    assert pointing(centred_blob(SIZE), lesion()) == 0


def test_a_true_map_loses_by_deletion_and_wins_by_insertion_more_than_a_blob() -> None:
    kidney = views()
    (true,) = curves(BoxMean(), kidney, [(SIGN, 1)], lesion().float())
    (blob,) = curves(BoxMean(), kidney, [(SIGN, 1)], centred_blob(SIZE))
    assert true.lost > blob.lost + 0.05
    assert true.won > blob.won + 0.05
    assert true.whole == pytest.approx(blob.whole)
    assert len(true.deletion) == len(true.insertion) == len(SHARES)
    assert (true.deletion <= true.whole + 1e-6).all()


def test_erasing_the_lesion_costs_what_the_other_parts_do_not() -> None:
    organ = torch.zeros(SIZE, dtype=torch.bool)
    organ[2:14, 2:19, 1:19] = True
    parts = parts_to_erase(lesion(), organ)
    assert parts is not None
    assert int(parts[PARENCHYMA].sum()) == int(lesion().sum())
    assert not any((parts[name] & lesion()).any() for name in (PARENCHYMA, OPPOSITE))
    (fallen,) = erased(BoxMean(), views(), [(SIGN, 1)], parts)
    assert fallen[LESION] > 0.01
    assert fallen[PARENCHYMA] == pytest.approx(0, abs=1e-6)
    assert fallen[OPPOSITE] == pytest.approx(0, abs=1e-6)
    assert parts_to_erase(lesion(), lesion()) is None


def test_random_weights_are_others_and_leave_the_network_as_it_was() -> None:
    encoder = region_encoder()
    with torch.no_grad():
        encoder.trunk[0].weight.add_(1.0)  # type: ignore[union-attr, operator]
    before = encoder.trunk[0].weight.clone()  # type: ignore[union-attr, operator]
    other = randomised(encoder, 7)
    assert torch.equal(encoder.trunk[0].weight, before)  # type: ignore[union-attr, arg-type]
    changed = [
        not torch.equal(one, two)
        for (name, one), two in zip(encoder.named_parameters(), other.parameters(), strict=True)
        if name.endswith("weight") and one.dim() > 1
    ]
    assert all(changed)
    assert not any(module.training for module in other.modules())
    again = randomised(encoder, 7)
    assert all(torch.equal(one, two) for one, two in zip(other.parameters(), again.parameters(), strict=True))


def test_likeness_is_that_of_ranks_and_0_of_a_constant() -> None:
    values = torch.rand(SIZE, generator=torch.Generator().manual_seed(0))
    assert alike(values, values**3) == pytest.approx(1)
    assert alike(values, -values) == pytest.approx(-1)
    assert alike(values, torch.zeros(SIZE)) == 0
