from pathlib import Path

import pytest

from decoders import RECIPES, DecoderError, make_decoder


def test_settings_make_the_fingerprint() -> None:
    base = {"gen_length": 32, "steps": 8}
    same = make_decoder("llada", {**base, "block_length": 32, "temperature": 0})
    assert make_decoder("llada", base).fingerprint == same.fingerprint
    for change in ({"steps": 16}, {"temperature": 0.5}, {"block_length": 8}, {"gen_length": 16}):
        assert make_decoder("llada", {**base, **change}).fingerprint != same.fingerprint


def test_the_readme_tells_of_every_recipe() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    assert [name for name in RECIPES if f"| `{name}` |" not in readme] == []


def test_every_recipe_tells_what_it_is() -> None:
    for name, kind in RECIPES.items():
        assert kind.recipe == name
        assert kind.paper and kind.models and kind.exactness and kind.visibility
        assert (kind.partner_setting is None) == (kind.partner_kind is None)


@pytest.mark.parametrize(
    ("recipe", "settings", "words"),
    [
        ("lada", {}, "did you mean 'llada'"),
        ("llada", {"step": 8}, "did you mean 'steps'"),
        ("llada", {"steps": 0}, "steps must be a whole number >= 1, got 0"),
        ("llada", {"steps": True}, "steps must be int"),
        ("llada", {"steps": 2.5}, "steps must be int, got 2.5"),
        ("llada", {"gen_length": 30, "block_length": 8}, "multiple of block_length"),
        ("llada", {"gen_length": 32, "block_length": 8, "steps": 6}, "multiple of the 4 blocks"),
        ("llada", {"remasking": "best"}, "low_confidence or random"),
        ("ar", {"temperature": -1.0}, "temperature must be >= 0"),
        ("ar", {"temperature": float("nan")}, "temperature must be >= 0"),
        ("ar", {"steps": 3}, "ar has no setting 'steps'"),
    ],
)
def test_what_cannot_run_is_refused(recipe: str, settings: dict[str, object], words: str) -> None:
    with pytest.raises(DecoderError, match=words):
        make_decoder(recipe, settings)
