"""Embedded colour profiles (ICC.1): what a picture's numbers mean, turned into sRGB.

The model was trained on sRGB, and a result carries no profile, so that the numbers must mean sRGB
on the way in.
"""

import io
from typing import Final

from PIL import Image, ImageCms

# What a profile must say that it is for, by the mode of the pixels.
_SPACES: Final = {"L": "GRAY", "RGB": "RGB ", "CMYK": "CMYK"}


def to_srgb(image: Image.Image, profile: object) -> Image.Image:
    """A loaded picture of mode L, RGB or CMYK as RGB, by its profile if it has a sound one.

    A profile that is damaged, or for other kinds of pixels, is passed over, as browsers do: the
    numbers are then taken for sRGB, and CMYK for the ink that Pillow knows. Relative colorimetric
    with black point compensation, the usual choice for pictures. It may be a text, if a PNG has one
    of that name.
    """
    if profile and isinstance(profile, bytes):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if source.profile.xcolor_space == _SPACES[image.mode]:
                converted = ImageCms.profileToProfile(
                    image,
                    source,
                    ImageCms.createProfile("sRGB"),
                    renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
                    outputMode="RGB",
                    flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
                )
                if converted is not None:
                    return converted
        except (OSError, ImageCms.PyCMSError):
            pass
    return image.convert("RGB")
