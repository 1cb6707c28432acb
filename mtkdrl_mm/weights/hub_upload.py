# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Uploading to the Hugging Face hub, with the errors that a user can correct."""

from collections.abc import Callable, Mapping
from typing import Any

from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.errors import first_line
from mtkdrl_mm.utils.optional_packages import import_optional

from .download import SECONDS_OF_SILENCE
from .hub import HubAddress, login_command


class HubUpload:
    """A repository of models on the Hugging Face hub that is written to.

    Token and address are huggingface_hub's (``HF_TOKEN`` or its login,
    ``HF_ENDPOINT``).

    Args:
        repo (str): The repository, ``ORG/REPO``.
        private (bool): Whether a new repository is private. Defaults to False.

    Raises:
        InputError: If huggingface_hub is not installed, ``repo`` is no name of a
            repository, or the hub cannot be reached or accepts no token.
    """

    def __init__(self, repo: str, private: bool = False) -> None:
        import_optional('huggingface_hub.errors', '--push-to-hub')  # which old versions lack
        from huggingface_hub import HfApi, constants

        try:
            address = HubAddress.parse(f'hf://{repo}', 'repository')
        except InputError:
            address = None
        if address is None or address != HubAddress(repo):
            raise InputError(
                f'--push-to-hub needs the name of a repository, ORG/REPO, but is "{repo}".'
            )
        if constants.HF_HUB_OFFLINE:
            raise InputError(f'"{repo}" cannot be pushed to while HF_HUB_OFFLINE is set: unset it.')
        self.repo, self.private = repo, private
        self._api = HfApi(library_name='mtkdrl_mm')
        self._call(self._api.whoami)

    def push(self, files: Mapping[str, str | bytes], delete: set[str], message: str) -> str:
        """Make the repository if it does not exist, and add one commit.

        Args:
            files (Mapping[str, str | bytes]): Names in the repository, and the
                path of each file or its contents.
            delete (set[str]): Files that are removed if they are there.
            message (str): The commit's message.

        Returns:
            str: URL of the commit.

        Raises:
            InputError: If the repository may not be written, or the upload
                breaks off.
        """
        import huggingface_hub as hub

        api, repo = self._api, self.repo
        self._call(lambda: api.create_repo(repo, private=self.private, exist_ok=True))
        info = self._call(lambda: api.model_info(repo, timeout=SECONDS_OF_SILENCE))
        there = {entry.rfilename for entry in info.siblings or ()}
        operations: list[Any] = [
            hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=content)
            for name, content in files.items()
        ]
        operations += [
            hub.CommitOperationDelete(path_in_repo=name)
            for name in sorted(delete & there - files.keys())
        ]
        commit = self._call(
            lambda: api.create_commit(repo, operations=operations, commit_message=message)
        )
        return str(commit.commit_url)

    def _call(self, function: Callable[[], Any]) -> Any:
        from huggingface_hub import constants, errors

        login = f'log in by `{login_command()}`, or set HF_TOKEN, with a token that may write'
        try:
            return function()
        except errors.LocalTokenNotFoundError as error:
            raise InputError(
                f'"{self.repo}" cannot be pushed to without a token: {login}.'
            ) from error
        except Exception as error:  # of requests in some versions of huggingface_hub, or of httpx
            status = getattr(getattr(error, 'response', None), 'status_code', None)
            if status in (401, 403):
                raise InputError(
                    f'{constants.ENDPOINT} does not let this token write to "{self.repo}" '
                    f'({status}): {login} to it.'
                ) from error
            raise InputError(
                f'"{self.repo}" cannot be pushed to {constants.ENDPOINT} ({first_line(error)}). '
                'Try again: what was uploaded is not uploaded a second time.'
            ) from error
