"""Payments for the plain feature job: lines of about 210 bytes, accounts skewed, times in order.

    python3 make.py LINES > payments.ndjson
"""
import random
import sys

ACCOUNTS, MERCHANTS, DAYS = 100_000, 20_000, 30


def main(lines: int) -> None:
    rng = random.Random(1)
    start, step = 1_767_225_600_000, DAYS * 86_400_000 / lines
    out = []
    for at in range(lines):
        # A power law: the first accounts pay most.
        account = int(ACCOUNTS * rng.random() ** 2)
        merchant = int(MERCHANTS * rng.random() ** 2)
        time = start + int(at * step)
        amount = int(rng.expovariate(1 / 5_000)) + 1
        out.append(
            f'{{"id":"tx-{at:010d}","ts":{time},"account":"acc-{account:08d}","merchant":"mer-{merchant:07d}",'
            f'"amount":{amount},"currency":"EUR","channel":"card","country":"DE","terminal":"term-{merchant % 997:06d}",'
            f'"note":"payment at counter"}}\n'
        )
        if len(out) == 10_000:
            sys.stdout.writelines(out)
            out.clear()
    sys.stdout.writelines(out)


main(int(sys.argv[1]))
