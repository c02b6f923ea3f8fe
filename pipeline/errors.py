"""Every error this project raises on purpose, in one tree.

    PipelineError
    +-- ConfigError       a setting, argument or config file is wrong
    +-- StorageError      an object store or file system refused or failed
    |   +-- StoreUnavailable  all of it is out of reach, which says nothing about one file
    +-- SourceError       a source (folder, glob, shard) cannot be listed or read at all
    +-- ImageError        one image cannot be decoded; becomes a row, never stops a job
    +-- CodecError        a codec cannot represent or produce what was asked; next in the fallback chain
    +-- BitstreamError    a payload is damaged, truncated, foreign or from an unknown version
    +-- VerifyError       what was decoded is not what was encoded
    +-- ArchiveError      an archive is damaged, locked, or not an archive
    +-- MetricError       a metric is not defined for what it was given
    +-- TrainingError     a training run cannot start, resume or export

A message names the thing, what was found, what was expected and the way out.
"""


class PipelineError(Exception):
    """Base of every error above; jobs print its message and no traceback."""


class ConfigError(PipelineError):
    """A setting, argument or config file is wrong."""


class StorageError(PipelineError):
    """An object store or file system refused or failed."""


class StoreUnavailable(StorageError):
    """A whole store is out of reach (outage, expired credentials): no verdict on any one file may follow from it."""


class SourceError(PipelineError):
    """A source cannot be listed or read at all."""


class ImageError(PipelineError):
    """One image cannot be decoded."""


class CodecError(PipelineError):
    """A codec cannot represent or produce what was asked."""


class BitstreamError(PipelineError):
    """A payload is damaged, truncated, foreign or from an unknown version."""


class VerifyError(PipelineError):
    """What was decoded is not what was encoded."""


class ArchiveError(PipelineError):
    """An archive is damaged, locked, or not an archive."""


class MetricError(PipelineError):
    """A metric is not defined for what it was given."""


class TrainingError(PipelineError):
    """A training run cannot start, resume or export."""
