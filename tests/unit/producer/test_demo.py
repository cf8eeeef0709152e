"""The demonstration leaves alone what lies in its folder."""

from pathlib import Path

from twofold_producer.dev import demo


def test_pictures_are_drawn_beside_those_that_are_there(tmp_path: Path) -> None:
    own = tmp_path / "hills.png"
    own.write_bytes(b"my holiday")

    drawn = demo._draw(tmp_path)

    assert own.read_bytes() == b"my holiday"
    assert [path.name for path in drawn] == ["hills-2.png", "rings.png", "letters.png"]
    # Its own of another time are as good.
    assert demo._draw(tmp_path) == drawn
