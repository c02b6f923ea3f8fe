"""The gateway, request by request."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pipeline.archive import open_archive
from pipeline.serve.ranges import cut
from pipeline.serve.renders import WIDEST_PX


@pytest.fixture(scope="module")
def ids(served: str) -> list[str]:
    """Ids of the JPEG photos, by name."""
    rows = open_archive(served).metrics(["image_id", "source_uri", "source_format"]).to_pylist()
    return [r["image_id"] for r in sorted(rows, key=lambda r: r["source_uri"]) if r["source_format"] == "JPEG"]


def test_a_picture_comes_in_its_own_format_and_in_others(gateway: Callable, ids: list[str]) -> None:
    client = gateway()
    own = client.get(f"/images/{ids[0]}")
    assert own.headers["content-type"] == "image/jpeg"
    assert max(Image.open(io.BytesIO(own.content)).size) == 640
    small = client.get(f"/images/{ids[0]}?w=100&format=webp")
    image = Image.open(io.BytesIO(small.content))
    assert (image.format, image.width) == ("WEBP", 100)
    assert small.headers["content-type"] == "image/webp"


def test_a_picture_is_never_enlarged_and_keeps_its_alpha(gateway: Callable, served: str) -> None:
    rows = open_archive(served).metrics(["image_id", "source_format"]).to_pylist()
    [png] = [row["image_id"] for row in rows if row["source_format"] == "PNG"]
    client = gateway()
    assert Image.open(io.BytesIO(client.get(f"/images/{png}?w=4000").content)).size == (64, 48)
    small = Image.open(io.BytesIO(client.get(f"/images/{png}?w=16").content))
    assert (small.format, small.mode, small.size) == ("PNG", "RGBA", (16, 12))


def test_an_etag_saves_decoding_and_differs_by_wish(gateway: Callable, ids: list[str]) -> None:
    client = gateway()
    tag = client.get(f"/images/{ids[0]}?w=64").headers["etag"]
    assert tag != client.get(f"/images/{ids[0]}?w=65").headers["etag"]
    fresh = gateway()
    again = fresh.get(f"/images/{ids[0]}?w=64", headers={"If-None-Match": f'"other", W/{tag}'})
    assert (again.status_code, again.content) == (304, b"")
    assert "cache_misses_total 0" in fresh.get("/metrics").text


@pytest.mark.parametrize(
    ("header", "status", "start", "stop"),
    [
        ("bytes=0-9", 206, 0, 10),
        ("bytes=10-", 206, 10, None),
        ("bytes=-7", 206, -7, None),
        ("bytes=5-999999999", 206, 5, None),
        ("bytes=0-1,4-5", 200, 0, None),
        ("bytes=9-3", 200, 0, None),
        ("lines=1-2", 200, 0, None),
        ("bytes=-", 200, 0, None),
    ],
)
def test_ranges(gateway: Callable, ids: list[str], header: str, status: int, start: int, stop: int | None) -> None:
    client = gateway()
    whole = client.get(f"/images/{ids[1]}?w=80").content
    part = client.get(f"/images/{ids[1]}?w=80", headers={"Range": header})
    assert part.status_code == status
    assert part.content == whole[start:stop]
    if status == 206:
        assert part.headers["content-range"].endswith(f"/{len(whole)}")


def test_ranges_past_the_end_and_of_another_version(gateway: Callable, ids: list[str]) -> None:
    client = gateway()
    path = f"/images/{ids[1]}?w=80"
    assert client.get(path, headers={"Range": "bytes=99999999-"}).status_code == 416
    assert client.get(path, headers={"Range": "bytes=0-9", "If-Range": '"old"'}).status_code == 200
    assert cut(b"", "bytes=0-0") == (416, b"", {"Content-Range": "bytes */0"})


@pytest.mark.parametrize(
    "path",
    [
        "/images/..%2F..%2Fetc%2Fpasswd",
        "/images/%2e%2e/%2e%2e/etc/passwd",
        "/../../etc/passwd",
        "/images/" + "0" * 32,
        "/images/" + "0" * 31,
        "/images/" + "A" * 32,
        "/images/{id}%00",
        "/images/{id}/../../archive.json",
        "/data/",
    ],
)
def test_nothing_but_pictures_of_the_archive_is_given(
    gateway: Callable, ids: list[str], served: str, path: str
) -> None:
    answer = gateway().get(path.replace("{id}", ids[0]))
    assert answer.status_code == 404
    assert served not in answer.text


@pytest.mark.parametrize(
    "query", [f"w={WIDEST_PX + 1}", "w=0", "w=-5", "w=1e9", "w=99999999999999", "w=", "format=exe", "x=1"]
)
def test_wishes_out_of_bounds_are_refused(gateway: Callable, ids: list[str], query: str) -> None:
    answer = gateway().get(f"/images/{ids[0]}?{query}")
    assert answer.status_code == 400
    assert "expected" in answer.text


def test_it_is_read_only(gateway: Callable, ids: list[str]) -> None:
    client = gateway()
    assert {client.request(m, f"/images/{ids[0]}").status_code for m in ("POST", "PUT", "DELETE", "PATCH")} == {405}


def test_the_cache_stays_within_its_bytes(gateway: Callable, ids: list[str]) -> None:
    client = gateway(cache_bytes=6000)
    for width in range(40, 60):
        assert client.get(f"/images/{ids[2]}?w={width}").status_code == 200
    kept = int(re.findall(r"cache_bytes (\d+)", client.get("/metrics").text)[0])
    assert 0 < kept <= 6000
    client.get(f"/images/{ids[2]}?w=59")
    assert "cache_hits_total 1" in client.get("/metrics").text


def test_health_and_metrics_and_rows(gateway: Callable, ids: list[str], served: str) -> None:
    client = gateway()
    assert client.get("/healthz").json() == {"status": "ok", "pictures": 6}
    assert client.get(f"/images/{ids[0]}.json").json()["codec"] == "webp"
    text = client.get("/metrics").text
    assert "# TYPE shardpress_gateway_requests_total counter" in text
    assert 'shardpress_gateway_requests_total{status="200"} 2' in text
    for line in text.splitlines():
        assert line.startswith("# TYPE ") or re.fullmatch(r'[a-z_]+(\{status="\d+"\})? [\d.e+-]+', line)


def test_the_gallery_shows_searches_and_escapes(gateway: Callable) -> None:
    client = gateway()
    every = client.get("/")
    assert every.text.count("<li>") == 6
    assert "onerror=alert" in every.text
    assert "<img src=x" not in every.text
    assert client.get("/", params={"q": "beacon"}).text.count("<li>") == 1
    worst = client.get("/", params={"q": "psnr_db < 99 and codec = 'webp'"})
    assert worst.text.count("<li>") >= 5
    wrong = client.get("/", params={"q": "psnr_db <"})
    assert 'role="alert"' in wrong.text
    assert "<script>" not in client.get("/", params={"q": '"><script>alert(1)</script>'}).text


def test_the_gallery_has_orders_and_pages_keep_them(gateway: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.serve import gallery

    client = gateway()
    seen = {}
    for order in gallery.ORDERS:
        answer = client.get("/", params={"order": order, "q": "codec = 'webp'"})
        seen[order] = re.findall(r'src="/images/([0-9a-f]{32})', answer.text)
        assert f"<b>{order}</b>" in answer.text
        assert f'name="order" value="{order}"' in answer.text
    assert len({tuple(ids) for ids in seen.values()}) >= 3
    assert len({frozenset(ids) for ids in seen.values()}) == 1
    wrong = client.get("/", params={"order": "beauty"})
    assert (wrong.status_code, "expected one of name, worst quality" in wrong.text) == (400, True)
    monkeypatch.setattr(gallery, "PER_PAGE", 4)
    assert "page=2&amp;order=largest" in client.get("/", params={"order": "largest"}).text
    assert client.get("/favicon.ico").status_code == 204


def test_every_answer_carries_safe_headers(gateway: Callable) -> None:
    for path in ("/", "/nothing", "/metrics"):
        headers = gateway().get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]


def test_a_token_is_asked_for_everywhere_but_health(gateway: Callable, ids: list[str]) -> None:
    client = gateway(token="s3cret-tøken")
    for path in ("/", f"/images/{ids[0]}", "/metrics"):
        answer = client.get(path)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Basic")
    assert client.get("/healthz").status_code == 200
    assert client.get("/", auth=("anyone", "s3cret-tøken")).status_code == 200
    assert client.get("/", headers={"Authorization": "Bearer s3cret-tøken".encode()}).status_code in (200, 401)
    assert client.get("/", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert client.get("/", headers={"Authorization": "Basic ***"}).status_code == 401


def test_without_a_token_only_local_names_are_answered(gateway: Callable) -> None:
    client = gateway(hosts=frozenset({"localhost", "127.0.0.1", "[::1]"}))
    assert client.get("/", headers={"Host": "localhost:8080"}).status_code == 200
    assert client.get("/", headers={"Host": "[::1]:8080"}).status_code == 200
    assert client.get("/", headers={"Host": "rebound.example:8080"}).status_code == 403


def test_a_damaged_payload_is_a_500_that_tells_no_paths(tmp_path: Path, photos: list[Path]) -> None:
    from starlette.testclient import TestClient

    from pipeline.data.pictures import Pictures
    from pipeline.serve.app import app
    from pipeline.serve.renders import Renders
    from tests.data_tools import made

    archive = made.press(photos[0], tmp_path / "archive", "jpeg", 50)
    pictures = Pictures(archive.uri)
    [part] = (tmp_path / "archive" / "data").iterdir()
    part.write_bytes(part.read_bytes()[:-3000])
    client = TestClient(app(Renders(pictures)), raise_server_exceptions=False)
    answer = client.get(f"/images/{pictures.table['image_id'][0]}")
    assert answer.status_code == 500
    assert str(tmp_path) not in answer.text


def test_what_is_committed_later_shows_up(tmp_path: Path, photos: list[Path]) -> None:
    from pipeline.data.pictures import Pictures
    from pipeline.serve.renders import Renders
    from tests.data_tools import made

    for photo in photos[:2]:
        (tmp_path / "source").mkdir(exist_ok=True)
        Image.open(photo).resize((64, 64)).save(tmp_path / "source" / photo.name)
        made.press(tmp_path / "source", tmp_path / "archive", "jpeg", 50)
        if photo == photos[0]:
            renders = Renders(Pictures(str(tmp_path / "archive")), refresh_s=0)
            assert len(renders.fresh()) == 1
    assert len(renders.fresh()) == 2
