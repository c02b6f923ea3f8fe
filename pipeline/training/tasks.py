"""Which trainer a run wants: that of codecs, or that of super-resolvers."""

from __future__ import annotations

from pipeline.nn.spec import SuperresSpec
from pipeline.training.loop import Trainer
from pipeline.training.spec import TrainSpec


def trainer_of(spec: TrainSpec) -> type[Trainer]:
    """The class, to be given the spec and the photos."""
    if isinstance(spec.model, SuperresSpec):
        from pipeline.training.superres import SuperresTrainer

        return SuperresTrainer
    return Trainer
