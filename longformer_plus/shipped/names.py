"""What a person may write for a checkpoint: a folder, a name on the hub, or one that comes with the package."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

from . import shipped_checkpoint

SHIPPED = "shipped"
_SECONDS = 5.0
_CONFIGURATIONS = ("config.json", "adapter_config.json")


def resolve_checkpoint(name: str | Path) -> str:
    """What `from_pretrained` takes for a checkpoint's name; a name that nothing can be loaded from fails in seconds.

    Args:
        name: a folder; a name on the hub; "shipped" for the masked language model that comes with the package, or
            "shipped:TASK" for its checkpoint of another task.

    Raises:
        ModuleNotFoundError: the extra `peft` is missing, for "shipped:TASK".
        OSError: it is neither a folder nor on the hub, or the hub cannot be reached.
        ValueError: nothing is shipped for the task.
    """
    text = str(name)
    if text == SHIPPED or text.startswith(f"{SHIPPED}:"):
        return str(shipped_checkpoint(text.partition(":")[2] or "fill-mask"))
    if Path(text).is_dir():
        return text
    try:
        if any(isinstance(try_to_load_from_cache(text, file), str) for file in _CONFIGURATIONS):
            return text
        _reach(text)
    except HFValidationError as error:
        raise OSError(f"{text} is neither a folder nor a name on the hub.") from error
    return text


def _reach(name: str) -> None:
    """See that the hub answers for a repository. transformers would try for a minute."""
    if constants.HF_HUB_OFFLINE:
        raise OSError(f"{name} is not a folder, and not in the hub's cache; the hub is not asked (HF_HUB_OFFLINE).")
    try:
        get_hf_file_metadata(hf_hub_url(name, _CONFIGURATIONS[0]), timeout=_SECONDS)
    except EntryNotFoundError:
        return  # adapters have no config.json
    except HfHubHTTPError as error:
        reason = str(error).strip().splitlines()[0]
        raise OSError(f"{name} is not a folder, and cannot be had from the hub: {reason}") from error
    except HFValidationError:
        raise
    except Exception as error:  # of the client, which differs between versions of huggingface_hub
        raise OSError(f"{name} is not a folder, and the hub cannot be reached: {error}") from error
