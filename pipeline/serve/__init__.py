"""An HTTP gateway in front of an archive, with a gallery page; the extra [serve] brings what it needs."""
