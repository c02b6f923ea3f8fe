"""What models there are: those that come with the package, and files of one's own, from the cards they carry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from jobs import cli
from pipeline.errors import StorageError


def models(
    files: Annotated[list[str] | None, typer.Argument(metavar="[FILE ...]", help="Model files besides.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the list as JSON, cards included.")] = False,
) -> int:
    """List models: id, kind, size, work, rate and distortion, where they come from."""
    from pipeline.codecs.learned import superres, weights

    for file in files or []:
        if _is_super_resolver(file):
            superres.packaged_bytes(superres.open_model(file))  # raises for one that is not there
        else:
            weights.packaged_bytes(weights.open_model(file))
    found = [_entry(model_id) for model_id in sorted(weights.packaged())]
    found += [_super_resolver(model_id) for model_id in sorted(superres.packaged())]
    if json:
        cli.print_json(found)
        return cli.OK
    for model in found:
        print("\n  ".join(_lines(model)))
    return cli.OK


def _entry(model_id: str) -> dict[str, Any]:
    from pipeline.codecs.learned import weights
    from pipeline.nn.spec import CODECS

    data = weights.packaged_bytes(model_id)
    model = weights.packaged_model(model_id)
    codec = CODECS[model.kind]
    default = (weights.FOLDER / ("DEFAULT" if codec == "cnn" else f"DEFAULT.{codec}")).is_file()
    entry = {"model": model_id, "codec": codec, "kind": model.kind, "bytes": len(data)}
    return entry | {
        "default": default and weights.default_model_id(codec) == model_id,
        "spec": model.spec,
        "card": model.card,
    }


def _is_super_resolver(file: str) -> bool:
    from pipeline import storage
    from pipeline.codecs.learned import weights
    from pipeline.codecs.learned.weights_checks import MALFORMED
    from pipeline.nn.spec import SuperresSpec

    try:
        return bool(weights.meta_of(storage.read_bytes(file)).get("kind") == SuperresSpec.kind)
    except (*MALFORMED, StorageError):
        return False  # whatever it is, opening it says what is wrong


def _super_resolver(model_id: str) -> dict[str, Any]:
    from pipeline.codecs.learned import superres

    data = superres.packaged_bytes(model_id)
    model = superres.parse(data)
    spec, default = model.spec, superres.trained_scales().get(model.spec.scale) == model_id
    entry = {"model": model_id, "codec": f"restore {spec.scale}x", "kind": spec.kind, "bytes": len(data)}
    return entry | {"default": default, "spec": spec.to_json(), "card": model.card}


def _lines(model: dict[str, Any]) -> list[str]:
    card, mark = model["card"], ", the default" if model["default"] else ""
    lines = [f"{model['model']}  {model['codec']}{mark}, {model['kind']}, {model['bytes'] / 1e6:.1f} MB"]
    if work := card.get("kmac_per_px"):
        lines.append("kMAC/px: " + ", ".join(f"{name} {value:.1f}" for name, value in work.items()))
    if points := card.get("validation", {}).get("bpp_psnr"):
        lines.append("validation: " + ", ".join(f"{bpp:.3f} bpp {psnr_db:.2f} dB" for bpp, psnr_db in points))
    for kind in ("clean", "coded"):
        if scores := card.get("validation", {}).get(kind):
            lines.append(f"validation, {kind}: {scores['psnr_db']:.2f} dB, {scores['gain_db']:+.2f} over bicubic")
    told = {name: value for name, value in card.items() if name not in ("kmac_per_px", "validation")}
    lines.append("from: " + (", ".join(f"{name} {_plain(value)}" for name, value in told.items()) or "no card"))
    return lines


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name} {part}" for name, part in value.items()) + ")"
    return str(value)


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run_command(models, argv, "python -m jobs.models")


if __name__ == "__main__":
    raise SystemExit(main())
