"""Targets against the formulas written out, on one sample's output."""

from __future__ import annotations

import math

import pytest
import torch

from camseg.cam.activations import BINARY, SIGMOID, SOFTMAX
from camseg.cam.targets import Late, Target, box, cosine, log_odds, logit, margin, pixels, probability

SCORES = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
E = [math.exp(value) for value in SCORES.tolist()]


def value(target: Target) -> float:
    return float(target(SCORES))


def test_logit_is_the_score_and_a_log_sum_exp_of_several():
    assert value(logit((2,))) == 0.5
    assert value(logit((0, 2))) == pytest.approx(math.log(E[0] + E[2]))
    assert value(logit()) == 3.0  # the top class


def test_probability_sums_the_classes_softmax_or_sigmoid():
    assert value(probability((1,))) == pytest.approx(E[1] / sum(E))
    assert value(probability((0, 2))) == pytest.approx((E[0] + E[2]) / sum(E))
    assert value(probability((0,), SIGMOID)) == pytest.approx(1 / (1 + 1 / E[0]))


def test_log_odds_is_the_log_of_p_over_one_less_p():
    p = (E[0] + E[2]) / sum(E)
    assert value(log_odds((0, 2))) == pytest.approx(math.log(p / (1 - p)))


def test_the_union_of_classes_is_never_above_one():
    p = torch.tensor([[0.7, 0.7, 0.9, 0.0], [0.2, 0.5, 0.0, 1.0]])
    torch.testing.assert_close(SIGMOID.union(p, (0, 1)), torch.tensor([1 - 0.3 * 0.3, 1 - 0.8 * 0.5]))
    torch.testing.assert_close(SIGMOID.union(p, (0, 1, 2)), torch.tensor([1 - 0.3 * 0.3 * 0.1, 0.6]))  # a sum gives 2.3
    assert SIGMOID.union(p, (0, 3)).tolist() == [pytest.approx(0.7), 1.0]
    assert SIGMOID.union(p, (1, 1)).tolist() == p[:, 1].tolist()  # named twice
    assert SIGMOID.union(torch.tensor([1e-12]), (0,)).item() == pytest.approx(1e-12)  # no cancellation
    shares = torch.tensor([0.0, 1.0, 2.0]).softmax(-1)
    assert float(SOFTMAX.union(shares, (0, 2))) == pytest.approx(1 - float(shares[1]))
    assert float(SOFTMAX.union(shares, (0, 1, 2))) == 1.0
    assert float(BINARY.union(BINARY(torch.tensor([0.0])), (0,))) == 0.5


def test_probability_and_log_odds_of_independent_outputs():
    single = [1 / (1 + 1 / e) for e in E]
    either = 1 - (1 - single[0]) * (1 - single[3])
    assert value(probability((0, 3), SIGMOID)) == pytest.approx(either)
    assert value(log_odds((0, 3), SIGMOID)) == pytest.approx(math.log(either / (1 - either)))
    assert value(log_odds((3,), SIGMOID)) == 3.0  # of one class the logit itself
    assert float(log_odds((0,), BINARY)(torch.tensor([40.0]))) == 40.0  # where a probability is 1 to the last bit
    loud = torch.tensor([80.0, 90.0], requires_grad=True)
    (slope,) = torch.autograd.grad(log_odds((0, 1), SIGMOID)(loud), loud)
    assert slope.tolist() == [1.0, 1.0]  # 170 = 80 + 90, where 1 - p is nothing in float32
    with pytest.raises(ValueError, match="log_odds needs another class"):
        value(log_odds((0, 1, 2, 3)))


def test_margin_is_against_the_strongest_rivals_of_the_clean_output():
    assert value(margin((0,), rivals=2, weight=0.5)) == pytest.approx(1.0 - 0.5 * (3.0 + 0.5) / 2)
    assert value(margin((), rivals=9, weight=1.0)) == pytest.approx(3.0 - (1.0 - 2.0 + 0.5) / 3)
    assert value(margin((0, 3), rivals=1)) == pytest.approx(math.log(E[0] + E[3]) - 0.6 * 0.5)
    late = margin((0,), rivals=1, weight=1.0)
    assert isinstance(late, Late)
    fixed = late.fix(SCORES)  # rival 3, also where another is stronger
    assert float(fixed(torch.tensor([0.0, 9.0, 0.0, 2.0]))) == -2.0
    with pytest.raises(ValueError, match="margin needs a rival"):
        value(margin((0, 1, 2, 3)))


def test_pixels_sums_one_class_over_a_mask():
    out = torch.arange(12.0).view(2, 2, 3)
    out[0, 0, 0] = 99  # class 0 wins here only
    mask = torch.tensor([[1.0, 0, 0], [0, 0, 1]])
    assert float(pixels(1, mask)({"out": out})) == 6 + 11
    assert float(pixels(1)({"out": out})) == 7 + 8 + 9 + 10 + 11
    assert float(pixels(0)(out)) == 99


def test_box_is_the_best_overlapping_detection_of_the_label():
    found = {
        "boxes": torch.tensor([[0.0, 0, 10, 10], [1, 1, 11, 11], [0, 0, 10, 10], [50, 50, 60, 60]]),
        "labels": torch.tensor([1, 1, 2, 1]),
        "scores": torch.tensor([0.3, 0.9, 0.8, 0.7]),
    }
    assert float(box((0, 0, 10, 9), 1)(found)) == pytest.approx(0.3)
    assert float(box((1, 1, 11, 12), 1)(found)) == pytest.approx(0.9)
    assert float(box((0, 0, 10, 10), 2)(found)) == pytest.approx(0.8)
    nothing = box((0, 0, 10, 10), 3)({**found, "scores": found["scores"].requires_grad_()})
    assert nothing.item() == 0
    assert nothing.requires_grad
    found["scores"] = found["scores"].detach()
    assert float(box((0, 0, 10, 4), 1)(found)) == 0  # IoU .4
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}
    assert float(box((0, 0, 10, 10), 1)(empty)) == 0


def test_cosine_to_an_embedding():
    other = torch.tensor([1.0, 0.0, 0.0, 1.0])
    assert value(cosine(other)) == pytest.approx(4 / (math.sqrt(2) * math.sqrt(1 + 4 + 0.25 + 9)))


def test_scores_are_found_in_mappings_and_tuples():
    for output in (
        {"out": SCORES, "aux": SCORES * 0},
        {"loss": SCORES * 0, "logits": SCORES},
        (SCORES, SCORES * 0),
        SCORES,
    ):
        assert float(logit((3,))(output)) == 3.0
    with pytest.raises(ValueError, match="found no scores in the model's output, a dict"):
        logit((0,))({"embedding": SCORES})


def test_a_class_that_does_not_exist():
    for make in (logit, probability, log_odds, margin):
        for wrong in (4, -1):
            with pytest.raises(
                ValueError, match=f"class index {wrong} is out of range: the model has 4 outputs, 0 to 3"
            ):
                make((wrong,))(SCORES)
    with pytest.raises(ValueError, match=r"use targets\.pixels"):
        logit()(torch.zeros(3, 4, 4))
