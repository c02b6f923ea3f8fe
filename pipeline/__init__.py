"""shardpress: distributed batch recompression of image archives with a learned codec."""

__version__ = "0.1.0"
