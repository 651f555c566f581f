"""The picture of the landing page shows what is published now."""

import picture
from PIL import Image


def test_the_picture_is_drawn_from_the_published_numbers() -> None:
    with Image.open(picture.PICTURE) as drawn:
        assert drawn.info["Description"] == picture.fingerprint(), "run make picture"
