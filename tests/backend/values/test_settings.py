from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from backend.values.settings import Settings


def test_the_defaults_work_without_any_variable() -> None:
    settings = Settings()
    assert settings.engine == "embedded"
    assert settings.database_url.startswith("sqlite:///")
    assert settings.allowed_roots == (Path.cwd(),)


def test_variables_of_maskloom_and_of_label_studio_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MASKLOOM_ENGINE", "colour")
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "secret-token")
    monkeypatch.setenv("LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT", f"{tmp_path}:/elsewhere")
    settings = Settings()
    assert settings.engine == "colour"
    assert settings.label_studio_token is not None
    assert settings.label_studio_token.get_secret_value() == "secret-token"
    assert settings.allowed_roots == (tmp_path.resolve(), Path("/elsewhere"))


def test_a_token_is_never_printed() -> None:
    assert "secret-token" not in repr(Settings(label_studio_token="secret-token"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MASKLOOM_MAX_IMAGE_MEGAPIXELS", "inf"),
        ("MASKLOOM_SESSION_HOURS", "1e400"),
        ("MASKLOOM_PREFETCH_S", "inf"),
        ("MASKLOOM_HOME", "~nobody-of-this-name/x"),
        ("MASKLOOM_LOCAL_ROOTS", "/:~nobody-of-this-name"),
    ],
)
def test_numbers_without_end_and_homes_of_strangers_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError):
        Settings()


def test_a_home_folder_stands_for_its_sign(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MASKLOOM_LOCAL_ROOTS", "~/photos:/elsewhere")
    assert Settings().home_folder == tmp_path / ".cache" / "maskloom"
    assert Settings().allowed_roots == (tmp_path / "photos", Path("/elsewhere"))
