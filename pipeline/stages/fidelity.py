"""Task fidelity: does a classifier see the same in the decoded picture as in the source, and is it right?

`label_pattern` finds the class name of an image in its file name (or member name): the first group, or the whole
match. `classes` holds one class name a line, line number = class index, or is "imagenet", for the names that
torchvision gives its 1000 classes ("_" and " " are the same then). `label_column` takes the index, or the name, from
the image's own record instead.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.records import SourceImage
from pipeline.stages.trial import Task

IMAGENET = "imagenet"


@dataclass(frozen=True)
class Fidelity:
    """A torchvision classifier and where labels are found.

    `weights` is a URI, or "default" for torchvision's own; `classes` is one, or "imagenet".
    """

    network: str
    weights: str = "default"
    classes: str | None = None
    label_pattern: str | None = None
    label_column: str | None = None

    def task(self, device: str) -> Task:
        """Builds the classifier; imports torch. Raises ConfigError for a network or weights that do not fit."""
        from pipeline.nn.vision import Classifier

        data = None if self.weights == "default" else storage.read_bytes(self.weights)
        classifier = Classifier(self.network, data, device)
        return Task(classifier.top1, functools.partial(self.label_of, names=self._names()))

    def spec(self) -> dict[str, Any]:
        """What decides the columns it fills; part of setting ids."""
        return {name: getattr(self, name) for name in ("network", "weights", "label_pattern", "label_column")}

    def _names(self) -> dict[str, int]:
        if self.classes is None:
            return {}
        if self.classes == IMAGENET:
            from pipeline.nn.vision import class_names

            return {name.replace(" ", "_"): at for at, name in enumerate(class_names(self.network))}
        lines = storage.read_bytes(self.classes).decode("utf-8").splitlines()
        names = {line.strip(): at for at, line in enumerate(lines) if line.strip()}
        if not names:
            raise ConfigError(f"fidelity.classes: {self.classes} is empty; expected one class name a line")
        return names

    def label_of(self, source: SourceImage, names: Mapping[str, int]) -> int | None:
        """The class index of an image, None when it has none that is known."""
        if self.label_column is not None:
            value: Any = source.passthrough.get(self.label_column)
            value = value.as_py() if hasattr(value, "as_py") else value
            value = value.decode("utf-8", "replace").strip() if isinstance(value, bytes) else value
            return value if isinstance(value, int) else self._index_of(str(value), names)
        if self.label_pattern is None:
            return None
        match = re.search(self.label_pattern, source.source_uri.rsplit("/", 1)[-1])
        return None if match is None else self._index_of(match.group(1 if match.re.groups else 0), names)

    def _index_of(self, name: str, names: Mapping[str, int]) -> int | None:
        if self.classes == IMAGENET:
            name = name.replace(" ", "_")
        if name in names:
            return names[name]
        return int(name) if name.isdigit() and not names else None
