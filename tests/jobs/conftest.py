"""Small photos in folders, as the end-to-end tests have them."""

from tests.end_to_end.conftest import fill, ray_session

__all__ = ["fill", "ray_session"]
