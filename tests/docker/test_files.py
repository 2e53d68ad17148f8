"""No container is built here; what can be checked is that the files say the same as the Makefile and `make run`."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from backend.demo.label_studio import NO_OUTGOING_TRAFFIC, REQUIREMENT, Studio, StudioFolder
from backend.values.settings import Settings

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
OWN = {"LABEL_STUDIO_BASE_DATA_DIR", "DJANGO_DB", "NO_PROXY"}
"""What `make run` sets and the container's image has by itself."""


def compose(name: str = "compose.yaml") -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DOCKER / name).read_text(encoding="utf-8"))
    return loaded


def steps() -> list[str]:
    """The Dockerfile's instructions, continued lines joined."""
    text = (DOCKER / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_label_studio_gets_the_variables_with_which_make_run_starts_it(tmp_path: Path) -> None:
    by_make = Studio(StudioFolder(tmp_path), 8080).environment()
    by_compose = compose()["services"]["label-studio"]["environment"]
    assert set(by_compose) == set(by_make) - OWN
    for name in ("LABEL_STUDIO_ML_BLOCK_LOCAL_IP", "SSRF_PROTECTION_ENABLED", *NO_OUTGOING_TRAFFIC):
        assert by_compose[name] == by_make[name]


def test_both_run_the_same_label_studio() -> None:
    assert compose()["services"]["label-studio"]["image"].split(":")[1] == REQUIREMENT.split("==")[1]


def test_maskloom_gets_only_variables_that_it_reads() -> None:
    known = {f"MASKLOOM_{name.upper()}" for name in Settings.model_fields}
    assert set(compose()["services"]["maskloom"]["environment"]) <= known


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_every_variable_of_a_compose_file_is_explained(name: str) -> None:
    used = set(re.findall(r"\$\{(\w+)", (DOCKER / name).read_text(encoding="utf-8")))
    explained = set(re.findall(r"^(\w+)=", (DOCKER / "example.env").read_text(encoding="utf-8"), re.MULTILINE))
    assert used <= explained


def test_both_services_see_the_same_photos_at_the_same_place() -> None:
    services = compose()["services"]
    root = services["label-studio"]["environment"]["LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT"]
    assert services["maskloom"]["environment"]["MASKLOOM_LOCAL_ROOTS"] == root
    mounts = [[volume for volume in service["volumes"] if f":{root}/" in volume] for service in services.values()]
    assert mounts[0] == mounts[1] != []


def test_the_compose_files_build_targets_that_the_dockerfile_has() -> None:
    targets = {step.split(" AS ")[1] for step in steps() if step.startswith("FROM")}
    for name in ("compose.yaml", "compose.gpu.yaml"):
        assert compose(name)["services"]["maskloom"]["build"]["target"] in targets


def test_the_dockerfile_installs_and_serves_as_the_makefile_does() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("$(BIN)", ".venv/bin")
    install = ".venv/bin/python -m pip install --constraint constraints.txt --editable '.[demo,engines]'"
    assert install in makefile
    assert steps().count(f"RUN {install}") == 2
    assert ".venv/bin/maskloom serve --port" in makefile
    (command,) = [step for step in steps() if step.startswith("CMD [")]
    assert command.startswith('CMD [".venv/bin/maskloom", "serve"')


def test_the_dockerfile_installs_nothing_but_the_versions_of_the_constraints() -> None:
    installs = [step for step in steps() if "pip install" in step]
    assert len(installs) == 3
    assert all("--constraint constraints.txt" in step for step in installs)


def test_what_the_dockerfile_copies_exists_and_is_not_ignored() -> None:
    ignored = (DOCKER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    copied = [name for step in steps() if step.startswith("COPY") for name in step.split()[2:-1]]
    assert copied
    for name in copied:
        assert (ROOT / name).exists(), name
        assert f"!{name}" in ignored


def test_the_server_does_not_run_as_root() -> None:
    user = [step for step in steps() if step.startswith("USER")]
    assert user == ["USER maskloom"]
    assert steps().index(user[0]) < next(i for i, step in enumerate(steps()) if "pip install" in step)


def test_the_server_writes_nowhere_but_to_its_volumes_and_gains_no_rights() -> None:
    server = compose()["services"]["maskloom"]
    assert (server["read_only"], server["cap_drop"], server["security_opt"]) == (True, ["ALL"], ["no-new-privileges:true"])
    home = next(step for step in steps() if step.startswith("ENV")).partition("MASKLOOM_HOME=")[2].split()[0]
    written = {volume.split(":")[1] for volume in server["volumes"] if not volume.endswith(":ro")} | set(server["tmpfs"])
    assert {home, "/tmp"} <= written


def test_the_makefile_is_understood_by_make() -> None:
    done = subprocess.run(["make", "-n", "help"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
