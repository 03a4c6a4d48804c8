"""Who holds which training picture of a folder: a list, or in each class a folder for every user."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from profl.bench.errors import InputError, why_unreadable

LIST = "users.csv"
"""The list, beside ``train``: a line a picture, in two columns."""

PICTURE, USER = "picture", "user"


def users_of_pictures(root: Path, pictures: Sequence[PurePosixPath]) -> list[str]:
    """Return the user who holds each training picture.

    With `LIST`, it alone says who: columns ``picture``, a path below ``train``, and ``user``. Lines of pictures that
    are not there are passed over, and pictures lie right in the folder of their class. Without, every picture is
    ``CLASS/USER/FILE``, and folders of one name in several classes are one user's.

    Parameters
    ----------
    root
        The folder above ``train``.
    pictures
        Paths below ``train``.

    Raises
    ------
    InputError
        If a picture has no user, or two; or if the list cannot be read.
    """
    path = root / LIST
    if not path.exists():
        return [_by_folder(root, picture) for picture in pictures]
    listed = _read(path)
    for picture in pictures:
        if len(picture.parts) != 2:
            raise InputError(
                f"{root}: users are in {LIST} and, as it seems, in folders such as train/{picture.parent}: "
                "move the pictures into the folders of their classes, or remove the list"
            )
        if picture not in listed:
            raise InputError(f"{path} has no user for {picture}: add a line")
    return [listed[picture] for picture in pictures]


def _by_folder(root: Path, picture: PurePosixPath) -> str:
    if len(picture.parts) != 3:
        raise InputError(
            f"{root} has no user for train/{picture}: sort all training pictures into train/CLASS/USER/, or list them "
            f"in {LIST} beside train, with the columns {PICTURE} (CLASS/FILE) and {USER}"
        )
    return picture.parts[1]


def _read(path: Path) -> dict[PurePosixPath, str]:
    if not path.is_file():  # whoever opens a pipe waits for a writer
        raise InputError(f"{path} is no file: remove it")
    users: dict[PurePosixPath, str] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if missing := {PICTURE, USER} - set(rows.fieldnames or ()):
                raise InputError(f"{path} has no column {' and no column '.join(sorted(missing))}: add it")
            for row in rows:
                picture, user = PurePosixPath((row[PICTURE] or "").strip()), (row[USER] or "").strip()
                if not user:
                    raise InputError(f"{path}, line {rows.line_num}: {picture} has no user: add one")
                if users.setdefault(picture, user) != user:
                    raise InputError(f"{path}, line {rows.line_num}: {picture} has a second user: leave one")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read ({why_unreadable(error)}): write a CSV file in UTF-8") from error
    return users
