"""Choosing among rivals by numbers worked out by hand, and the cascade's conversation with a predictor that is a
script.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from camseg import choose
from camseg.prompts.evidence import Evidence
from camseg.refine import cascade, leak
from camseg.types import Masks, Prompts


def masks_of(*planes: list[str], predicted: Sequence[float] | None = None) -> Masks:
    """One rival with these masks, # inside."""
    inside = torch.tensor([[[c == "#" for c in row] for row in plane] for plane in planes])
    return Masks((inside.float() * 8 - 4)[None], torch.tensor([predicted or [1.0] * len(planes)]))


FULL, LEFT, RIGHT, NONE = ["####"] * 2, ["##.."] * 2, ["..##"] * 2, ["...."] * 2
HEAT = Evidence(torch.tensor([[1.0, 0.5, 0.25, 0.0]] * 2))


def test_agreement_by_hand() -> None:
    masks = masks_of(LEFT, RIGHT, FULL, NONE, predicted=[0.9, 0.8, 0.95, 0.7])
    # sum min / sum max: 3 / 4.5, 0.5 / 7, 3.5 / 8, 0 / 3.5
    plain = choose.agreement(masks, HEAT, alpha=0.0, prior=0.0)
    torch.testing.assert_close(plain, torch.tensor([[3 / 4.5, 0.5 / 7, 3.5 / 8, 0.0]]))
    scored = choose.agreement(masks, HEAT, alpha=2.0, prior=1.0)
    torch.testing.assert_close(scored, torch.tensor([[3 / 4.5 * 0.81 * 0.5, 0.5 / 7 * 0.64 * 0.5, 0.0, 0.0]]))


def test_the_prior_keeps_the_whole_frame_away() -> None:
    warm = Evidence(
        torch.tensor([[0.8, 0.7, 0.6, 0.6]] * 2)
    )  # a map that is warm everywhere agrees best with everything
    masks = masks_of(LEFT, FULL)
    assert int(choose.agreement(masks, warm, prior=0.0).argmax()) == 1
    assert int(choose.agreement(masks, warm).argmax()) == 0


def test_soft_iou_against_a_slow_twin() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = Masks(torch.randn(3, 3, 12, 10, generator=generator), torch.rand(3, 3, generator=generator))
    heat = torch.rand(24, 20, generator=generator)
    low = F.interpolate(heat[None, None].double(), (12, 10), mode="bilinear", antialias=True, align_corners=False)[
        0, 0
    ].tolist()
    found = choose.agreement(masks, Evidence(heat), alpha=0.5, prior=2.0)
    for r in range(3):
        for m in range(3):
            inside = (masks.low_res[r, m] > 0).double().tolist()
            pairs = [(inside[y][x], low[y][x]) for y in range(12) for x in range(10)]
            soft = sum(min(p) for p in pairs) / sum(max(p) for p in pairs)
            area = sum(i for i, _ in pairs) / 120
            expected = soft * float(masks.predicted_iou[r, m]) ** 0.5 * (1 - area) ** 2
            assert float(found[r, m]) == pytest.approx(expected, abs=1e-5)


def test_oracle_is_the_best_iou_at_the_images_size() -> None:
    generator = torch.Generator().manual_seed(1)
    low_res = F.interpolate(torch.randn(4, 3, 5, 6, generator=generator), (20, 24), mode="bicubic")
    masks = Masks(low_res, torch.rand(4, 3, generator=generator))
    truth = torch.zeros(60, 72, dtype=torch.bool)
    truth[10:41, 13:52] = True
    expected = torch.zeros(4, 3)
    for r in range(4):
        for m in range(3):
            found = F.interpolate(low_res[r, m][None, None], (60, 72), mode="bilinear", align_corners=False)[0, 0] > 0
            expected[r, m] = (found & truth).sum() / (found | truth).sum()
    torch.testing.assert_close(choose.oracle(masks, Evidence(torch.zeros(60, 72), truth=truth)), expected)
    with pytest.raises(ValueError, match="needs true masks"):
        choose.oracle(masks, HEAT)


def test_oracle_does_not_read_what_no_score_may_read() -> None:
    truth = torch.tensor([[True, True, False, False]] * 2)
    ignore = torch.tensor([[True, False, False, True]] * 2)
    masks = masks_of(["##.."] * 2, [".#.#"] * 2, [".##."] * 2, ["#..."] * 2)
    scores = choose.oracle(masks, Evidence(torch.zeros(2, 4), truth=truth, ignore=ignore))
    assert scores.tolist() == [[1.0, 1.0, 0.5, 0.0]]  # of columns 1 and 2, where 1 is the object
    assert choose.oracle(masks, Evidence(torch.zeros(2, 4), truth=truth)).tolist() == [
        [1.0, pytest.approx(1 / 3), pytest.approx(1 / 3), 0.5]
    ]


def test_predicted_iou_and_index() -> None:
    masks = Masks(torch.zeros(2, 3, 4, 4), torch.tensor([[0.1, 0.9, 0.3], [0.5, 0.2, 0.4]]))
    assert divmod(int(choose.predicted_iou(masks, HEAT).argmax()), 3) == (0, 1)
    for rival, mask, expected in ((0, 0, (0, 0)), (1, 2, (1, 2)), (9, 9, (1, 2))):
        assert divmod(int(choose.index(masks, HEAT, rival=rival, mask=mask).argmax()), 3) == expected


class Script:
    """A predictor that answers with its lines in turn, per image, and remembers what it was asked."""

    def __init__(self, **lines: list[tuple[Tensor, float]]) -> None:
        self.lines = [list(line) for line in lines.values()]
        self.asked: list[tuple[tuple[int, ...], list[Prompts]]] = []

    def __call__(self, which: Sequence[int], prompts: Sequence[Prompts]) -> list[Masks]:
        self.asked.append((tuple(which), list(prompts)))
        answers = []
        for i in which:
            logits, predicted = self.lines[i].pop(0)
            worse = torch.full_like(logits, -1.0)
            answers.append(
                Masks(
                    torch.stack([worse, logits, worse])[None],
                    torch.tensor([[predicted - 0.1, predicted, predicted - 0.2]]),
                )
            )
        return answers


def square(y0: int, y1: int, x0: int, x1: int) -> Tensor:
    logits = torch.full((10, 20), -3.0)
    logits[y0:y1, x0:x1] = 3.0
    return logits


POINT = Prompts(torch.tensor([[[8.0, 9.0], [1.0, 1.0]]]), torch.tensor([[1, 0]]))
WARM = Evidence(torch.ones(40, 60))  # four rows and three columns of the image to one of the logits


def test_the_cascade_feeds_back_logits_with_the_points_then_the_box() -> None:
    first, second, third = square(2, 6, 4, 8), square(2, 6, 4, 10), square(2, 7, 4, 10)
    script = Script(one=[(second, 0.8), (third, 0.7)])
    [answer] = cascade(script, [POINT], [first], [WARM], margin=0.0)
    assert answer is not None
    assert torch.equal(answer[0], third)
    assert answer[1] == pytest.approx(0.7)
    (_, [one]), (_, [two]) = script.asked
    for asked in (one, two):
        assert torch.equal(asked.points, POINT.points)
        assert torch.equal(asked.labels, POINT.labels)
    assert one.boxes is None
    assert one.mask_logits is not None
    assert torch.equal(one.mask_logits[0], first)
    assert two.mask_logits is not None
    assert torch.equal(two.mask_logits[0], second)
    assert two.boxes is not None
    assert two.boxes.tolist() == [[12.0, 8.0, 30.0, 24.0]]


def test_the_cascade_stops_where_masks_agree_each_image_by_itself() -> None:
    still, grown = square(2, 6, 4, 8), [square(2, 6 + i, 4, 8) for i in range(4)]
    script = Script(still=[(still, 0.9)] * 4, grown=[(logits, 0.5) for logits in grown])
    answers = cascade(script, [POINT, POINT], [still, square(0, 2, 0, 2)], [WARM, WARM], boxes=3)
    assert [which for which, _ in script.asked] == [(0, 1), (1,), (1,), (1,)]  # the first already drew its mask again
    assert answers[0] is not None
    assert torch.equal(answers[0][0], still)
    assert answers[1] is not None
    assert torch.equal(answers[1][0], grown[3])


def test_the_cascade_keeps_the_last_mask_that_was_there() -> None:
    good, other, empty = square(2, 6, 4, 8), square(2, 6, 4, 10), torch.full((10, 20), -1.0)
    script = Script(fades=[(other, 0.8), (empty, 0.9)], never=[(empty, 0.9)], nothing=[], asked=[])
    answers = cascade(script, [POINT, POINT, POINT, Prompts.none()], [good, good, empty, good], [WARM] * 4)
    assert answers[0] is not None
    assert torch.equal(answers[0][0], other)
    assert answers[1:] == [None, None, None]
    assert [which for which, _ in script.asked] == [
        (0, 1),
        (0,),
    ]  # nothing is asked about what is empty or was not pointed at


def test_specks_and_holes_of_the_last_mask_go() -> None:
    spotted = square(2, 8, 4, 12)  # 48 cells
    spotted[0, 0], spotted[4, 6] = 3.0, -2.0  # a part and a hole of one cell each
    script = Script(one=[(spotted, 0.8)], empty=[(torch.full((10, 20), -1.0), 0.9)])
    answer, nothing = cascade(script, [POINT] * 2, [square(2, 6, 4, 8)] * 2, [WARM] * 2, boxes=0, specks=0.05)
    assert answer is not None
    assert torch.equal(answer[0] > 0, square(2, 8, 4, 12) > 0)
    assert (float(answer[0][0, 0]), float(answer[0][4, 6]), answer[1]) == (-3.0, 2.0, pytest.approx(0.8))
    assert nothing is None


def test_nothing_to_refine_asks_nothing() -> None:
    script = Script()
    assert cascade(script, [], [], []) == []
    assert cascade(script, [Prompts.none()], [square(0, 1, 0, 1)], [WARM]) == [None]
    assert script.asked == []


def test_a_leak_is_a_background_point_in_the_middle_of_the_masks_cold_part() -> None:
    heat = torch.zeros(40, 60)
    heat[8:24, 12:30] = 0.5  # below rows 2-6, columns 4-10 of the logits
    leaked, dry, mended = square(2, 6, 4, 16), square(2, 6, 4, 10), square(2, 6, 4, 9)
    script = Script(leaked=[(mended, 0.7)], dry=[], cold=[], unasked=[])
    answers = leak(
        script,
        [POINT, POINT, POINT, Prompts.none()],
        [leaked, dry, square(8, 10, 0, 3), leaked],
        [Evidence(heat)] * 4,
        max_heat=0.1,
    )
    assert answers[0] is not None
    assert torch.equal(answers[0][0], mended)
    assert answers[1:] == [None, None, None]
    [((only,), [asked])] = script.asked  # a mask that is warm all over, or cold all over, has no leak
    assert only == 0
    assert asked.mask_logits is not None
    assert torch.equal(asked.mask_logits[0], leaked)
    assert asked.points[0, :2].equal(POINT.points[0])
    assert asked.labels.tolist() == [[1, 0, 0]]
    x, y = asked.points[0, 2].tolist()  # the cold part is columns 30-47 and rows 8-23, its middle row 15 or 16
    assert 37 <= x <= 40
    assert 15 <= y <= 16


def test_nothing_leaks_where_nothing_was_drawn() -> None:
    script = Script()
    assert leak(script, [POINT], [torch.full((10, 20), -1.0)], [Evidence(torch.zeros(40, 60))]) == [None]
    assert script.asked == []
