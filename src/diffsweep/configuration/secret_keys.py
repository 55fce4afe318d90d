"""Keep secrets, such as passwords and tokens of services, out of configurations, which runs write to disk."""

import re

from diffsweep.errors import UserError

# The last word of a key that holds a secret; class_token and num_tokens are none.
SECRET_KEY = re.compile(
    r"(.*_)?(api_?key|access_?key|private_?key|secret|secret_?key|password|passwd|credentials?)"
    r"|(api|auth|access|hf|hub|wandb|github|bearer)_?token|token",
    re.IGNORECASE,
)
FROM_ENVIRONMENT = re.compile(r"\$\{\s*oc\.env\b[^{}]*\}")


def refuse_secret(path: str, text: str) -> None:
    """Raise an error if a key is named like a secret and has the secret itself as its value.

    The value of such a key is to come from the environment, ``${oc.env:NAME}``: that text is what files of the run
    hold, and only the running process knows the value.

    Args:
        path: the full path of the key, such as ``dataset.api_key``.
        text: its value, before interpolations are resolved.

    Raises:
        UserError: the message names the key, and does not have the value.
    """
    key = path.rpartition(".")[2].partition("[")[0]
    if text and SECRET_KEY.fullmatch(key) and not FROM_ENVIRONMENT.fullmatch(text.strip()):
        name = re.sub(r"\W", "_", key).upper()
        raise UserError(
            f"{path} is named like a secret, and files of the run would hold it; put it into the environment variable "
            f"{name} and type '{path}=${{oc.env:{name}}}'"
        )
