"""The long campaign: ``make faults ARGS="--cases 1000 --markdown FILE"``."""

import argparse
import random
import sys
import time

from tqdm import tqdm

from setformer_mm.utils.files import write_atomically

from .campaign import Campaign
from .groups import GROUPS, cases_of, import_host_libraries


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make faults", description="Run a campaign of faults and print figures."
    )
    parser.add_argument(
        "--cases", type=int, default=1000, help="how many in all (default: 1000)"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=float("inf"),
        help="begin no case after so many (default: as long as it takes)",
    )
    parser.add_argument(
        "--groups",
        nargs="+",
        choices=GROUPS,
        metavar="GROUP",
        default=list(GROUPS),
        help=f"some of: {', '.join(GROUPS)}",
    )
    parser.add_argument("--seed", type=int, help="of what is drawn; new by default")
    parser.add_argument("--markdown", metavar="FILE", help="write the figures there")
    args = parser.parse_args()
    if args.cases < 1:
        parser.error(f"--cases must be at least 1, got {args.cases}")
    if args.seed is None:
        args.seed = random.SystemRandom().randrange(2**32)
    return args


def main() -> None:
    args = parse_args()
    print(f"seed {args.seed}", flush=True)
    start = time.perf_counter()
    import_host_libraries()
    campaign = Campaign(args.seed)
    numbers = cases_of(args.groups, args.cases)
    cases = campaign.draw(GROUPS, numbers)
    try:
        for name, case in tqdm(cases, total=sum(numbers.values()), unit=" cases"):
            if failure := campaign.run(name, case):
                tqdm.write(f"FAILED: {failure}", file=sys.stderr)
            if time.perf_counter() - start > 60 * args.minutes:
                break
    finally:  # also the figures of a campaign that is interrupted
        campaign.end()
        seconds = time.perf_counter() - start
        text = f"{campaign.markdown()}\n\nSeed {args.seed}, {seconds:.0f} s in all.\n"
        print(text)
        if args.markdown:
            write_atomically(args.markdown, text)
    if campaign.failures:
        sys.exit(f"error: {len(campaign.failures)} cases failed (seed {args.seed})")


if __name__ == "__main__":
    main()
