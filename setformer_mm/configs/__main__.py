"""``python -m setformer_mm.configs [NAME]`` lists the configs, or prints a path."""

import argparse
import sys

from ..utils.errors import UserError
from . import FOLDER_VARIABLE, folder, names, path


def main() -> None:
    """List, or print one path."""
    parser = argparse.ArgumentParser(
        prog="python -m setformer_mm.configs",
        description="Configs that come with setformer_mm.",
    )
    parser.add_argument("name", nargs="?", help="print the path of this one")
    parser.add_argument(
        "--folder",
        action="store_true",
        help=f"print the folder of all, for the variable {FOLDER_VARIABLE}",
    )
    args = parser.parse_args()
    try:
        if args.folder:
            print(folder())
        elif args.name:
            print(path(args.name))
        else:
            print("\n".join(names()))
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
