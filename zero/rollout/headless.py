"""python -m zero.rollout.headless FLAGS: the workers of one more node of a vLLM server, without an API of their own.

Does what `vllm serve --headless` does, also where the package has another name than vllm, as its CPU build has. FLAGS hold
the address of the first node and the flags of its server; python -m launch.serve starts this.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Work until the first node ends, or a signal."""
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    command = ServeSubcommand()
    command.subparser_init(parser.add_subparsers())
    options = parser.parse_args(["serve", "--headless", *sys.argv[1:]])
    command.validate(options)
    command.cmd(options)


if __name__ == "__main__":  # its workers are spawned, and import this module again
    main()
