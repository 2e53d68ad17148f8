from __future__ import annotations

from pathlib import Path

import pytest

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
