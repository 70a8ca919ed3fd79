"""The paper's thirteen abdominal organs: names, order of their labels 1 to 13, tolerances of the surface score."""

from __future__ import annotations

ABDOMEN_TOLERANCES = {  # mm, FLARE 2022's, in the order of the paper's labels 1 to 13
    "liver": 5.0,
    "right kidney": 3.0,
    "spleen": 3.0,
    "pancreas": 5.0,
    "aorta": 2.0,
    "inferior vena cava": 2.0,
    "right adrenal gland": 2.0,
    "left adrenal gland": 2.0,
    "gallbladder": 2.0,
    "esophagus": 3.0,
    "stomach": 5.0,
    "duodenum": 7.0,
    "left kidney": 3.0,
}
ORGANS = tuple(ABDOMEN_TOLERANCES)


def organ_of(name: str) -> str:
    """The name in `ORGANS` that a class name means ("IVC", "right_kidney"), or the name itself in lower case."""
    name = name.lower().replace("_", " ").replace("-", " ").strip()
    aliases = {"ivc": "inferior vena cava", "postcava": "inferior vena cava", "gall bladder": "gallbladder"}
    aliases |= {"oesophagus": "esophagus"} | {f"{side} adrenal": f"{side} adrenal gland" for side in ("left", "right")}
    return aliases.get(name, name)
