"""Write ListOps sequences of the Long Range Arena, drawn from their grammar.

``python tools/make_listops.py OUT.tsv [--count 10000] [--max-length 200] [--seed 0]``

A line a sequence, as in the published files, but without their parentheses: the tokens
with spaces between them, a tab, and the value; the first line names the columns.
Training and validation are parts of one file, in which no sequence occurs twice, or two
files: give ``--skip`` the count of the first one for the second.
"""

import argparse
from itertools import islice
from pathlib import Path

SHORTEST_LIST = 4  # tokens: operator, two digits, bracket
DEEPEST = 300  # Python's stack holds less than twice as deep a recursion


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Write ListOps sequences.")
    parser.add_argument("out", type=Path, metavar="OUT.tsv", help="file to write")
    parser.add_argument("--count", type=int, default=10_000, help="sequences")
    parser.add_argument("--skip", type=int, default=0, help="sequences to leave out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--min-length", type=int, help="tokens; half of --max-length if not given"
    )
    parser.add_argument("--max-length", type=int, default=200, help="tokens")
    parser.add_argument("--max-depth", type=int, default=10, help="of the tree")
    parser.add_argument("--max-args", type=int, default=10, help="of a list")
    args = parser.parse_args()
    if args.min_length is None:
        args.min_length = max(SHORTEST_LIST, args.max_length // 2)
    if args.count < 1 or args.skip < 0 or args.seed < 0:
        parser.error("--count must be positive, --skip and --seed not negative")
    if args.max_args < 2 or not 2 <= args.max_depth <= DEEPEST:
        parser.error(
            f"--max-args must be at least 2, and --max-depth 2 to {DEEPEST}, got "
            f"{args.max_args} and {args.max_depth}"
        )
    if not SHORTEST_LIST <= args.min_length <= args.max_length:
        parser.error(
            f"lengths must be {SHORTEST_LIST} or more, and --min-length not above "
            f"--max-length, got {args.min_length} and {args.max_length}"
        )
    if args.min_length > longest(args.max_depth, args.max_args):
        parser.error(
            f"no sequence of depth {args.max_depth} with {args.max_args} arguments a "
            f"list has {args.min_length} tokens; lower --min-length"
        )
    return args


def longest(max_depth: int, max_args: int) -> int:
    """Tokens of the longest sequence that the grammar allows."""
    length = 1
    for _ in range(max_depth - 1):
        length = 2 + max_args * length
    return length


if __name__ == "__main__":
    parse_args()  # answers --help before the seconds of the imports below

from tqdm import tqdm

from setformer_mm.data.listops import listops
from setformer_mm.utils.errors import UserError
from setformer_mm.utils.files import write_atomically
from toolkit.launch import run_tool
from toolkit.outputs import require_writable_file


def main() -> None:
    args = parse_args()
    require_writable_file(args.out, "OUT.tsv")
    drawn = listops(
        args.skip + args.count,
        args.seed,
        args.min_length,
        args.max_length,
        args.max_depth,
        args.max_args,
    )
    drawn = tqdm(drawn, "sequences", args.skip + args.count, disable=None)
    drawn = islice(drawn, args.skip, None)
    try:
        lines = [f"{source}\t{value}\n" for source, value in drawn]
    except ValueError as error:
        raise UserError(f"{error}; lower --count or let lengths differ more") from error
    write_atomically(args.out, "Source\tTarget\n" + "".join(lines))
    print(f"Written: {args.count} sequences in {args.out}")


if __name__ == "__main__":
    run_tool(main)
