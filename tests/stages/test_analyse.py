from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from pipeline.codecs.base import Analysis
from pipeline.errors import CodecError, ConfigError
from pipeline.records import Picture
from pipeline.stages.analyse import Analyse, by_megapixels
from pipeline.stages.decode import rejected
from pipeline.stages.work import Work, has_pixels
from tests.stages.pictures import smooth, source_of
from tests.stages.test_encode import Split, analysis_of


@dataclass
class Recorder(Split):
    """Remembers the sizes of its batches and cannot bear pictures 13 px high."""

    batches: list[list[int]] = field(default_factory=list)

    def analyse(self, pictures) -> list[Analysis]:
        self.batches.append([picture.height_px for picture in pictures])
        if any(picture.height_px == 13 for picture in pictures):
            raise RuntimeError("unlucky\nand a second line")
        return [analysis_of(self.model_id) for _ in pictures]


def work_of(height: int, **options) -> Work:
    return Work(source_of(b"x", f"{height}.png"), Picture(smooth(height, 1000), **options))


def test_batches_are_cut_by_megapixels_and_order_is_kept():
    codec = Recorder()
    works = list(Analyse(codec, batch_mpx=1.0)([work_of(h) for h in (400, 500, 200, 3000, 10)]))
    assert codec.batches == [[400, 500], [200], [3000], [10]]
    assert [work.picture.height_px for work in works if work.picture] == [400, 500, 200, 3000, 10]
    assert all(work.picture and not has_pixels(work.picture) for work in works)


def test_one_bad_picture_does_not_fail_its_neighbours():
    works = list(Analyse(Recorder(), batch_mpx=9)([work_of(h) for h in (12, 13, 14)]))
    assert [work.analysis is not None for work in works] == [True, False, True]
    assert works[1].note == "RuntimeError: unlucky"


def test_a_codec_that_fails_in_the_turn_of_a_picture_goes_on_behind_it():
    """What it has given already is not asked for again."""

    class InTurn(Recorder):
        def analyse(self, pictures):
            for picture in pictures:
                if picture.height_px == 13:
                    self.batches.append([13])
                    raise CodecError("out of reach")
                yield from super().analyse([picture])

    codec = InTurn()
    works = list(Analyse(codec, batch_mpx=9)([work_of(h) for h in (12, 11, 13, 14, 13)]))
    assert [work.analysis is not None for work in works] == [True, True, False, True, False]
    assert codec.batches == [[12], [11], [13], [14], [13]]
    assert works[2].note == works[4].note == "out of reach"


def test_what_fails_for_want_of_memory_is_tried_by_itself():
    """In whoever's turn it came."""

    class Short(Recorder):
        def analyse(self, pictures):
            for k, picture in enumerate(pictures):
                if k == 2:
                    raise RuntimeError("CUDA out of memory")
                yield from super().analyse([picture])

    works = list(Analyse(Short(), batch_mpx=9)([work_of(h) for h in (12, 11, 14, 15, 16, 17)]))
    assert all(work.analysis is not None for work in works)


@pytest.mark.parametrize("given", [0, 5])
def test_a_codec_with_too_few_analyses_or_too_many_gives_nobody_another_ones(given):
    class Wrong(Split):
        def analyse(self, pictures):
            return [analysis_of(self.model_id)] * given

    works = list(Analyse(Wrong(), batch_mpx=9)([work_of(h) for h in (12, 13, 14)]))
    assert [work.note for work in works] == [None if given else "the codec gave no analysis"] * 3


def test_refusals_of_the_codec_are_taken_literally():
    class Refusing(Split):
        def analyse(self, pictures):
            raise CodecError("too small")

    (work,) = Analyse(Refusing())([work_of(5)])
    assert work.note == "too small"


def test_a_wrong_setting_ends_the_run():
    class Misplaced(Split):
        def analyse(self, pictures):
            raise ConfigError("device 'cuda': not here")

    with pytest.raises(ConfigError, match="cuda"):
        list(Analyse(Misplaced())([work_of(20), work_of(30)]))


def test_rejected_works_and_obstacles_skip_the_codec():
    codec = Recorder()
    works = [rejected(source_of(None), "gone"), work_of(20, obstacle="16 bits per channel"), work_of(30)]
    gone, deep, good = Analyse(codec)(works)
    assert codec.batches == [[30]]
    assert gone.outcome is not None
    assert deep.note == "the source has 16 bits per channel"
    assert good.analysis is not None


def test_nothing_in_nothing_out():
    assert list(by_megapixels([], 1.0)) == []
