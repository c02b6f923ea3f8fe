"""What `--help` of each job ends with; a test runs every line through the parser of its job."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "recompress": (
        "shardpress recompress --source photos --archive archive",
        "shardpress recompress --source 's3://photos/2026/*.tar' --archive s3://cold/photos codec.quality=70",
        "shardpress recompress --config configs/recompress/nightly.yaml --json",
        "shardpress recompress --source photos --archive archive --retry rejected",
    ),
    "restore": (
        "shardpress restore --archive archive --out pictures",
        "shardpress restore --archive archive --out worst --where 'psnr_db < 33' --format png",
        "shardpress restore --archive s3://cold/photos --out . --id 0f3a5c7e9b1d2f4a6c8e0b2d4f6a8c0e",
        "shardpress restore --archive archive --out large --where 'width < 800' --scale 2",
    ),
    "verify": (
        "shardpress verify --archive archive",
        "shardpress verify --archive s3://cold/photos --all --json",
        "shardpress verify --archive archive --sweep",
    ),
    "prune": (
        "shardpress prune --archive archive",
        "shardpress prune --archive s3://cold/photos --where \"status = 'encoded'\" --yes",
    ),
    "encode": (
        "shardpress encode photo.jpg",
        "shardpress encode photo.jpg small.spx --bpp 0.3",
        "shardpress encode '*.jpg' encoded/ --quality 50",
        "shardpress encode - - --psnr-db 34",
    ),
    "decode": (
        "shardpress decode photo.spx",
        "shardpress decode photo.spx photo.webp",
        "shardpress decode '*.spx' decoded/ --format jpeg",
        "shardpress decode - -",
    ),
    "evaluate": (
        "shardpress evaluate --config configs/evaluate/photos.yaml",
        "shardpress evaluate --config configs/evaluate/photos.yaml --source photos --results results sample=1000",
    ),
    "report": (
        "shardpress report --results results --out report.html",
        "shardpress report --archive archive --out archive.html",
    ),
    "train": (
        "shardpress train --config configs/train/flagship.yaml",
        "shardpress train --data photos --out .train/mine run.steps=2000",
        "shardpress train --config configs/train/transfer.yaml --data photos workers=2",
        "shardpress train --config configs/train/superres.yaml --data photos run.model.scale=3",
    ),
    "models": (
        "shardpress models",
        "shardpress models .train/mine/0123456789abcdef.safetensors --json",
    ),
    "serve": (
        "shardpress serve --archive archive",
        "shardpress serve --archive s3://cold/photos --port 9000 --cache-mb 1024",
    ),
}


def epilog_of(job: str) -> str | None:
    """The examples as click prints them unwrapped."""
    lines = EXAMPLES.get(job)
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines) if lines else None
