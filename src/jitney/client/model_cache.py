"""Where libraries keep what they download, as variables that bring it to a volume.

`HF_HOME` is left alone: the token is kept there, and a volume is read by many. So is `XDG_CACHE_HOME`, where every
program keeps what it likes, and the chunks of Xet, which are the same bytes once more.
"""

from __future__ import annotations

from collections.abc import Mapping

# By variable: the folder below the mount. The first four are Hugging Face's, TORCH_HOME is that of torch.hub.
FOLDERS: Mapping[str, str] = {
    "HF_HUB_CACHE": "huggingface/hub",
    "HUGGINGFACE_HUB_CACHE": "huggingface/hub",  # its older name
    "HF_ASSETS_CACHE": "huggingface/assets",
    "HF_DATASETS_CACHE": "huggingface/datasets",
    "SENTENCE_TRANSFORMERS_HOME": "huggingface/hub",
    "TORCH_HOME": "torch",
}


def variables(path: str) -> dict[str, str]:
    """The variables of a container that has the volume at `path`.

    >>> variables("/cache")["TORCH_HOME"]
    '/cache/torch'
    """
    return {name: f"{path}/{folder}" for name, folder in FOLDERS.items()}
