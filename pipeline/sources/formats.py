"""Which names and first bytes say "image", and which files merely accompany images.

Nothing here decides whether an image can be decoded: an HTML page named .jpg is an image by name, and becomes a
row that says what it is.
"""

from __future__ import annotations

_IMAGES = """
jpg jpeg jpe jfif jif png apng webp avif avifs jxl jp2 j2k jpf jpx jpc j2c bmp dib gif tif tiff ppm pgm pbm pnm
pfm pam heic heif hif mpo ico tga qoi exr hdr psd dng cr2 cr3 nef arw raf orf rw2
"""
_SIDECARS = """
json jsonl ndjson txt csv tsv md rst xml yaml yml toml ini html htm log xmp thm aae cls caption py ipynb sh db sqlite
lock sha256 sha1 md5 crc parquet pq parq arrow feather spx
"""

IMAGE_SUFFIXES = frozenset(_IMAGES.split())
SIDECAR_SUFFIXES = frozenset(_SIDECARS.split())
"""Files that a folder of photos holds beside its photos; the `files` source passes over them."""

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz")
PARQUET_SUFFIXES = (".parquet", ".pq", ".parq")

_MAGIC = (
    b"\xff\xd8\xff",  # JPEG
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"II*\x00",  # TIFF, and the raw formats built on it
    b"MM\x00*",
    b"\xff\x0a",  # JPEG XL codestream
    b"\x00\x00\x00\x0cJXL \r\n\x87\n",
    b"\x00\x00\x00\x0cjP  \r\n\x87\n",
    b"\xff\x4f\xff\x51",  # JPEG 2000 codestream
)
_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1")


def suffix_of(name: str) -> str:
    """What follows the last dot of the base name, lower case; "" without a dot."""
    return name.rpartition("/")[2].rpartition(".")[2].lower() if "." in name.rpartition("/")[2] else ""


def looks_like_image(data: bytes) -> bool:
    """Whether `data` starts like a common image format, whatever its name says."""
    if data.startswith(_MAGIC):
        return True
    riff = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    return riff or (data[4:8] == b"ftyp" and data[8:12] in _BRANDS)
