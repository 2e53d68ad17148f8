"""Every published configuration has the parameters of its official checkpoint, name by name and shape by shape."""

from __future__ import annotations

import pytest
import torch

from backend.engines.seem.releases import CONFIGS, assemble
from backend.engines.seem.wiring import DEMO, V0, V1

Keys = dict[str, dict[str, list[int]]]
WIRINGS = {wiring.name: wiring for wiring in (V0, V1, DEMO)}
NOT_PARAMETERS = {"dilation_kernel", "criterion.empty_weight"}
NAMES = {"focalt": "focal-t", "focall": "focal-l"}
NAMES |= {"samvitb": "samvit-b", "samvitl": "samvit-l"}
OFFICIAL = [
    *("focalt_unicl_lang_v0", "focalt_unicl_lang_v1", "focalt_unicl_lang_demo"),
    *("focall_unicl_lang_v0", "focall_unicl_lang_v1"),
    *("samvitb_unicl_lang_v1", "samvitl_unicl_lang_v1"),
]


@pytest.mark.parametrize("official", OFFICIAL)
def test_the_parameters_are_those_of_the_official_checkpoint(
    official: str, official_keys: dict[str, dict[str, list[int]]]
) -> None:
    backbone, *_, wiring = official.split("_")
    with torch.device("meta"):
        network = assemble(CONFIGS[NAMES[backbone]], WIRINGS[wiring])
    mine = {key: list(value.shape) for key, value in network.state_dict().items()}
    expected = {key: shape for key, shape in official_keys[official].items() if key not in NOT_PARAMETERS}
    assert mine == expected


def test_every_published_configuration_is_checked(official_keys: Keys) -> None:
    assert set(official_keys) == set(OFFICIAL)
