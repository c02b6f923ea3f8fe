"""Where images come from: files, WebDataset tar shards, Parquet tables; local or s3://."""

from pipeline.sources.base import Source
from pipeline.sources.open import KINDS, open_source

__all__ = ["KINDS", "Source", "open_source"]
