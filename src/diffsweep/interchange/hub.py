"""Upload the folder of an exported model to the Hugging Face hub."""

import os
import re
from pathlib import Path

from diffsweep.errors import UserError
from diffsweep.interchange.formats import package

NAME = re.compile(r"[\w.-]+/[\w.-]+")


def check_name(name: str) -> None:
    """Raise a UserError unless a name is one of a repository of the hub, USER/NAME."""
    if not NAME.fullmatch(name):
        raise UserError(f"push={name}: write the repository as USER/NAME, such as push=me/my-model")


def push(folder: Path, name: str, private: bool) -> str:
    """Upload a folder to a model repository of the hub, which is made if it does not exist, and return its address.

    The hub is the one of ``HF_ENDPOINT``, and the token that of ``HF_TOKEN`` or of ``hf auth login``.

    Args:
        folder: the folder.
        name: the repository, USER/NAME.
        private: whether a new repository is private.

    Raises:
        UserError: huggingface_hub is not installed, no token is known, the hub cannot be reached, or it refuses.
    """
    hub = package("huggingface_hub")
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    if not hub.get_token():
        raise UserError(f"push={name}: no token of the hub is known; run hf auth login, or set HF_TOKEN")
    api = hub.HfApi(endpoint=endpoint)
    try:
        api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=str(folder), commit_message="A model trained with diffsweep")
    except Exception as error:  # of the library, of its HTTP client, or of the network
        why = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise UserError(f"push={name}: {endpoint} does not take the upload ({why}); the folder is {folder}") from error
    return f"{endpoint}/{name}"
