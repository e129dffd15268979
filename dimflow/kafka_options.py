"""The options by which a word of the command finds and greets the brokers.

Knows no client and no topic. Invariant: a password is read from a file, never from the command line.
"""

import argparse
from pathlib import Path
from typing import Any

from dimflow.model_files import read_text
from model_contract.process_settings import SettingError

__all__ = ["add_client_arguments", "client_options"]


def add_client_arguments(parser: "argparse.ArgumentParser | argparse._ArgumentGroup") -> None:
    """Declares patience and the ways to say who one is."""
    parser.add_argument("--connect-timeout-s", type=float, default=30.0, metavar="S", help="default: %(default)s")
    parser.add_argument("--security-protocol", choices=("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"))
    parser.add_argument("--sasl-username", metavar="NAME", help="user of SASL/PLAIN")
    parser.add_argument("--sasl-password-file", type=Path, metavar="FILE", help="file that holds the password alone")
    parser.add_argument("--ssl-cafile", type=Path, metavar="FILE", help="certificates to trust")


def client_options(args: argparse.Namespace) -> dict[str, Any]:
    """Settings of kafka-python's clients.

    Raises:
        SettingError: a user without a password, or a file that cannot be read.
    """
    options: dict[str, Any] = {}
    if args.security_protocol is not None:
        options["security_protocol"] = args.security_protocol
    if args.ssl_cafile is not None:
        options["ssl_cafile"] = str(args.ssl_cafile)
    if args.sasl_username is not None:
        if args.sasl_password_file is None:
            name = "--sasl-password-file"
            raise SettingError(name, "nothing", "the file with the password of --sasl-username")
        password = read_text("--sasl-password-file", args.sasl_password_file).strip()
        options |= {
            "sasl_mechanism": "PLAIN",
            "sasl_plain_username": args.sasl_username,
            "sasl_plain_password": password,
        }
    return options
